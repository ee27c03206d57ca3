"""The page shared with the host, and the wait for its next request that this page tells how to do."""

from __future__ import annotations

import os
from time import monotonic_ns, sleep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Optional

#: The page's 64-bit words: docs/protocol.md, page_fd.
WORDS = 512
WORKED, SHIELDED = 0, 1  # written here
SPIN_NS, KEEP_CPU, DOORBELL, CANCELED, EMPTIED = 8, 9, 10, 11, 12  # written by the host
RETIRES = 16  # written here, once

#: Doorbell reads (50 ns) per pipe poll (500 ns). 24 cover the host's 1 us between answer and next
#: call.
LOOKS = range(24)

#: Where payloads lie in the page's file, if it is as long: in two halves, of which the host writes
#: the first.
MEMORY_AT = 1 << 16


class _Memory:
    """The page's file, where payloads can be in it, and the bytes of each half."""

    map: Any = None
    half = 0


MEMORY = _Memory()


def shared(fd: Optional[int], used: bool = True) -> Any:
    """The page as an array of 64-bit numbers, or None. One that is not `used`, a fork server's, is
    not kept: its workers would have it, too.
    """
    if fd is None:
        return None
    if not used:
        os.close(fd)
        return [0] * WORDS
    try:
        import mmap  # where there is a page

        MEMORY.half = max(os.fstat(fd).st_size - MEMORY_AT, 0) // 2
        try:
            MEMORY.map = mmap.mmap(fd, MEMORY_AT + 2 * MEMORY.half if MEMORY.half else 8 * WORDS)
        except (OSError, ValueError):  # RLIMIT_AS
            MEMORY.map, MEMORY.half = mmap.mmap(fd, 8 * WORDS), 0
        page = memoryview(MEMORY.map)[: 8 * WORDS].cast("Q")
    except (ImportError, OSError, ValueError):
        return None
    os.close(fd)
    return page


class Waiter:
    """Waits for something to read: parked in poll(2), or spinning where the host asks for it,
    because it expects to send the next request at once and a wake-up costs more.

    Reading itself does not wait: a process that is killed in read(2) may take a request out of the
    pipe even so, and nobody could tell that from one that began it. In poll(2) it takes nothing.
    """

    def __init__(self, fd: int, page: Any) -> None:
        self.page: Any = [0] * WORDS if page is None else page
        self._listens = False  # to the doorbell
        self._heard = 0  # the doorbell, as it was when it last rang
        # Bound before a script can replace it; None where read(2) has to wait
        self._poll: Any = None
        self._give_way: Any = getattr(os, "sched_yield", None) or (lambda: sleep(0))
        try:
            import select  # absent in some builds

            poll = select.poll()
            poll.register(fd, select.POLLIN)
            os.set_blocking(fd, False)
            self._poll = poll.poll
        except (ImportError, AttributeError, OSError, ValueError):
            pass  # Windows cannot look into a pipe

    @property
    def polls(self) -> bool:
        """Whether it can be known without waiting whether there is something to read."""
        return self._poll is not None

    def ready(self) -> bool:
        """Whether there is something to read now, or the end of the file; False where that cannot
        be known.
        """
        return self._poll is not None and bool(self._poll(0))

    def wait(self) -> None:
        """Wait before a read, as the host asks: to read first, and be told that nothing is there,
        would cost as much again.

        While calls run one at a time nobody else needs the processor, and the host rings the
        doorbell just before it writes, so that this side is at the pipe while the line is put
        there.
        """
        page, poll = self.page, self._poll
        spin = page[SPIN_NS]
        if poll is None:
            return
        if not spin:
            poll()
            return
        end = monotonic_ns() + spin
        if not page[KEEP_CPU]:
            while not poll(0) and monotonic_ns() < end:
                self._give_way()  # and the GIL: somebody may need them
            return
        if not self._listens:
            self._listens, self._heard = True, page[DOORBELL]
        heard = self._heard
        while True:
            for _ in LOOKS:
                if page[DOORBELL] != heard:
                    self._heard = page[DOORBELL]
                    return
            if poll(0) or monotonic_ns() >= end:
                self._heard = page[DOORBELL]
                return
            self._give_way()

    def poll(self, timeout: Any = None) -> Any:
        """poll(2) for something to read; where that cannot be, reading has to wait."""
        return True if self._poll is None else self._poll(timeout)

    def park(self) -> None:
        """Wait for what was not there yet when it was read. Who came too early at the doorbell's
        ring must not fall asleep.
        """
        if not self.page[KEEP_CPU]:
            self._listens = False
            self._poll()
        elif not any(self._poll(0) for _ in LOOKS):
            self._poll()
            self._heard = self.page[DOORBELL]
