"""The worker of the tests: commands that do as they are told."""

import os
import time

from pypool import command, current_call, program

begun = os.environ.get("JOURNAL", "")


@command
def echo(value):
    return value


@command
def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


@command
def meta():
    """What Python knows of the call."""
    call = current_call()
    return {"session": call.session_id, "deadline": call.deadline is not None, "trace": call.trace, "server": os.environ.get("SERVER", "")}


@command
def size(data: bytes) -> int:
    return len(data)


@command
def reverse(data: bytes) -> bytes:
    return bytes(reversed(data))


@command
def pieces(data: bytes):
    for i in range(0, len(data), 2):
        yield data[i : i + 2]


@command
def length(text: str) -> int:
    return len(text)


@command
def big(n: int):
    return "x" * n


@command
def fail(message):
    raise ValueError(message)


@command
def crash(code=1):
    os._exit(code)


@command
def hold(gate, mark):
    """Tell that it has begun, then wait at the gate, a FIFO, until the test opens it; tell when that is broken off."""
    with open(mark + ".new", "w") as f:
        f.write(os.environ.get("SERVER", ""))
    os.rename(mark + ".new", mark)
    try:
        with open(gate) as f:
            f.read()
    except BaseException:
        open(mark + ".left", "w").close()
        raise
    return os.environ.get("SERVER", "")


@command
def journal(n: str, seconds: float = 0.0):
    """Write down that it ran: one line, whole, whoever else writes."""
    fd = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, (n + "\n").encode())
    finally:
        os.close(fd)
    if seconds:
        time.sleep(seconds)
    return n


@command
def count(n: int, size: int = 0, mark: str = ""):
    """Yield n numbers, or texts of a size; leave a file when it is closed before its end."""
    try:
        for i in range(n):
            if mark:
                with open(mark + ".at", "w") as f:
                    f.write(str(i))
            yield "x" * size if size else i
    except GeneratorExit:
        if mark:
            open(mark + ".left", "w").close()
        raise


@command
def sleep(seconds: float):
    time.sleep(seconds)
    return seconds


@program("double")
def double(x: int) -> int:
    return 2 * x
