"""Handlers that are stopped, each in another place. They write "began" to a file, then "ended" when their finally blocks have run."""

import asyncio
import itertools
import os
import queue
import socket
import subprocess
import threading
import time
from typing import Any, AsyncIterator, Iterator

from pypool import Canceled, command, current_call, program, setup, shield

SETUPS = []


@setup
def prepare() -> None:
    SETUPS.append(os.getpid())


def note(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, text.encode() + b"\n")
    os.close(fd)


@command
def pid(value: Any = None) -> int:
    return os.getpid()


@command
def echo(value: Any) -> Any:
    return value


@command
def stop_in(where: str, path: str, seconds: float = 60.0) -> str:
    """Run for so many seconds, in one of these places."""
    try:
        note(path, "began")
        end = time.monotonic() + seconds
        if where == "time.sleep":
            time.sleep(seconds)
        elif where == "socket.recv":
            ours, theirs = socket.socketpair()
            with ours, theirs:
                ours.recv(1)
        elif where == "a pure loop":
            while time.monotonic() < end:
                pass
        elif where == "a loop that passes exceptions":
            while time.monotonic() < end:
                try:
                    time.sleep(0.001)
                except Exception:
                    pass
        elif where == "a lock":
            lock = threading.Lock()
            lock.acquire()
            lock.acquire(timeout=seconds)
        elif where == "queue.get":
            queue.Queue().get(timeout=seconds)
        elif where == "the join of a thread":
            event = threading.Event()
            thread = threading.Thread(target=event.wait, args=(seconds,), daemon=True)
            thread.start()
            try:
                thread.join()
            finally:
                event.set()
        elif where == "a subprocess":
            with subprocess.Popen(["sleep", str(seconds)]) as child:
                try:
                    child.wait()
                finally:
                    child.kill()
        elif where == "asyncio.run":
            asyncio.run(asyncio.sleep(seconds))
        elif where == "a generator of its own":

            def numbers() -> Iterator[float]:
                while time.monotonic() < end:
                    yield time.monotonic()

            for _ in numbers():
                pass
        elif where == "a with block":
            with open(os.devnull) as file:
                while time.monotonic() < end:
                    file.read(1)
        elif where == "current_call().canceled":
            with shield():
                while not current_call().canceled and time.monotonic() < end:
                    time.sleep(0.001)
        else:
            raise ValueError(where)
        return where
    finally:
        note(path, "ended")


@command
def long_finally(path: str) -> None:
    try:
        note(path, "began")
        time.sleep(60)
    finally:
        for _ in range(100):
            time.sleep(0.002)
        note(path, "ended")


@command
def swallow(path: str) -> None:
    try:
        note(path, "began")  # who reads it may leave at once
    except Canceled:
        note(path, "swallowed")
    while True:
        try:
            time.sleep(60)
        except Canceled:
            note(path, "swallowed")


command(name="c_code")(time.sleep)


@command
def hold_gil(path: str) -> int:
    note(path, "began")
    return sum(itertools.repeat(1, 10**13))


@command
def shielded(path: str, seconds: float) -> None:
    try:
        with shield():
            note(path, "began")
            time.sleep(seconds)
            note(path, "committed")
        note(path, "went on")
        time.sleep(60)
    finally:
        note(path, "ended")


@command
def leave_shield(value: Any = None) -> None:
    shield().__enter__()


@command(interruptible=False)
def uninterruptible(path: str, seconds: float) -> None:
    note(path, "began")
    time.sleep(seconds)
    note(path, "ended")


@command
async def coroutine(path: str, blocking: bool = False) -> None:
    try:
        note(path, "began")
        if blocking:
            time.sleep(60)
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0.01)
        note(path, "ended")


@command
def items(path: str, where: str) -> Iterator[int]:
    try:
        yield 0
        note(path, "began")
        if where == "in its code":
            time.sleep(60)
        while True:
            yield 1
            time.sleep(0.001)
    finally:
        note(path, "ended")


@command
async def async_items(path: str) -> AsyncIterator[int]:
    try:
        yield 0
        note(path, "began")
        await asyncio.sleep(60)
        yield 1
    finally:
        note(path, "ended")


@program("sleeper")
def sleeper(path: str) -> None:
    try:
        note(path, "began")
        time.sleep(60)
    finally:
        note(path, "ended")


@command
def prints(path: str) -> None:
    """Be nearly always in the runtime's own code."""
    try:
        note(path, "began")
        while True:
            print("\r" + "x" * 1000)
    finally:
        note(path, "ended")


@command
def spin(n: int) -> int:
    """Work for about n microseconds, mostly in Python's own code."""
    end = time.perf_counter_ns() + 1000 * n
    while time.perf_counter_ns() < end:
        pass
    return n


@command
async def spin_async(n: int) -> int:
    """The same, in turns with its loop."""
    end = time.perf_counter_ns() + 1000 * n
    while time.perf_counter_ns() < end:
        await asyncio.sleep(0)
    return n


@command
def spin_items(n: int) -> Iterator[int]:
    for _ in range(3):
        yield spin(n // 3) and n


@command
def leave_threads(path: str) -> None:
    """Threads and subprocesses are the handler's."""
    thread = threading.Thread(target=lambda: (time.sleep(0.3), note(path, "thread")))
    thread.start()
    note(path, "began")
    time.sleep(60)


@command
def sleep_if(n: int, seconds: float = 0.0) -> int:
    time.sleep(seconds)
    return n


@command
def hold_if(n: int, path: str = "") -> int:
    return hold_gil(path) if path else n
