"""The private descriptors as lines in and lines out.

Lines are split on b"\\n" only, and decoded later, as strict UTF-8: text mode and splitlines would
cut at U+2028 or "\\r", too.
"""

from __future__ import annotations

import os
from _thread import allocate_lock
from os import read, write

from . import _life
from ._call import RUNNING
from ._page import Waiter
from ._wire import RAW

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, Optional, Sequence

    from ._payloads import Ahead
    from ._wire import Line

_RAW = RAW.encode()
_readv: Any = getattr(os, "readv", None)

#: Bytes of payloads up to which they are written with their line at once.
_JOINED = 1 << 15
#: In place of a line while next_line looks for it.
READING: Any = object()


class Channel:
    """The private descriptors. Only the loop's thread uses it, so it needs no lock."""

    def __init__(self, fd_in: int, fd_out: int, rest: bytes = b"", page: Any = None) -> None:
        self.fd_in = fd_in
        self.fd_out = fd_out
        self.waiter = Waiter(fd_in, page)
        self.page = self.waiter.page
        self.lines: List[Line] = []  # the next one last
        self.parts: List[bytes] = []  # of the line that is not complete yet
        self.ahead: Optional[Ahead] = None  # payloads that are being read, or whose line is
        self.torn = False  # while a line is written in pieces: nothing else may follow what is out
        self.functions: Optional[Sequence[str]] = None  # of the host's; None: it has not said
        self.blob_functions: Sequence[str] = ()  # those that take payloads
        self.smallest = 4 << 10  # bytes that are a payload, when they may be one
        self.limit = 1 << 26  # of a line
        self.memory = 0  # bytes from which on a payload lies in the page's file; 0: none does
        self.retires = False  # the host knows what it is that a worker asks to be replaced
        #: Takes the replies out of the lines that are read, while functions of the host's run
        self.replies: Optional[Callable[[bytes], bool]] = None
        self.lock = allocate_lock()  # of what is written, where threads write too: see `_host_calls`
        self.over = 0  # the last request that has a final line out, as far as that is of use there
        if rest:
            self.take(rest)

    def next_line(self) -> Optional[Line]:
        """The next request line without its newline, waiting for it; None at the end of the host."""
        lines, parts, waiter = self.lines, self.parts, self.waiter
        while not lines:
            waiter.wait()
            if lines:
                break  # a thread that waited for a reply has read them meanwhile
            size = 1 << 16
            if parts:
                size = 1 << 20
                if self.ahead is not None and self.ahead.lacks and _readv is not None:
                    if not self._fill(self.ahead):
                        return None
                    continue
            while True:
                try:
                    chunk = read(self.fd_in, size)
                    break
                except BlockingIOError:
                    waiter.park()
            if not chunk:
                return None  # a partial line is never dispatched
            if not parts:
                line, end, rest = chunk.partition(b"\n")
                if end and not rest:
                    return line  # one line, as a rule
            self.take(chunk)
        return lines.pop()

    def _fill(self, ahead: Ahead) -> bool:
        """Read payloads to their end, where they belong; False at the end of the host."""
        view = memoryview(ahead.buffer)
        while ahead.lacks:
            try:
                size = _readv(self.fd_in, [view[ahead.got :]])
            except BlockingIOError:
                self.waiter.park()
                continue
            if not size:
                return False
            ahead.got += size
        return True

    def told(self, control: bytes) -> bool:
        """Whether the host has sent this control line by now. Never waits, and keeps what else has
        arrived.
        """
        while self.waiter.ready():
            chunk = read(self.fd_in, 1 << 16)
            if not chunk:
                if os.getpid() != _life.WATCH.pid:
                    # A child that the generator has forked: nobody takes its items, nor tells it to
                    # stop
                    _life.end(0)
                break  # the loop's end of file, soon
            self.take(chunk)
        if control in self.lines:
            self.lines.remove(control)
            return True
        return False

    def take(self, chunk: bytes) -> None:
        """Keep what has been read: complete lines in `lines`, the beginning of another in `parts`."""
        parts = self.parts
        if self.ahead is not None:
            lines = self._cut(chunk)
        elif b"\n" not in chunk:
            parts.append(chunk)
            return
        else:
            if parts:
                parts.append(chunk)
                chunk = b"".join(parts)
                parts.clear()
            lines = chunk.split(b"\n")
            if any([line.startswith(_RAW) for line in lines]):
                lines = self._cut(chunk)
            else:
                rest = lines.pop()
                if rest:
                    parts.append(rest)
        if self.replies is not None:
            lines = [line for line in lines if not self.replies(line)]
        lines.reverse()
        self.lines[:0] = lines

    def _cut(self, chunk: bytes) -> List[bytes]:
        from ._payloads import cut  # many workers get none

        if any(self.parts):
            chunk = b"".join([*self.parts, chunk])
        return cut(self, chunk)

    def write(self, line: str) -> None:
        """All of the line, in one write(2) when the pipe takes it."""
        data = line.encode()
        sent = write(self.fd_out, data)
        if sent != len(data):
            self.torn = True
            self._write_rest(memoryview(data)[sent:])
            self.torn = False

    def note_end(self) -> None:
        """Note that the running request has its final line, or of a batch the first one: its threads
        call nothing any more.
        """
        if RUNNING.request is not None:
            self.over = RUNNING.request[0]

    def write_success(self, id: int, text: str) -> None:
        """A final line whose result is too large to be copied into its envelope."""
        with self.lock:
            self.note_end()
            if OURS.notice is not None:
                _tell_notice(b'{"id":%d,' % id)
            self.torn = True
            self._write_rest(memoryview(b'{"id":%d,"success":true,"result":' % id))
            self._write_rest(memoryview(text.encode("ascii")))
            self._write_rest(memoryview(b"}\n"))
            self.torn = False

    def write_laden(self, payloads: Sequence[Any], line: str, final: int) -> None:
        """A line and the payloads that belong to it. `final` is the call whose final line it is, 0 if
        it is none.
        """
        with self.lock:
            parts = [*self.ahead_of(payloads), line.encode("ascii")]
            if final:
                self.note_end()
            if OURS.notice is not None:
                _tell_notice(parts[-1])
            self.torn = True
            if sum([len(data) for data in parts]) < _JOINED:
                parts = [b"".join(parts)]
            for part in parts:
                self._write_rest(memoryview(part))
            self.torn = False

    def ahead_of(self, payloads: Sequence[Any]) -> List[Any]:
        """What stands before a line that has payloads. With the lock held."""
        if not payloads:
            return []
        parts, sizes = [], []
        for data in payloads:
            text = ""
            if self.memory and len(data) >= self.memory:
                from ._memory import put  # few workers have any

                text = put(self.page, data)
            if not text:
                text = "%d" % len(data)
                parts.append(data)
            sizes.append(text)
        return [b'{"raw":[%s]}\n' % ",".join(sizes).encode(), *parts, b"\n"]

    def _write_rest(self, data: memoryview) -> None:
        while data:
            data = data[os.write(self.fd_out, data) :]


class _Ours:
    """The channel of this worker, for what is called by handlers. `notice` is JSON text, why this
    worker asks to be replaced, which is to be told before the next line of a call; `about` is the
    call that has caused it, or 0.
    """

    channel: Optional[Channel] = None
    notice: Optional[bytes] = None
    about = 0


OURS = _Ours()


_plain_write = write


def tell_first(notice: bytes, about: int) -> None:
    """Have the notice told before the next line of a call, in whatever thread that is asked for."""
    OURS.notice, OURS.about = notice, about
    if globals()["write"] is _plain_write:  # else `write_whole` sees to it
        globals()["write"] = _write_noticed


def _write_noticed(fd: int, data: bytes) -> int:
    """In place of `write` until the notice is told."""
    if _tell_notice(data) and globals()["write"] is _write_noticed:
        globals()["write"] = _plain_write
    return _plain_write(fd, data)


def _tell_notice(data: bytes) -> bool:
    """Write the notice, if these are lines of a call. It names the call that has caused it, if that
    has not ended before, and else says that it is none.
    """
    notice, channel, id, between = OURS.notice, OURS.channel, OURS.about, b""
    first = data[6:30].partition(b",")[0]
    if notice is None or channel is None or not (data.startswith(b'{"id":') and first.isdigit()):
        return False
    OURS.notice = None
    if not id or not (_runs(id) or data.startswith(b'{"id":%d,' % id) or b'\n{"id":%d,' % id in data):
        id, between = int(first), b',"between":true'
    channel.torn = True
    channel._write_rest(memoryview(b'{"id":%d,"retire":%s%s}\n' % (id, notice, between)))
    channel.torn = False
    return True


def _runs(id: int) -> bool:
    request = RUNNING.request
    return id in RUNNING.tasks or (request is not None and request[0] == id)


def write_whole(fd: int, data: bytes) -> int:
    """In place of `write` once threads write, too: all of a line, and nothing of theirs in between."""
    channel = OURS.channel
    if channel is None:
        return os.write(fd, data)
    with channel.lock:
        if OURS.notice is not None:
            _tell_notice(data)
        if data[:48].partition(b",")[2].startswith(b'"success":'):
            channel.note_end()
        sent = os.write(fd, data)
        if sent != len(data):
            channel.torn = True
            channel._write_rest(memoryview(data)[sent:])
            channel.torn = False
    return len(data)


#: Where a line is written.
WRITES = frozenset(
    (Channel.write.__code__, Channel.write_success.__code__, Channel.write_laden.__code__)
    + (Channel._write_rest.__code__, _write_noticed.__code__)
)
