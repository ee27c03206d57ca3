"""The private descriptors as lines in and lines out.

Lines are split on b"\\n" only, and decoded later, as strict UTF-8: text mode and splitlines would cut at U+2028 or "\\r", too.
"""

from __future__ import annotations

import os
from os import read, write
from time import monotonic_ns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Optional

    from ._protocol import Line

#: Of the page that is shared with the host, in words: docs/protocol.md, page_fd.
PAGE = 16
WORKED = 0  # written here
LINGER, ALONE, BELL = 8, 9, 10  # written by the host


#: How often to look at the bell, which takes 50 ns, between two turns of looking at the pipe, which take ten times as long: so
#: often that the host, which takes 1 us from an answer to the next call, rings in the first of them.
LOOKS = range(24)


def _poller(fd: int) -> Any:
    """How to wait for something to read, and how to give the processor away; bound before a script can replace them.

    Reading itself does not wait from now on: a process that is killed while it waits in read(2) may take a request out of the
    pipe even so, and nobody could tell that from one that began it. One that waits in poll(2) takes nothing.
    """
    try:
        import select

        poll = select.poll()
        poll.register(fd, select.POLLIN)
        os.set_blocking(fd, False)
        return poll.poll, os.sched_yield
    except (ImportError, AttributeError, OSError, ValueError):
        return None


def _linger(poller: Any, ns: int) -> None:
    """Poll for the next request for so long: the host expects to send it at once, and to be woken costs more.

    Somebody may need the processor after each look, and the GIL.
    """
    ready, give_way = poller
    end = monotonic_ns() + ns
    while not ready(0) and monotonic_ns() < end:
        give_way()


#: In place of a line while next_line looks for it.
READING: Any = object()


class Channel:
    """The private descriptors. Only the loop's thread uses it, so it needs no lock."""

    def __init__(self, fd_in: int, fd_out: int, rest: bytes = b"", page: Any = None) -> None:
        self.fd_in = fd_in
        self.page: Any = [0] * PAGE if page is None else page
        self._poller: Any = _poller(fd_in)
        self._listens = False  # to the bell
        self._heard = 0  # the bell, as it was when it last rang
        self.fd_out = fd_out
        self.lines: List[Line] = []  # the next one last
        self.parts: List[bytes] = []  # of the line that is not complete yet
        self.torn = False  # while a line is written in pieces: nothing else may follow what is out
        if rest:
            self.take(rest)

    def next_line(self) -> Optional[Line]:
        """The next request line without its newline, waiting for it; None at the end of the host."""
        lines, parts, page = self.lines, self.parts, self.page
        while not lines:
            linger, poller = page[LINGER], self._poller
            if poller is None:
                pass
            elif not linger:
                self._sleep()  # to read first, and be told that nothing is there, would cost as much again
            elif page[ALONE]:
                self._listen(linger)
            else:
                _linger(poller, linger)
            size = 1 << 20 if parts else 1 << 16
            while True:
                try:
                    chunk = read(self.fd_in, size)
                    break
                except BlockingIOError:
                    self._await()
            if not chunk:
                return None  # a partial line is never dispatched
            if not parts:
                line, end, rest = chunk.partition(b"\n")
                if end and not rest:
                    return line  # one line, as a rule
            self.take(chunk)
        return lines.pop()

    def _sleep(self) -> None:
        self._poller[0]()

    def _listen(self, ns: int) -> None:
        """`_linger` while calls run one at a time: nobody else needs the processor, and the host rings the bell just before it
        writes, so that this side is at the pipe while the line is put there. Who comes too early must not fall asleep.
        """
        page, (ready, give_way) = self.page, self._poller
        if not self._listens:
            self._listens, self._heard = True, page[BELL]
        heard, end = self._heard, monotonic_ns() + ns
        while True:
            for _ in LOOKS:
                if page[BELL] != heard:
                    self._heard = page[BELL]
                    return
            if ready(0) or monotonic_ns() >= end:
                self._heard = page[BELL]
                return
            give_way()

    def _await(self) -> None:
        """Wait for what was not there yet."""
        ready = self._poller[0]
        if not self.page[ALONE]:
            self._listens = False
            ready()
        elif not any(ready(0) for _ in LOOKS):
            ready()
            self._heard = self.page[BELL]

    def struck_waiting(self, error: BaseException) -> bool:
        """Whether `error`, which came out of next_line, was raised before anything was read: a chunk that was read, and not kept
        yet, is lost with it.
        """
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code in WAITING:
                return True
            trace = trace.tb_next
        return False

    def take(self, chunk: bytes) -> None:
        """Keep what has been read: complete lines in `lines`, the beginning of another in `parts`."""
        parts = self.parts
        if b"\n" not in chunk:
            parts.append(chunk)
            return
        if parts:
            parts.append(chunk)
            chunk = b"".join(parts)
            parts.clear()
        lines = chunk.split(b"\n")
        rest = lines.pop()
        if rest:
            parts.append(rest)
        lines.reverse()
        self.lines[:0] = lines

    def write(self, line: str) -> None:
        """All of the line, in one write(2) when the pipe takes it."""
        data = line.encode()
        sent = write(self.fd_out, data)
        if sent != len(data):
            self.torn = True
            self._write_rest(memoryview(data)[sent:])
            self.torn = False

    def write_success(self, id: int, text: str) -> None:
        """A final line whose result is too large to be copied into its envelope."""
        self.torn = True
        self._write_rest(memoryview(b'{"id":%d,"success":true,"result":' % id))
        self._write_rest(memoryview(text.encode("ascii")))
        self._write_rest(memoryview(b"}\n"))
        self.torn = False

    def _write_rest(self, data: memoryview) -> None:
        while data:
            data = data[os.write(self.fd_out, data) :]


#: Where next_line waits.
WAITING = {_linger.__code__, Channel._sleep.__code__, Channel._listen.__code__, Channel._await.__code__}
