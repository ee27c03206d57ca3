"""Faults for what came later: lines of many requests, bytes, traces, streams, polling, other encoders, logs."""

import gc
import hashlib
import json
import os
import random
import resource
import signal
import sys
import time
from typing import Any, Iterator, List

from pypool import command, current_call

try:
    import orjson
except ImportError:  # what is answered does not depend on it
    orjson = None


@command
def echo(value: Any = None) -> Any:
    return value


@command
def digest(data: bytes) -> str:
    return "%d %s" % (len(data), hashlib.sha256(data).hexdigest())


@command
def pid(value: Any = None) -> int:
    return os.getpid()


@command
def slow_pid(value: Any = None) -> int:
    time.sleep(0.0005)  # so that the host always has more for it
    return os.getpid()


def note(path: str, n: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, b"%d\n" % n)
    os.close(fd)


@command
def item(path: str, n: int, then: str = "", file: str = "") -> Any:
    """Note the number with one write, then act; the answer is the number."""
    note(path, n)
    if then == "stop":
        while True:  # who asks for its stacks continues it
            os.kill(os.getpid(), signal.SIGSTOP)
    elif then == "stop and tell":
        with open(file, "w") as out:
            out.write(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)
    elif then == "fork":
        if os.fork() == 0:
            return n
    elif then == "close":
        os.closerange(3, 4096)
    elif then == "exit":
        os._exit(3)
    elif then == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif then == "large":
        return "x" * (2 << 20)
    elif then == "no descriptor":
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    elif then == "builtins":
        import builtins

        for name in ("len", "type", "repr", "str", "isinstance", "map", "set", "min", "max", "list", "memoryview"):
            setattr(builtins, name, None)
        for name in ("json", "_json", "traceback", "inspect", "enum", "types", "warnings", "threading", "logging"):
            sys.modules[name] = None  # type: ignore[assignment]
    return n


@command
def trace(value: Any = None) -> Any:
    return [value, current_call().trace]


@command
def kind(path: str, n: int, data: Any, then: str = "") -> List[Any]:
    item(path, n, then)
    return [n, data.hex() if isinstance(data, bytes) else data, current_call().trace]


@command
def scribble_beside(flag: str) -> str:
    """A child writes random numbers over the page, of which it has a copy of the mapping, until the file is there."""
    pages = [found.channel.page for found in gc.get_objects() if type(found).__name__ == "Worker" and hasattr(found, "channel")]
    assert any(len(page) for page in pages)
    child = os.fork()
    if child == 0:
        try:
            while not os.path.exists(flag):
                for page in pages:
                    for at in range(len(page)):
                        page[at] = random.choice((0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, random.getrandbits(64), random.getrandbits(20)))
        finally:
            os._exit(0)
    return type(pages[0]).__name__


@command
def spoil_encoders() -> bool:
    def wrong(*_: Any, **__: Any) -> Any:
        return b'"wrong"'

    for module in (orjson, json, json.encoder):
        for name in ("dumps", "loads", "encode_basestring_ascii", "c_make_encoder", "JSONEncoder"):
            if hasattr(module, name):
                setattr(module, name, wrong)
    for name in ("orjson", "json", "json.encoder", "_json"):
        sys.modules[name] = None  # type: ignore[assignment]
    return orjson is not None


@command
def value(which: str) -> Any:
    return {
        "nan": {"a": [1.5, float("nan")]}, "huge": {"a": [10**300, -(2**64)]}, "wide": [{"a": 2**53 + 1, "b": 1e300, "c": "\u2028é"}] * 3,
        "surrogate": ["\ud800"], "keys": [{1: 2, "1": 3}],
    }[which]


# ------------------------------------------------------------------------------------------------------------- streams


@command
def endless() -> Iterator[int]:
    while True:
        yield os.getpid()
        time.sleep(0.001)


@command
def at_latch(latch: str, began: str) -> Iterator[int]:
    yield os.getpid()
    with open(began, "w") as out:
        out.write(str(os.getpid()))
    with open(latch) as fifo:
        fifo.read()
    yield os.getpid()


@command
def forks(path: str) -> Iterator[int]:
    """Both sides go on with the stream."""
    yield 0
    if os.fork() == 0:
        with open(path, "w") as out:
            out.write(str(os.getpid()))
    while True:
        yield 1
        time.sleep(0.001)


# -------------------------------------------------------------------------------------------------------------- output


@command
def talk(n: int, then: str = "") -> int:
    """Whole and unended lines of the call's own, and raw output of nobody's without an end."""
    print("mine %d" % n)
    os.write(2, b"nobody's %d" % n)
    print("begun %d" % n, end="", flush=True)
    sys.stderr.write("also mine %d\n" % n)
    if then == "kill":
        os.write(2, b"\x1epypool:" + b"x" * 100)
        os.kill(os.getpid(), signal.SIGKILL)
    return current_call().id


@command
def flood(began: str) -> None:
    text = b"y" * 4095 + b"\n"
    with open(began, "w") as out:
        out.write(str(os.getpid()))
    while True:
        os.write(2, text)
        print("z" * 4000)
