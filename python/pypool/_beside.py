"""Threads of a handler's that write and read beside the loop's: see `_host_calls`."""

from __future__ import annotations

import os
import sys
from time import sleep

from . import _channel
from ._call import RUNNING
from ._replies import OVER, WAITS, settle, soon
from ._stdio import LOG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, Callable, Optional, Sequence

    from ._channel import Channel


def _share(channel: Channel) -> None:
    """From now on threads write and read, too. Called in such a thread."""
    if vars(_channel)["write"] is not _channel.write_whole:
        vars(_channel)["write"] = _channel.write_whole
        # What the loop's thread has begun before this it has to end
        while _in_write(sys._current_frames().get(LOG.thread)):
            sleep(0.0005)
    share_waiting(channel)


def share_waiting(channel: Channel) -> None:
    """Have the loop end what is left when it waits for a request."""
    with WAITS.lock:
        if not isinstance(channel.waiter, _Shared):
            channel.waiter = _Shared(channel.waiter)  # type: ignore[assignment]


def _in_write(frame: Optional[FrameType]) -> bool:
    while frame is not None:
        if frame.f_code in _channel.WRITES:
            return True
        frame = frame.f_back
    return False


def _is_answering(frame: Optional[FrameType]) -> bool:
    """Whether the loop's thread has written a call's final line, or is about to."""
    while frame is not None:
        if frame.f_code.co_name == "_serve" and frame.f_globals.get("__name__") == "pypool._worker":
            return bool(frame.f_locals.get("writing"))
        frame = frame.f_back
    return True


def _forget_locals() -> None:
    """Have what the loop's thread had in hand when `_is_answering` looked, arguments and results, go: a
    frame keeps what its locals were then, before Python 3.13.
    """
    frame: Optional[FrameType] = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "_serve":
            frame.f_locals  # noqa: B018  what they are now
            return
        frame = frame.f_back


def write_beside(channel: Channel, id: int, line: str, payloads: Sequence[Any] = ()) -> None:
    """Write a line, and the payloads that belong to it, in a thread: not behind the final line of the
    call.
    """
    _share(channel)
    with channel.lock:
        request = RUNNING.request
        if request is None or request[0] != id or channel.over == id or _is_answering(sys._current_frames().get(LOG.thread)):
            raise LookupError("the call is over: its functions cannot be called any more")
        for part in [*channel.ahead_of(payloads), line.encode()]:
            data = memoryview(part)
            while data:
                data = data[os.write(channel.fd_out, data) :]


def thread_wait(channel: Channel) -> Callable[[], None]:
    import select

    _share(channel)
    waits = WAITS
    if waits.waker is None:
        waits.waker = os.pipe()
        for fd in waits.waker:
            os.set_blocking(fd, False)
    poll = select.poll()
    poll.register(channel.fd_in, select.POLLIN)
    poll.register(waits.waker[0], select.POLLIN)

    def wait() -> None:
        if not soon(poll.poll):
            poll.poll()
        if waits.stop:
            try:
                os.read(waits.waker[0], 64)  # type: ignore[index]
            except BlockingIOError:
                pass

    return wait


class _Shared:
    """A waiter beside which threads read: who waits here has them stop first."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def ready(self) -> bool:
        """A thread that reads puts it where the loop finds it."""
        reader = WAITS.reader
        return (reader is None or reader is WAITS.watched) and bool(self.inner.ready())

    def wait(self) -> None:
        """The loop waits for a request: all calls are over."""
        channel: Any = _channel.OURS.channel
        _end_all()
        _forget_locals()
        channel.waiter = self.inner
        if not channel.lines:  # else a thread has read the next request along with a reply
            self.inner.wait()


def _end_all() -> None:
    """Nobody waits for a reply any more, and nobody but the loop reads."""
    waits = WAITS
    while True:
        with waits.lock:
            for pending in list(waits.pending.values()):
                pending.reply = OVER
                if pending.gate is not None and pending.gate.locked():
                    pending.gate.release()
                elif pending.future is not None:
                    settle(pending)
            reader = waits.reader
            if reader is None or reader is waits.watched:
                waits.stop = False
                waits.pending.clear()
                return
            waits.stop = True
        if waits.waker is not None:
            try:
                os.write(waits.waker[1], b"x")
            except BlockingIOError:
                pass
        sleep(0.0001)
