"""FastAPI on uvicorn, with uvloop and httptools, one process."""

import socket

import uvicorn
from fastapi import FastAPI
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


sock = socket.create_server(("127.0.0.1", 0))
listening(sock.getsockname()[1])
config = uvicorn.Config(app, loop="uvloop", http="httptools", log_level="warning", access_log=False)
uvicorn.Server(config).run(sockets=[sock])
