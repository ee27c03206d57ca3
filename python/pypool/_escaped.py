"""Exceptions that no handler raised: a signal handler's, that struck the loop itself, or the
channel's.
"""

from __future__ import annotations

from . import _errors, _life
from ._call import RUNNING
from ._channel import READING
from ._json import id_of
from ._page import Waiter
from ._wire import BATCH, PACKED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn, Optional

    from ._answers import Answers
    from ._wire import Line


def escaped(answers: Answers, line: Optional[Line], id: int, error: BaseException, writing: bool) -> None:
    """An exception no handler raised: a signal handler's, that struck the loop itself; no memory
    for a line; a broken channel.

    `line` is the request's, READING while it was looked for, None while none was in hand; `id` is 0
    until it has been read as a whole.
    """
    if isinstance(error, OSError) and _in_channel(error):
        _life.host_gone("the channel to the host is closed: %s" % error)  # nobody reads answers any more
    lines = answers.channel.lines
    if lines and lines[-1] is line:
        del lines[-1]  # struck while it was taken
    packed = isinstance(line, bytes) and line.startswith((PACKED.encode(), BATCH.encode()))
    packed = packed or (isinstance(line, tuple) and type(line[2]) is tuple)  # see _wire.Batch
    if line is READING and _struck_waiting(error) and not isinstance(error, MemoryError):
        line = None
    if writing or answers.channel.torn or packed or line is READING:
        # Whether the answer is out cannot be known, and a second one would be worse than none. Or a
        # line was too long to be kept, or not stored yet, or is of several requests:
        # what has been read of it is lost, so the worker is.
        try:
            trace = _errors.format_traceback(error, whole=True)
            _errors.note("the worker ends, because a line was read or written only in part:\n" + trace)
        except BaseException:
            pass  # no memory, or struck again: it ends without a word then
        end()
    unread = None
    if isinstance(line, tuple):
        unread = line[0]
    elif not id and line is not None:
        unread = id_of(bytes(line[:64]).decode("utf-8", "replace"))
    if id:
        answers.channel.write(answers.failed(id, error))
    elif unread:
        message = "the arguments cannot be read: %s" % type(error).__name__
        answers.channel.write(answers.refused(unread, {"kind": "invalid_arguments", "message": message}))
    else:
        _errors.note("raised between two calls, by a signal handler perhaps:\n" + _errors.format_traceback(error))
    RUNNING.request = None


def end() -> NoReturn:
    """End the worker, in order if that can be."""
    try:
        from . import _exit  # only now

        _exit.finish(1)
    finally:
        _life.end(1)


def _struck_waiting(error: BaseException) -> bool:
    """Whether `error`, which came out of next_line, was raised before anything was read: a chunk
    that was read, and not kept yet, is lost with it.
    """
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in _WAITING:
            return True
        trace = trace.tb_next
    return False


#: Where next_line waits.
_WAITING = (Waiter.wait.__code__, Waiter.park.__code__)


def _in_channel(error: BaseException) -> bool:
    """Whether reading or writing a line has raised this, and neither a signal handler that ran
    meanwhile nor anything else.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__") in ("pypool._channel", "pypool._page")
