"""Calls that did not succeed, as final lines."""

from __future__ import annotations

from . import _errors, _life
from ._call import RUNNING
from ._channel import READING
from ._protocol import MAX_ID, PACKED, ResultError, encode_raw, scan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, NoReturn, Optional

    from ._commands import Command
    from ._protocol import Line, RequestError
    from ._worker import Worker

#: Characters that remain of each text when an error object is longer than a message may be.
SHORT = 200


def answer(worker: Worker, id: int, error: BaseException, entry: Optional[Command], args: Any) -> str:
    """The final line for what a call raised. A TypeError may be Python's refusal to enter `entry` with these args."""
    if worker.channel.torn:
        escaped(worker, b"", id, error, True)
    if isinstance(error, ResultError):
        return _fitting(worker, id, dict(error.fields, kind=error.kind))
    if entry is not None and type(error).__name__ == "BindError" and hasattr(error, "fields"):
        return _fitting(worker, id, error.fields())
    if entry is not None and type(error) is TypeError:
        refused = _mismatch(entry, args, error)
        if refused is not None:
            return _fitting(worker, id, refused)
    fields: Dict[str, Any] = {"kind": "python_exception"}
    fields.update(_errors.exception_fields(error))
    return _fitting(worker, id, fields)


def _mismatch(entry: Command, args: Any, error: TypeError) -> Optional[Dict[str, Any]]:
    """The error object for a call that Python has refused to enter; None when the arguments are not to blame."""
    message = ""
    try:
        if _not_entered(error):
            from . import _bind

            refused = _bind.mismatch(entry, args)
            return None if refused is None else refused.fields()
        if hasattr(entry.func, "__wrapped__"):
            from . import _wrapped

            message = _wrapped.refused_inside(entry, error)
    except Exception:  # what looks at signatures cannot be loaded any more: Python's own words must do
        if type(entry.func) is type(_mismatch) and _not_entered(error):  # of C code nobody knows whether it has begun
            message = "%s: %s" % (entry.name, error)
    return {"kind": "invalid_arguments", "message": message} if message else None


def internal(worker: Worker, id: int, error: BaseException) -> str:
    """The final line for an exception that is the runtime's own, with all frames: somebody has to find that mistake."""
    fields: Dict[str, Any] = {"kind": "internal"}
    fields.update(_errors.exception_fields(error, whole=True))
    return refused(worker, id, fields)


def refused(worker: Worker, id: int, fields: Dict[str, Any]) -> str:
    """The final line for a call whose handler did not begin."""
    worker.errors += 1
    return _fitting(worker, id, fields)


def refusal(error: RequestError) -> str:
    """The answer to a line that is not a request."""
    return error_line(error.id, {"kind": error.kind, "message": str(error)})


def escaped(worker: Worker, line: Optional[Line], id: int, error: BaseException, writing: bool) -> None:
    """An exception no handler raised: a signal handler's, that struck the loop itself; no memory for a line; a broken channel.

    `line` is the request's, READING while it was looked for, None while none was in hand; `id` is 0 until it has been read as a
    whole.
    """
    if isinstance(error, OSError) and _in_channel(error):
        _errors.note("the channel to the host is closed: %s" % error)  # the host looks for these words
        _life.host_gone()  # nobody reads answers any more
    lines = worker.channel.lines
    if lines and lines[-1] is line:
        del lines[-1]  # struck while it was taken
    packed = isinstance(line, bytes) and line.startswith(PACKED.encode())
    if line is READING and worker.channel.struck_waiting(error) and not isinstance(error, MemoryError):
        line = None
    if writing or packed or line is READING:
        # Whether the answer is out cannot be known, and a second one would be worse than none. Or a line was too long to be
        # kept, or not stored yet, or not yet taken apart into its requests: what has been read of it is lost, so the worker is.
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
        worker.channel.write(worker.failed(id, error))
    elif unread:
        message = "the arguments cannot be read: %s" % type(error).__name__
        worker.channel.write(refused(worker, unread, {"kind": "invalid_arguments", "message": message}))
    else:
        _errors.note("raised between two calls, by a signal handler perhaps:\n" + _errors.format_traceback(error))
    RUNNING.request = None


def end() -> NoReturn:
    """End the worker, in order if that can be."""
    try:
        from . import _exit

        _exit.finish(1)
    finally:
        _life.end(1)


def _in_channel(error: BaseException) -> bool:
    """Whether reading or writing a line has raised this, and neither a signal handler that ran meanwhile nor anything else."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__") == "pypool._channel"


def id_of(text: str) -> Optional[int]:
    """The id of a line that cannot be read as a whole, by its prefix; None when that does not show it."""
    if not text.startswith('{"id":'):
        return None
    try:
        id, _ = scan(text, 6)
    except (ValueError, StopIteration, RecursionError):
        return None
    return id if type(id) is int and 0 < id <= MAX_ID else None


def error_line(id: Optional[int], fields: Dict[str, Any]) -> str:
    """An error object in its envelope. Its strings may hold anything, lone surrogates too: those are replaced."""
    text = encode_raw({key: _printable(value) for key, value in fields.items()})
    return '{"id":%s,"success":false,"error":%s}\n' % ("null" if id is None else "%d" % id, text)


def _fitting(worker: Worker, id: int, fields: Dict[str, Any]) -> str:
    text = error_line(id, fields)
    if len(text) > worker.limit:
        short = {key: value[:SHORT] if type(value) is str else value for key, value in fields.items()}
        text = error_line(id, {key: value for key, value in short.items() if type(value) is not list})
    return text


def _not_entered(error: BaseException) -> bool:
    """Whether the call itself raised, before the handler's first line: no frame but `_bind`'s lies below the one that called."""
    below = error.__traceback__.tb_next if error.__traceback__ is not None else None
    if below is not None and below.tb_frame.f_globals.get("__name__") == __name__.replace("_failure", "_bind"):
        below = below.tb_next
    return below is None


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return str.encode(value, "utf-8", "replace").decode("utf-8")
    if type(value) is list:
        return [_printable(item) for item in value]
    if type(value) is dict:
        return {_printable(key): _printable(item) for key, item in value.items()}
    return value if value is None or type(value) in (int, bool) else str(type(value))
