"""Commands that share a worker, and some that want one of their own."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

from pypool import Canceled, command, current_call, shield

log = logging.getLogger("concurrent")


def note(path, word):
    with open(path, "a") as file:
        file.write(word + "\n")


@command(concurrency=512)
async def nap(seconds):
    await asyncio.sleep(seconds)
    return os.getpid()


@command(concurrency=64)
async def echo(value):
    return value


@command(concurrency=64)
async def hold(mark, gate):
    """Writes to the mark, and waits until the gate is there."""
    note(mark, "begun")
    while not Path(gate).exists():
        await asyncio.sleep(0.005)
    return os.getpid()


@command(concurrency=2)
async def two(mark, gate):
    return await hold(mark, gate)


@command
def pid():
    return os.getpid()


@command(max_batch_size=4, max_wait_ms=60_000)
def company(x):
    return x


@command
def plain_hold(mark, gate):
    note(mark, "begun")
    while not Path(gate).exists():
        time.sleep(0.005)
    return os.getpid()


@command(concurrency=64)
async def fails(text):
    await asyncio.sleep(0)
    raise ValueError(text)


@command(concurrency=64)
async def who(seconds=0.02):
    """What the call knows of itself, before and after others have run, and in a task of its own."""
    call = current_call()
    await asyncio.sleep(seconds)
    again = current_call()

    async def inner():
        await asyncio.sleep(0)
        return current_call().id

    return [call.id, again.id, await asyncio.ensure_future(inner()), call.session_id, await asyncio.get_event_loop().run_in_executor(None, threads)]


def threads():
    """In a thread that has no context."""
    try:
        return current_call().id
    except LookupError:
        return None


@command(concurrency=64)
async def says(text, gate=None):
    print(text, end="")
    log.info("log %s", text)
    await asyncio.sleep(0.02)
    print(" and " + text)
    return current_call().id


@command(concurrency=64)
async def cleans(mark):
    """Waits for ever, and cleans up when it is canceled."""
    note(mark, "begun")
    try:
        await asyncio.sleep(3600)
    finally:
        await asyncio.sleep(0.01)
        note(mark, "cleaned")


@command(concurrency=64)
async def swallows(mark):
    """Does not let itself be canceled."""
    note(mark, "begun")
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)


@command(concurrency=64)
async def shielded(mark, seconds):
    with shield():
        note(mark, "begun")
        await asyncio.sleep(seconds)
        note(mark, "committed")
    await asyncio.sleep(3600)


@command(concurrency=64, interruptible=False)
async def whole(mark, seconds):
    note(mark, "begun")
    await asyncio.sleep(seconds)
    note(mark, "whole")


@command(concurrency=64)
async def blocks(mark, seconds):
    note(mark, "begun")
    block_the_loop(seconds)


def block_the_loop(seconds):
    time.sleep(seconds)


@command(concurrency=64)
async def deep():
    await deep_inside()


async def deep_inside():
    await asyncio.gather(in_a_task_of_its_own())


async def in_a_task_of_its_own():
    await asyncio.sleep(3600)


@command(concurrency=64)
async def dies(how, gate=None, mark=None):
    if mark:
        note(mark, "begun")
    if gate:
        while not Path(gate).exists():
            await asyncio.sleep(0.005)
    if how == "exit":
        os._exit(7)
    if how == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if how == "closed":
        os.closerange(3, 1024)
    os.kill(os.getpid(), signal.SIGKILL)


@command(concurrency=64)
async def leaves(how):
    """Ends its task in ways that would end a program."""
    await asyncio.sleep(0)
    if how == "SystemExit":
        sys.exit(3)
    if how == "KeyboardInterrupt":
        raise KeyboardInterrupt
    if how == "Canceled":
        raise Canceled("by itself")
    if how == "cancel":
        asyncio.current_task().cancel() if hasattr(asyncio, "current_task") else None
        await asyncio.sleep(1)
    if how == "all":
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()
        return "canceled"
    if how == "stop":
        asyncio.get_event_loop().stop()
        await asyncio.sleep(0)
        return "stopped"
    if how == "subtask":
        async def exits():
            sys.exit(3)
        task = asyncio.ensure_future(exits())
        await asyncio.wait([task])
        return "survived"


@command(concurrency=64)
async def forks():
    pid = os.fork()
    if pid == 0:
        await asyncio.sleep(0)
        return "the child answers"
    _, status = os.waitpid(pid, 0)
    return status


@command(concurrency=64)
async def count(n, size=1, mark=None):
    try:
        for i in range(n):
            yield i if size == 1 else str(i) + "x" * size
    finally:
        if mark:
            note(mark, "closed")


@command(concurrency=64)
async def ticks(mark):
    """An item, and then nothing more."""
    try:
        yield 1
        await asyncio.sleep(3600)
    finally:
        note(mark, "closed")


@command(concurrency=64)
async def forges(text):
    """Writes a line to the host past the runtime."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink("/proc/self/fd/" + name) == FD_OUT:
                os.write(int(name), text.encode() + b"\n")
    await asyncio.sleep(3600)


FD_OUT = ""


@command
def learn_channel():
    """Finds the pipe to the host: the only one beside stderr that is open for writing and is nobody else's."""
    global FD_OUT
    import fcntl

    stderr = os.readlink("/proc/self/fd/2")
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink("/proc/self/fd/" + name)
            if target.startswith("pipe:") and target != stderr and fcntl.fcntl(int(name), fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY and int(name) >= 100:
                found.append((int(name), target))
    FD_OUT = min(found)[1]
    return found


@command
def memory():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@command(concurrency=64)
async def large(size):
    return "x" * size


@command(concurrency=64)
async def typed(n: int, when: "list[int]" = ()) -> dict:
    return {"n": n, "when": list(when)}


@command(concurrency=64)
async def in_thread(text):
    """A thread takes its call along."""
    call = current_call()
    seen = []
    thread = threading.Thread(target=lambda: seen.append(call.id))
    thread.start()
    while thread.is_alive():
        await asyncio.sleep(0.001)
    return seen == [call.id]


def deep_rows(path):
    """Rows of which the second is nested deeper than Go reads; notes the generator's end."""
    sys.setrecursionlimit(30_000)
    try:
        for depth in (1, 10_500, 1, 1):
            row = []
            for _ in range(depth):
                row = [row]
            yield row
    finally:
        note(path, "closed")


@command
def deep_rows_alone(path):
    yield from deep_rows(path)


@command(concurrency=8)
async def deep_rows_beside(path):
    with contextlib.closing(deep_rows(path)) as rows:
        for row in rows:
            yield row
            await asyncio.sleep(0)
