"""Payloads in memory that the host shares (docs/protocol.md, "Payloads").

Each side writes one half of it, and names places there to the other, which lets go of one by changing
its word in the page.

    in    the host's: `Lent`, which is copied or looked at. A view keeps its place as long as anything
          refers to it, whoever that is: what refers to the ctypes object below it is what the
          interpreter counts
    out   this side's: `put`
"""

from __future__ import annotations

import os
from _weakref import ref

from ._page import EMPTIED, MEMORY, MEMORY_AT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Tuple

#: The words of the places in and out, and how many there are: internal/shm.
LENT_WORDS, TOOK_WORDS, SLOTS = 64, 256, 192
_ALIGN = 4096
#: MADV_POPULATE_WRITE: the want of memory is an error, not a SIGBUS. Before Linux 5.14 it is EINVAL.
_POPULATE, _EINVAL = 23, 22
#: Classes that are kept, by size.
_CLASSES: Dict[int, Any] = {}
_MANY = 64


class _State:
    """The places in that this process has, by slot, with what refers to them; and those out that the
    host may not have read, by offset: slot, offset, end, and the slot's word.
    """

    page: Any = None
    live: Dict[int, Any] = {}
    out: List[Tuple[int, int, int, int]] = []
    there = 0  # bytes of out that have memory
    emptied = 0


STATE = _State()


def _forget() -> None:
    """Around a fork: the child has what is live, too, and nobody tells when it lets go. So these places
    are never used again.
    """
    STATE.live.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_forget, after_in_parent=_forget, after_in_child=_forget)


def _free(slot: int) -> None:
    if STATE.live.pop(slot, None) is not None:
        STATE.page[LENT_WORDS + slot] = (STATE.page[LENT_WORDS + slot] + 1) & 0x7FFFFFFF


class Lent:
    """A payload in. It has its place as long as this object lives, or anything refers to its view: a
    line may be read again, when something else in it is wrong.
    """

    __slots__ = ("slot", "at", "size", "holder")

    def __init__(self, page: Any, slot: int, at: int, size: int) -> None:
        self.slot = -1
        self.holder: Any = None  # what its views look at
        if not (0 <= slot < SLOTS and 0 <= at <= MEMORY.half and 0 <= size <= MEMORY.half - at) or slot in STATE.live:
            raise ValueError("no place in memory")
        self.slot, self.at, self.size = slot, MEMORY_AT + at, size
        STATE.page = page
        STATE.live[slot] = True

    def __len__(self) -> int:
        return self.size

    def __del__(self) -> None:
        if self.slot >= 0:
            _free(self.slot)

    def copy(self) -> bytes:
        data: bytes = MEMORY.map[self.at : self.at + self.size]
        return data

    def view(self) -> memoryview:
        """It, to be read only."""
        if self.holder is None:
            try:
                import ctypes  # for arrays and views alone
            except Exception:
                ctypes = None  # type: ignore[assignment]
            if ctypes is None or not self.size:
                return memoryview(self.copy())
            kind = _CLASSES.get(self.size)
            if kind is None:
                kind = ctypes.c_char * self.size
                if len(_CLASSES) < _MANY:
                    _CLASSES[self.size] = kind
            # Not from_buffer: nothing that a handler can reach leads to the map itself
            base = ctypes.addressof(ctypes.c_char.from_buffer(MEMORY.map))
            self.holder = holder = kind.from_address(base + self.at)
            slot, self.slot = self.slot, -1
            if slot in STATE.live:  # else a fork has come between
                STATE.live[slot] = ref(holder, lambda _: _free(slot))
        return memoryview(self.holder).cast("B").toreadonly()


def put(page: Any, data: Any) -> str:
    """Copy a payload out to where the host can read it, and return its place; empty where there is no
    room, or no memory. With the channel's lock held, if there are threads.
    """
    size, start = len(data), 0
    STATE.out = out = [place for place in STATE.out if page[TOOK_WORDS + place[0]] == place[3]]
    for index, place in enumerate(out):  # noqa: B007
        if place[1] - start >= size:
            break
        start = place[2]
    else:
        index = len(out)
    end = start + (size + _ALIGN - 1) // _ALIGN * _ALIGN
    if end > MEMORY.half or len(out) >= SLOTS:
        return ""
    if STATE.emptied != page[EMPTIED]:
        STATE.emptied, STATE.there = page[EMPTIED], 0
    base = MEMORY_AT + MEMORY.half
    if end > STATE.there:
        try:
            MEMORY.map.madvise(_POPULATE, base + STATE.there, end - STATE.there)
        except OSError as error:
            if error.errno != _EINVAL:
                return ""
        except (AttributeError, ValueError):
            pass
        STATE.there = end
    MEMORY.map[base + start : base + start + size] = data
    slot = min(set(range(len(out) + 1)).difference([place[0] for place in out]))
    out.insert(index, (slot, start, end, page[TOOK_WORDS + slot]))
    return "[%d,%d,%d]" % (slot, start, size)
