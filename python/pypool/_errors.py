"""Exceptions as the error objects of the wire."""

from __future__ import annotations

from ._life import SEP, STDLIB
from ._life import note as note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType, TracebackType
    from typing import Any, Dict, List, Optional, Tuple

#: Characters of a message or a traceback that travel; an exception may hold a whole document.
MAX_MESSAGE = 64 * 1024
MAX_TRACEBACK = 256 * 1024
#: What lies below these is not the user's own code.
_INSTALLED = (SEP + "site-packages" + SEP, SEP + "dist-packages" + SEP)
#: Places that a traceback of our own shows at either end.
SHOWN = 50


def exception_fields(error: BaseException, whole: bool = False) -> Dict[str, Any]:
    """type, module, message, traceback, notes, and code for a SystemExit. Never raises, whatever
    the exception's methods do.
    """
    module, name = names(type(error))
    fields: Dict[str, Any] = {
        "type": name,
        "module": module,
        "message": _clip(text_of(error), MAX_MESSAGE),
        "traceback": _clip(format_traceback(error, whole), MAX_TRACEBACK),
        "notes": [_clip(text_of(note), MAX_MESSAGE) for note in _notes(error)],
    }
    fields.update(_place(error))
    if isinstance(error, SystemExit):
        code = error.code
        fields["code"] = code if code is None or type(code) in (int, str) else text_of(code)
    return fields


def format_traceback(error: BaseException, whole: bool = False) -> str:
    """The traceback as Python prints it, without the runtime's own frames on top unless `whole`
    asks for them.

    `traceback` is not loaded in every worker, and may be out of reach by now: no descriptor is
    left, the path was emptied, the root directory is another. It may also have been tampered with.
    The places are told without it, too.
    """
    trace = None
    try:
        trace = error.__traceback__ if whole else _user_part(error.__traceback__)
        import traceback

        text = "".join(traceback.format_exception(type(error), error, trace))
        if text:
            return text
    except MemoryError:
        raise
    except BaseException:
        pass
    return _plain_traceback(error, trace)


def _plain_traceback(error: BaseException, trace: Optional[TracebackType]) -> str:
    """The outermost and the innermost places, and those of the exceptions that led to this one,
    without the lines' text.
    """
    parts: List[str] = []
    seen: List[BaseException] = []
    current: Optional[BaseException] = error
    while current is not None and len(seen) < 20 and current not in seen:
        seen.append(current)
        places = []
        at = trace if current is error else current.__traceback__
        while at is not None:
            code = at.tb_frame.f_code
            places.append('  File "%s", line %d, in %s\n' % (code.co_filename, at.tb_lineno or 0, code.co_name))
            at = at.tb_next
        if len(places) > 2 * SHOWN:
            places[SHOWN:-SHOWN] = ["  ... %d places left out ...\n" % (len(places) - 2 * SHOWN)]
        module, name = names(type(current))
        name, text = name if module == "builtins" else module + "." + name, text_of(current)
        head = "Traceback (most recent call last):\n" if places else ""
        parts.append(head + "".join(places) + name + (": " + text if text else "") + "\n")
        cause = current.__cause__
        if cause is not None:
            parts.append("\nThe above exception was the direct cause of the following exception:\n\n")
        elif current.__context__ is not None and not current.__suppress_context__:
            cause = current.__context__
            parts.append("\nDuring handling of the above exception, another exception occurred:\n\n")
        current = cause
    if len(parts) % 2 == 0:
        del parts[-1]
    return "".join(reversed(parts))


def _user_part(trace: Optional[TracebackType]) -> Optional[TracebackType]:
    """The traceback from the first frame that is the user's; all of it is dropped where the runtime
    alone was on the stack.
    """
    while trace is not None and _is_ours(trace.tb_frame):
        trace = trace.tb_next
    return trace


def _is_ours(frame: FrameType) -> bool:
    # __package__ first: under `python -m pypool` the command line's own module is called __main__.
    name = frame.f_globals.get("__package__") or frame.f_globals.get("__name__") or ""
    package = str(name).partition(".")[0]
    return package in ("pypool", "asyncio", "uvloop", "importlib", "_frozen_importlib", "_frozen_importlib_external")


def _place(error: BaseException) -> Dict[str, Any]:
    """file, line and function of the innermost frame that is code of the user's own; nothing where
    there is none.
    """
    try:
        if isinstance(error, SyntaxError):
            file, line = error.filename, error.lineno
            if type(file) is str and type(line) is int and _is_own(file):
                return {"file": file, "line": line, "function": ""}
        place: Dict[str, Any] = {}
        trace = error.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            if _is_own(code.co_filename) and not _is_ours(trace.tb_frame):
                place = {"file": code.co_filename, "line": trace.tb_lineno, "function": code.co_name}
            trace = trace.tb_next
        return place
    except BaseException:
        return {}


def _is_own(file: str) -> bool:
    return not (file.startswith(("<", STDLIB)) or any(part in file for part in _INSTALLED))


def names(kind: type) -> Tuple[str, str]:
    try:
        return str(kind.__module__), str(kind.__qualname__)
    except BaseException:  # a metaclass can do that
        return "builtins", "Exception"


def text_of(value: object) -> str:
    try:
        return str(value)
    except BaseException as failure:
        return "<%s whose str() raised %s>" % (type(value).__name__, type(failure).__name__)


def _notes(error: BaseException) -> List[object]:
    try:
        notes: Any = getattr(error, "__notes__", None)
        return list(notes) if isinstance(notes, (list, tuple)) else []
    except BaseException:
        return []


def _clip(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    half = limit // 2
    return "%s\n... %d characters left out ...\n%s" % (text[:half], len(text) - limit, text[-half:])
