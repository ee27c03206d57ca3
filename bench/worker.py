"""The worker script of the benchmarks."""

import json
import os
from functools import lru_cache
from time import perf_counter, perf_counter_ns, sleep
from typing import Any, Callable, Dict, List

from pypool import command, host, setup

if "BENCH_SETUP_S" in os.environ:

    @setup
    def load() -> None:
        """Take so many seconds, as a model does."""
        sleep(float(os.environ["BENCH_SETUP_S"]))


@command
def echo(text: str) -> Dict[str, str]:
    """Return the argument: what a call costs besides its handler."""
    return {"text": text}


@command
def same(x: int) -> int:
    """Return the item: the trivial function of Map."""
    return x


@command
def busy(us: int) -> None:
    """Use the CPU for so many microseconds."""
    if us:
        end = perf_counter() + us / 1e6
        while perf_counter() < end:
            pass


@command
def idle(us: int) -> None:
    """Wait for so many microseconds, without the CPU."""
    sleep(us / 1e6)


@command
def hang() -> None:
    """Never return; stop when told to."""
    sleep(3600)


@command
def deaf() -> None:
    """Never return, whatever is raised."""
    while True:
        try:
            sleep(3600)
        except BaseException:
            pass


@command(concurrency=512)
async def aecho(text: str) -> Dict[str, str]:
    """Return the argument, as a task."""
    return {"text": text}


@command(concurrency=512)
async def aidle(us: int) -> None:
    """Wait for so many microseconds, as a task."""
    import asyncio  # the other cells' workers have none

    await asyncio.sleep(us / 1e6)


@lru_cache(maxsize=None)
def table(size: int) -> List[Dict[str, Any]]:
    """Make a table whose JSON has about so many bytes."""
    row = {"id": 1234567, "name": "a name of some length", "score": 0.12345678, "tags": ["red", "green"], "ok": True}
    return [dict(row, id=i) for i in range(size // len(json.dumps(row, separators=(",", ":"))))]


@command
def rows(size: int) -> List[Dict[str, Any]]:
    """Return that table."""
    return table(size)


@command
def dumps_seconds(size: int) -> float:
    """Return the seconds that json.dumps alone takes for that table."""
    value = table(size)
    begun = perf_counter()
    json.dumps(value, separators=(",", ":"))
    return perf_counter() - begun


@command
def text(size: int) -> str:
    """Return a string of so many characters."""
    return "x" * size


@command
def length(text: str) -> int:
    """Return the length of the argument."""
    return len(text)


@command
def bytes_in(data: bytes) -> int:
    """Return how many bytes there are."""
    return len(data)


@lru_cache(maxsize=1)
def zeros(size: int) -> bytes:
    """Make so many bytes."""
    return bytes(size)


@command
def bytes_out(size: int) -> bytes:
    """Return so many bytes."""
    return zeros(size)


@command
def bytes_fresh(size: int) -> bytes:
    """Return so many bytes that nobody has kept."""
    return b"x" * size


@command
def bytes_echo(data):  # type: ignore[no-untyped-def]
    """Return what came."""
    return data


@command
def file_in(path: str) -> int:
    """Return how many bytes the file has."""
    with open(path, "rb") as file:
        return len(file.read())


@command
def file_out(path: str, size: int) -> str:
    """Write so many bytes to the file."""
    with open(path, "wb") as file:
        file.write(zeros(size))
    return path


@command
def file_echo(path: str) -> str:
    """Write what is in the file to another one."""
    back = path + ".back"
    with open(path, "rb") as file, open(back, "wb") as out:
        out.write(file.read())
    return back


TEXT = "a text of about eighty characters, as the arguments of many small functions are together"


def timed(call: Callable[[], Any], seconds: float) -> List[int]:
    """Call again and again, a tenth of the time to warm up; what each call took, in nanoseconds."""
    spans: List[int] = []
    warm = perf_counter_ns() + int(seconds * 1e8)
    while perf_counter_ns() < warm:
        call()
    end = perf_counter_ns() + int(seconds * 1e9)
    last = perf_counter_ns()
    while last < end:
        call()
        now = perf_counter_ns()
        spans.append(now - last)
        last = now
    return spans


@command
def callback_plain(seconds: float, socket: str) -> List[int]:
    """Call a function of the host's from the handler."""
    return timed(lambda: host.echo(text=TEXT), seconds)


@command
async def callback_aio(seconds: float, socket: str) -> List[int]:
    """The same from a coroutine."""
    spans: List[int] = []
    end = perf_counter_ns() + int(seconds * 1e9)
    last = perf_counter_ns()
    while last < end:
        await host.aio.echo(text=TEXT)
        now = perf_counter_ns()
        spans.append(now - last)
        last = now
    return spans


@command
def callback_thread(seconds: float, socket: str) -> List[int]:
    """The same from a thread."""
    import threading

    spans: List[int] = []
    thread = threading.Thread(target=lambda: spans.extend(timed(lambda: host.echo(text=TEXT), seconds)))
    thread.start()
    thread.join()
    return spans


@command
def callback_http(seconds: float, socket: str) -> List[int]:
    """The same through an HTTP server on a Unix socket, on a connection that is kept."""
    import http.client
    import socket as sockets

    class Connection(http.client.HTTPConnection):
        def connect(self) -> None:
            self.sock = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
            self.sock.connect(socket)

    connection = Connection("localhost")

    def call() -> Any:
        connection.request("POST", "/echo", json.dumps({"text": TEXT}), {"Content-Type": "application/json"})
        return json.loads(connection.getresponse().read())

    return timed(call, seconds)
