"""The worker of the transcripts in testdata/transcripts."""

import time
from typing import List

from pypool import HostError, command, current_call, health, host, program, retire


@command
def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


@command
def echo(value):
    return value


@command
def whoami():
    call = current_call()
    return {"session": call.session_id, "deadline": call.deadline is not None}


@command
def fail(message: str):
    raise ValueError(message)


@command
def leave(code):
    raise SystemExit(code)


@command
def nan():
    return {"rows": [{"score": 1.5}, {"score": float("nan")}]}


@command
def count(n: int):
    yield from range(n)


@command
def broken():
    yield 1
    raise KeyError("row")


@command
def forever():
    """Yields until it is cancelled, slowly enough not to fill a pipe."""
    while True:
        yield "tick"
        time.sleep(0.01)


@command(max_batch_size=8, max_wait_ms=0.5)
def square(x: List[int]) -> List[int]:
    """Negative numbers are an error, and 13 is one too few."""
    return [ValueError("negative") if one < 0 else one * one for one in x if one != 13]


@command
def ask_host(name, keyword=None, positional=()):
    try:
        answer = getattr(host, name)(*positional, **(keyword or {}))
        return repr(answer) if type(answer) is list else answer
    except HostError as error:
        return [error.type, error.message]


@command(retire_on=KeyError)
def withdraw(reason):
    if reason is None:
        raise KeyError
    retire(reason)
    return "done"


@health
def fit():
    pass


@program("double")
class Double:
    def __call__(self, x: int) -> int:
        return 2 * x
