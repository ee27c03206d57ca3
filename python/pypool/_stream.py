"""A generator command's items, one frame each, until it ends, fails, or the host cancels."""

from __future__ import annotations

import os

from . import _life
from ._dispatch import send_item
from ._protocol import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterator, Optional

    from ._channel import Channel
    from ._worker import Worker


def run(worker: Worker, id: int, result: Any, outgoing: Optional[Callable[[Any], Any]] = None) -> str:
    """Send what the handler yields; returns the final line. A plain command's result is its one item.

    The generator is closed in every case, so that its finally blocks have run before the final line is written.
    """
    items = items_of(result)
    cancel = b'{"id":%d,"cancel":true}' % id
    try:
        # Asked before each item, so that a caller who left early stops a generator that has not begun, too.
        while not _told(worker.channel, cancel):
            try:
                item = next(items)
            except StopIteration:
                break
            send_item(worker, id, encode(item if outgoing is None else outgoing(item)))
    except BaseException as error:
        answer = worker.failed(id, error)
        _close(items)
        return answer
    close = getattr(items, "close", None)
    if close is not None:
        close()
    return worker.succeeded(id, "null")


def items_of(result: Any) -> Iterator[Any]:
    """What a handler returned, as an iterator of items."""
    if hasattr(result, "__anext__"):
        from . import _async

        return _async.items(result)
    if hasattr(result, "__next__"):
        items: Iterator[Any] = result
        return items
    return iter((result,))


def _told(channel: Channel, control: bytes) -> bool:
    """Whether the host has sent this control line by now. Never waits, and keeps what else has arrived."""
    poll = _poll(channel.fd_in)
    while poll is not None and poll.poll(0):
        chunk = os.read(channel.fd_in, 1 << 16)
        if not chunk:
            if os.getpid() != _life.WATCH.pid:
                _life.end(0)  # a child that the generator has forked: nobody takes its items, nor tells it to stop
            break  # the loop's end of file, soon
        channel.take(chunk)
    if control in channel.lines:
        channel.lines.remove(control)
        return True
    return False


def _poll(fd: int) -> Any:
    global _poller
    if _poller is False:
        try:
            import select

            _poller = select.poll()
            _poller.register(fd, select.POLLIN)
        except (ImportError, AttributeError):  # Windows cannot look into a pipe: a stream there runs to its end
            _poller = None
    return _poller


_poller: Any = False


def _close(items: Any) -> None:
    """Close after an error that is the call's outcome already; another one only goes to the log."""
    try:
        close = getattr(items, "close", None)
        if close is not None:
            close()
    except BaseException as error:
        from . import _errors

        _errors.note("a generator raised while it was closed:\n" + _errors.format_traceback(error))
