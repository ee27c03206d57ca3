"""Payloads in: bytes and arrays that come beside the line that they belong to (docs/protocol.md,
"Payloads").

    {"raw":[5,8]}          a line that says how long they are
    13 bytes, a newline
    {"id":7,...,"blobs":[{"at":["a"]},{"at":["b",0],"dtype":"float64","shape":[]}]}
"""

from __future__ import annotations

from ._arrays import Unloadable, value_of
from ._json import scan
from ._wire import RAW, RequestError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Optional, Sequence

#: In place of a line whose payloads are not what is said of them: whoever reads it refuses it.
BROKEN = b"payloads that do not fit their line"


class Laden(bytes):
    """A line that has payloads."""

    payloads: Sequence[memoryview] = ()


def laden(line: bytes, payloads: Sequence[memoryview]) -> bytes:
    """A line with its payloads."""
    if not payloads:
        return line
    found = Laden(line)
    found.payloads = payloads
    return found


def payloads_of(line: bytes) -> Sequence[memoryview]:
    """The payloads that came before a line."""
    return line.payloads if isinstance(line, Laden) else ()


def used(line: bytes) -> None:
    """A line will not be read again: what its payloads have become is what keeps them from now on."""
    if isinstance(line, Laden):
        line.payloads = ()


class Ahead:
    """Payloads that are being read, and their line, which is still to come."""

    def __init__(self, sizes: List[Any]) -> None:
        self.sizes = sizes  # of those that are in memory the payload itself
        self.buffer = bytearray(sum([size for size in sizes if type(size) is int]) + 1)  # with the newline behind them
        self.got = 0

    @property
    def lacks(self) -> int:
        return len(self.buffer) - self.got

    def feed(self, chunk: memoryview) -> int:
        """Take what belongs to the payloads off a chunk's beginning, and return how much that is."""
        size = min(len(chunk), self.lacks)
        self.buffer[self.got : self.got + size] = chunk[:size]
        self.got += size
        return size

    def of(self, line: bytes) -> bytes:
        """The line that they belong to."""
        if self.buffer[-1:] != b"\n" or b'"blobs":[' not in line:
            return BROKEN
        view, at = memoryview(self.buffer).toreadonly(), 0
        payloads: List[Any] = []
        for size in self.sizes:
            if type(size) is int:
                payloads.append(view[at : at + size])
                at += size
            else:
                payloads.append(size)
        return laden(line, payloads)


def begun(line: bytes, limit: int, page: Any = None) -> Optional[Ahead]:
    """The payloads that a line announces; None where it does not do so as it should."""
    try:
        sizes, end = scan(line.decode("ascii"), len(RAW) - 1)
        if line[end:] != b"}" or not sizes:
            return None
        total = 0
        places = []
        for index, size in enumerate(sizes):
            if type(size) is list and page is not None:
                if [type(n) for n in size] != [int, int, int]:
                    return None
                from ._memory import Lent  # where the host has memory

                places.append(size[1:])
                sizes[index] = Lent(page, *size)
                size = size[2]
            if type(size) is not int or size < 0:
                return None
            total += size
        places.sort()
        if total > limit or any([a + size > b for (a, size), (b, _) in zip(places, places[1:])]):
            return None
        return Ahead(sizes)
    except (ValueError, StopIteration, MemoryError):
        return None  # a RecursionError is somebody's who waits for a reply there: it loses what has been read


def cut(channel: Any, chunk: bytes) -> List[bytes]:
    """The whole lines of a chunk in which there are payloads. It begins where a line does, or where
    `channel.ahead` has left off; what is left of it is kept in the channel.
    """
    lines: List[bytes] = []
    view, start = memoryview(chunk), 0
    while True:
        ahead = channel.ahead
        if ahead is not None and ahead.lacks:
            start += ahead.feed(view[start:])
            if ahead.lacks:
                break
        end = chunk.find(b"\n", start)
        if end < 0:
            break
        line = chunk[start:end]
        start = end + 1
        if ahead is not None:
            channel.ahead = None
            lines.append(BROKEN if line.startswith(RAW.encode()) else ahead.of(line))
        elif line.startswith(RAW.encode()):
            channel.ahead = begun(line, channel.limit, channel.page if channel.memory else None)
            if channel.ahead is None:
                lines.append(BROKEN)
        else:
            lines.append(line)
    # As long as payloads are ahead, something is in parts: what comes next is no line of its own
    channel.parts[:] = [chunk[start:]] if start < len(chunk) else []
    if channel.ahead is not None and not channel.parts:
        channel.parts.append(b"")
    return lines


def place(value: Any, blobs: Any, payloads: Sequence[memoryview], start: int = 0) -> int:
    """Put payloads, from one on, in the places that descriptors name. Returns the number of the
    next. Raises ValueError where they do not fit.
    """
    try:
        for blob in blobs:
            path = blob["at"]
            holder: Any = value
            last: Any = path[-1]
            for step in path[:-1]:
                holder = holder[step]
            kinds = type(holder), type(last)
            if kinds != (dict, str) and (kinds != (list, int) or last < 0):
                raise ValueError("a step that is none")
            if holder[last] is not None:
                raise ValueError("no null is there")
            holder[last] = value_of(blob, payloads[start])
            start += 1
    except Unloadable:
        raise
    except (TypeError, LookupError, ValueError, AttributeError) as error:
        raise ValueError("'blobs' does not fit the arguments: %s" % error) from None
    return start


def place_all(value: Any, blobs: Any, line: bytes) -> None:
    """Put all payloads of a line in their places."""
    payloads = payloads_of(line)
    if place(value, blobs, payloads) != len(payloads):
        raise ValueError("'blobs' does not fit the arguments: there are more payloads")


def apart(lines: Sequence[bytes], line: bytes) -> List[bytes]:
    """The requests of one line, as lines of one, with the payloads of each."""
    payloads, at = payloads_of(line), 0
    found = []
    for one in lines:
        count = _places(one)
        found.append(laden(one, payloads[at : at + count]))
        at += count
    if at != len(payloads):
        raise RequestError("invalid_request", "%d payloads came, and there are places for %d" % (len(payloads), at), None)
    used(line)
    return found


def _places(line: bytes) -> int:
    """How many payloads a request has, whatever its arguments are."""
    start = line.rfind(b',"blobs":[')
    if start < 0:
        return 0
    try:
        text = line[start:].decode()
        blobs, end = scan(text, 9)
    except (ValueError, StopIteration, RecursionError):
        return 0
    behind = text[end:]
    if behind != "}" and not behind.startswith((',"session_id":', ',"take_blobs":', ',"timeout_ms":', ',"trace":')):
        return 0
    return len(blobs)
