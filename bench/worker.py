"""The worker script of the benchmarks."""

import json
import os
from functools import lru_cache
from time import perf_counter, sleep
from typing import Any, Dict, List

from pypool import command, setup

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
