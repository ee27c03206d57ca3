"""A worker that knows that it is of no use any more asks its host for a successor."""

from __future__ import annotations

import os
from _thread import get_ident

from . import _channel, _life
from ._call import CALL, RUNNING, SHARED_REQUEST
from ._json import escape
from ._page import RETIRES
from ._stdio import LOG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Optional

    from ._commands import Command
    from ._wire import Request

#: Characters of a reason that are told: it stands in one line of a log.
MAX_REASON = 500


class _Retirement:
    """`reason` is why this worker has asked to be replaced; None while it has not. `latest` is the
    last call that has asked so, but for those side by side, of which their tasks tell.
    """

    reason: Optional[str] = None
    latest = 0


RETIREMENT = _Retirement()


def retire(reason: str) -> None:
    """Have the host replace this worker, because of what the reason says: its device is lost, it has
    leaked too much.

    The call that runs is served to its end, and its answer is what it is. Then a new worker is
    started, and when it is ready this one ends; until then it serves only what no other worker can.
    It may be called in any thread, and also between two calls, or by a thread or task that a call has
    left behind: then it is no call's. What is said between two calls the host hears when it next looks
    for a worker, or else (where there is no shared page: off Linux) with the next answer or ping. The
    first reason counts. In a worker that is still starting it fails the start.

    Raises TypeError when the reason is no text, ValueError when it is empty.
    """
    if not isinstance(reason, str):
        raise TypeError("retire() takes the reason, a text: got %r" % (reason,))
    if not reason.strip():
        raise ValueError("retire() takes the reason, and that is empty")
    _retire(reason, False)


def _retire(reason: str, certain: bool) -> None:
    about = _asks(certain)
    if RETIREMENT.reason is not None:
        return
    RETIREMENT.reason = reason = reason[:MAX_REASON]
    channel = _channel.OURS.channel
    if channel is not None and channel.retires and os.getpid() == _life.WATCH.pid:
        text = escape(reason.encode("utf-8", "replace").decode("utf-8"))
        _channel.tell_first(text.encode("ascii"), about)
        channel.page[RETIRES] = 1  # only now: who sees it asks, and is to be told


def _asks(certain: bool) -> int:
    """Note that the call that is served here asks for it, and return its id; 0 where that is none, or
    is not certain.
    """
    request = RUNNING.request
    if request is SHARED_REQUEST:
        task = RUNNING.task()
        if task is None:
            return 0
        task.retires = True
        return task.request[0]
    if request is None or not (certain or _is_its(request)):
        return 0
    RETIREMENT.latest = request[0]
    return request[0]


def _is_its(request: Request) -> bool:
    """Whether it is code of the request that runs here: threads and tasks that another call has left
    behind run during this one.
    """
    known: Any = CALL.get(None)
    if known is None:
        if get_ident() == LOG.thread:
            return not LOG.looping
        from . import _output  # which knows threads

        known = _output.printing()
    return known is not None and abs(known[0]) == request[0]


def has_asked(id: int) -> bool:
    """Whether the call, which runs, has asked for it; of a batch, any of its calls."""
    task, request = RUNNING.tasks.get(id), RUNNING.request
    if task is not None:
        return task.retires
    return request is not None and request[0] == RETIREMENT.latest


RUNNING.retires = has_asked


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
        _retire("%s %s raised %s%s (retire_on)" % (entry.what, entry.name, module, name), True)
