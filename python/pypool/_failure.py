"""Calls that did not succeed: their error objects, and these as final lines."""

from __future__ import annotations

from ._errors import exception_fields
from ._json import encode_raw
from ._wire import BindError, ResultError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Optional

    from ._commands import Command

#: Characters that remain of each text when an error object is longer than a message may be.
SHORT = 200


def fields_of(error: BaseException, entry: Optional[Command], args: Any) -> Dict[str, Any]:
    """The error object for what a call raised. A TypeError may be Python's refusal to enter `entry`
    with these args.
    """
    if isinstance(error, ResultError):
        return dict(error.fields, kind=error.kind)
    if entry is not None and isinstance(error, BindError):
        return error.fields()
    if entry is not None and type(error) is TypeError:
        refused = _mismatch(entry, args, error)
        if refused is not None:
            return refused
    return {"kind": "python_exception", **exception_fields(error)}


def _mismatch(entry: Command, args: Any, error: TypeError) -> Optional[Dict[str, Any]]:
    """The error object for a call that Python has refused to enter; None when the arguments are not
    to blame.
    """
    message = ""
    try:
        if _not_entered(error):
            from ._signatures import mismatch  # loaded with the first call

            refused = mismatch(entry, args)
            return None if refused is None else refused.fields()
        if hasattr(entry.func, "__wrapped__"):
            from ._wrapped import refused_inside  # loaded with the call of a decorated command

            message = refused_inside(entry, error)
            if message:  # the wrapper has run
                return {"kind": "invalid_arguments", "message": message, "entered": True}
    except Exception:  # what looks at signatures cannot be loaded any more: Python's own words must do
        # Of C code nobody knows whether it has begun
        if type(entry.func) is type(_mismatch) and _not_entered(error):
            message = "%s: %s" % (entry.name, error)
    return {"kind": "invalid_arguments", "message": message} if message else None


def internal_fields(error: BaseException) -> Dict[str, Any]:
    """The error object for an exception that is the runtime's own, with all frames: somebody has to
    find that mistake.
    """
    return {"kind": "internal", **exception_fields(error, whole=True)}


def fitting_line(id: int, fields: Dict[str, Any], limit: int) -> str:
    """`error_line`, with what fits into a message of the limit."""
    text = error_line(id, fields)
    if len(text) > limit:
        short = {key: value[:SHORT] if type(value) is str else value for key, value in fields.items()}
        text = error_line(id, {key: value for key, value in short.items() if type(value) is not list})
    return text


def error_line(id: Optional[int], fields: Dict[str, Any]) -> str:
    """An error object in its envelope. Its strings may hold anything, lone surrogates too: those
    are replaced.
    """
    text = encode_raw({key: _printable(value) for key, value in fields.items()})
    return '{"id":%s,"success":false,"error":%s}\n' % ("null" if id is None else "%d" % id, text)


def _not_entered(error: BaseException) -> bool:
    """Whether the call itself raised, before the handler's first line: no frame but `_bind`'s or
    `_cancel.enter`'s lies below the one that called.
    """
    below = error.__traceback__.tb_next if error.__traceback__ is not None else None
    if below is not None and below.tb_frame.f_globals.get("__name__") in ("pypool._bind", "pypool._cancel"):
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
