"""Handlers whose payloads go to functions of the host's, and come from there."""

import asyncio
import fcntl
import gc
import struct
import termios
import threading
import time
from typing import Any, AsyncIterator, Iterator, List

import pypool
from pypool import _memory, _page, command, current_call, host
from pypool._channel import OURS
from pypool._replies import deliver

KEPT: List[Any] = []


@command
def sends(size: int) -> int:
    """The function gets so many bytes, and says how many."""
    return host.length(bytes(size))


@command
def takes(size: int) -> int:
    return len(host.give(size=size))


@command
def same(a: pypool.Array) -> pypool.Array:
    return host.same(a)


@command
async def asame(a: pypool.Array) -> pypool.Array:
    return await host.aio.same(a)


@command
def tsame(a: pypool.Array) -> pypool.Array:
    """From threads, at the same time."""
    found: List[Any] = []
    call = current_call()
    threads = [threading.Thread(target=lambda: found.append(call.host.same(a))) for _ in range(3)]
    for thread in threads:
        thread.start()
    found.append(host.same(a))
    for thread in threads:
        thread.join()
    if len({one.data.tobytes() for one in found}) != 1:
        raise AssertionError("they differ")
    return found[0]


@command
def items(a: pypool.Array) -> Iterator[pypool.Array]:
    yield host.same(a)


@command(concurrency=16)
async def csame(a: pypool.Array) -> pypool.Array:
    return (await asyncio.gather(*[host.aio.same(a) for _ in range(2)]))[1]


@command(concurrency=16)
async def citems(a: pypool.Array) -> AsyncIterator[pypool.Array]:
    yield await host.aio.same(a)


@command(max_batch_size=4, max_wait_ms=100)
def bsame(a: List[pypool.Array]) -> List[pypool.Array]:
    return [host.same(one) for one in a]


@command
def keep(size: int) -> int:
    """Keep what the function gives, and look at what was kept before."""
    a = host.array(size=size)
    KEPT.append((a, a.data.tobytes()))
    for kept, copy in KEPT:
        if kept.data.tobytes() != copy:
            raise AssertionError("what was kept has changed")
    return len(KEPT)


@command
def drop() -> None:
    KEPT.clear()
    gc.collect()


def _ask(function: str, size: int, number: int = 1 << 40) -> None:
    """Call a function whose reply nobody waits for."""
    OURS.channel.replies = deliver
    OURS.channel.write('{"id":%d,"host":%d,"function":"%s","args":{"size":%d}}\n' % (current_call().id, number, function, size))


def _await_reply() -> None:
    """Wait until something of it is in the pipe, of which nobody reads meanwhile."""
    while not struct.unpack("i", fcntl.ioctl(OURS.channel.fd_in, termios.FIONREAD, b"\0" * 4))[0]:
        time.sleep(0.001)


@command
def leaves(size: int, more: int = 0) -> None:
    """Leave a reply of text in the pipe, which does not take all of it, and so many of payloads behind."""
    _ask("text", size)
    _await_reply()
    for number in range(more):
        _ask("give", 200_000, (1 << 41) + number)
        at = _page.MEMORY_AT + 200_704 * number
        while _page.MEMORY.map[at : at + 4] != b"give":  # the function has given it
            time.sleep(0.001)
    _page.MEMORY.map[_page.MEMORY_AT : _page.MEMORY_AT + 200_704 * more] = bytes(200_704 * more)


@command(concurrency=16)
async def cleaves(size: int, more: int = 0) -> None:
    leaves(size, more)


@command
def asks(function: str, size: int, count: int = 1) -> None:
    """Call a function whose replies nobody waits for, and return at once."""
    for number in range(count):
        _ask(function, size, (1 << 42) + number)


@command(concurrency=16)
async def casks(function: str, size: int, count: int = 1) -> None:
    for number in range(count):
        _ask(function, size, (1 << 43) + number)


@command
def number(value: int) -> int:
    return value


@command(concurrency=16)
async def cnumber(value: int) -> int:
    return value


@command
def scribble(a: pypool.Array) -> pypool.Array:
    """Overwrite the words of all places while functions use them."""
    page = memoryview(_page.MEMORY.map)[: 8 * _page.WORDS].cast("Q")
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            for slot in range(_memory.SLOTS):
                page[_memory.LENT_WORDS + slot] ^= 1
                page[_memory.TOOK_WORDS + slot] ^= 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(20):
            host.same(a)
    finally:
        stop.set()
        thread.join()
    return a
