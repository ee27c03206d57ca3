"""The worker behind the examples of docs/errors.md."""

import os
import sys
import time
from typing import Any, Dict

from pypool import _bind, command, host


@command
def greet(name: str, greeting: str = "Hello") -> str:
    return f"{greeting}, {name}!"


@command
def convert(text: str) -> float:
    return float(text)


@command
def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@command
def scores() -> Dict[str, Any]:
    return {"rows": [{"score": 1.0}, {"score": float("nan")}]}


@command
def ask_host() -> None:
    host.ask()


@command
def letters(count: int) -> str:
    return "x" * count


@command
def leave() -> None:
    print("the licence server said no", file=sys.stderr)
    os._exit(3)


@command
def noise() -> None:
    """Write to every descriptor there is, the protocol's too."""
    for fd in range(3, 256):
        try:
            os.write(fd, b"loading model...\n")
        except OSError:
            pass


@command
def sabotage() -> None:
    """Break pypool itself, for the next command that needs its arguments bound."""
    _bind.bind = None  # type: ignore[assignment]
