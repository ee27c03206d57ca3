"""A worker that knows that it is of no use any more asks its host for a successor."""

from __future__ import annotations

from . import _channel
from ._call import RUNNING, SHARED_REQUEST
from ._json import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

    from ._commands import Command

#: Characters of a reason that are told: it stands in one line of a log.
MAX_REASON = 500


class _Retirement:
    """`reason` is why this worker has asked to be replaced; None while it has not."""

    reason: Optional[str] = None


RETIREMENT = _Retirement()


def retire(reason: str) -> None:
    """Have the host replace this worker, because of what the reason says: its device is lost, it has
    leaked too much.

    The call that runs is served to its end, and its answer is what it is. Then a new worker is
    started, and when it is ready this one ends; until then it serves only what no other worker can.
    It may be called in any thread, and also between two calls: then the host hears of it with the
    next answer, or when it next pings. The first reason counts. In a worker that is still starting
    it fails the start.

    Raises TypeError when the reason is no text, ValueError when it is empty.
    """
    if not isinstance(reason, str):
        raise TypeError("retire() takes the reason, a text: got %r" % (reason,))
    if not reason.strip():
        raise ValueError("retire() takes the reason, and that is empty")
    if RETIREMENT.reason is not None:
        return
    RETIREMENT.reason = reason = reason[:MAX_REASON]
    channel = _channel.OURS.channel
    if channel is not None and channel.retires:
        text = escape(reason.encode("utf-8", "replace").decode("utf-8"))
        _channel.tell_first(b'{"id":%%d,"retire":%s}\n' % text.encode("ascii").replace(b"%", b"%%"), _current())


def _current() -> int:
    """The call that is served here, or 0."""
    request = RUNNING.request
    if request is SHARED_REQUEST:
        task = RUNNING.task()
        request = None if task is None else task.request
    return 0 if request is None else request[0]


def judge(entry: Command, error: BaseException) -> None:
    """Retire when a handler has raised what its worker does not survive. The exception's text may be
    about its call, and is not told.
    """
    try:
        fatal = bool(entry.retire_on) and isinstance(error, entry.retire_on)
    except BaseException:  # a metaclass is somebody's
        return
    if fatal:
        from . import _errors  # loaded with the first error

        module, name = _errors.names(type(error))
        module = "" if module == "builtins" else module + "."
        retire("%s %s raised %s%s (retire_on)" % (entry.what, entry.name, module, name))
