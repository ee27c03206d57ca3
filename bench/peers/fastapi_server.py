"""FastAPI on uvicorn, with uvloop and httptools, one process."""

import socket
from functools import lru_cache

import uvicorn
from fastapi import FastAPI, Request, Response
from peer import listening
from pydantic import BaseModel

app = FastAPI()


class Message(BaseModel):
    """What is sent, and sent back."""

    text: str


@app.post("/")
async def echo(message: Message) -> Message:
    """Answer one request; async, which spares it a thread."""
    return message


OCTETS = "application/octet-stream"


@app.post("/in")
async def take(request: Request) -> Response:
    """Answer with the number of bytes."""
    return Response(str(len(await request.body())), media_type="text/plain")


@app.post("/out")
async def give(request: Request) -> Response:
    """Answer with so many bytes."""
    return Response(zeros(int(await request.body())), media_type=OCTETS)


@app.post("/echo")
async def both(request: Request) -> Response:
    """Answer with the same bytes."""
    return Response(await request.body(), media_type=OCTETS)


@lru_cache(maxsize=1)
def zeros(size: int) -> bytes:
    """Make so many bytes."""
    return bytes(size)


sock = socket.create_server(("127.0.0.1", 0))
listening(sock.getsockname()[1])
config = uvicorn.Config(app, loop="uvloop", http="httptools", log_level="warning", access_log=False)
uvicorn.Server(config).run(sockets=[sock])
