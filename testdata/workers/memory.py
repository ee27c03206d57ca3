"""Handlers that do to the memory of payloads what they should not."""

import ctypes
import os
import random
import signal
import time

import pypool
from pypool import _memory, _page, command
from pypool._channel import OURS

KEPT = []


@command
def echo(x: object = None) -> object:
    return x


@command
def array(a: pypool.Array) -> pypool.Array:
    return a


@command
def says(text: str) -> None:
    """Answer in the runtime's place. %: the request's id."""
    id = pypool.current_call().id
    os.write(OURS.channel.fd_out, text.replace("%", str(id)).encode())


@command
def keep(a: pypool.Array) -> int:
    KEPT.append((a.data, a.data.tobytes()))
    return len(KEPT)


@command
def drop() -> bool:
    """Whether what was kept is as it was."""
    same = all(view.tobytes() == copy for view, copy in KEPT)
    KEPT.clear()
    return same


@command
def spoil(how: str) -> None:
    memory = _page.MEMORY
    page = memoryview(memory.map)[: 8 * _page.WORDS].cast("Q")
    if how == "words":
        for index in range(64, 512):
            page[index] = random.getrandbits(64)
    elif how == "all words":
        for index in range(_page.WORDS):
            page[index] = random.getrandbits(64)
    elif how == "bytes":
        size = 1 << 20
        for at in (_page.MEMORY_AT, _page.MEMORY_AT + memory.half):
            memory.map[at : at + size] = random.getrandbits(8 * size).to_bytes(size, "little")
    elif how == "holes":
        memory.map.madvise(9, _page.MEMORY_AT, 2 * memory.half)  # MADV_REMOVE
    elif how == "unmapped":
        libc = ctypes.CDLL(None)
        libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        libc.munmap(ctypes.addressof(ctypes.c_char.from_buffer(memory.map)) + _page.MEMORY_AT, 2 * memory.half)
    elif how == "forgotten":
        _memory.STATE.out.clear()
        _memory.STATE.live.clear()


@command
def fork_and_return(a: pypool.Array, mark: str):  # type: ignore[no-untyped-def]
    """Parent and child give many payloads side by side."""
    child = os.fork()
    for number in range(40):
        yield bytes([number, not child]) * 40_000
    if not child:
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


@command
def slowly(a: pypool.Array, seconds: float) -> pypool.Array:
    time.sleep(seconds)
    return a
