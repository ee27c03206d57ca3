"""Exceptions as the error objects of the wire."""

from __future__ import annotations

import os
import sys
import traceback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType, TracebackType
    from typing import Any, Dict, Iterable, List, Optional

#: Characters of a message or a traceback that travel; an exception may hold a whole document.
MAX_MESSAGE = 64 * 1024
MAX_TRACEBACK = 256 * 1024
#: What lies below these is not the user's own code.
_STDLIB = os.path.dirname(getattr(os, "__file__", None) or "") + os.sep
_INSTALLED = (os.sep + "site-packages" + os.sep, os.sep + "dist-packages" + os.sep)


def exception_fields(error: BaseException, whole: bool = False) -> Dict[str, Any]:
    """type, module, message, traceback, notes, and code for a SystemExit. Never raises, whatever the exception's methods do."""
    kind = type(error)
    fields: Dict[str, Any] = {
        "type": kind.__qualname__,
        "module": str(kind.__module__),
        "message": _clip(_text(error), MAX_MESSAGE),
        "traceback": _clip(format_traceback(error, whole), MAX_TRACEBACK),
        "notes": [_clip(_text(note), MAX_MESSAGE) for note in _notes(error)],
    }
    fields.update(_place(error))
    if isinstance(error, SystemExit):
        code = error.code
        fields["code"] = code if code is None or type(code) in (int, str) else _text(code)
    return fields


def format_traceback(error: BaseException, whole: bool = False) -> str:
    """The traceback as Python prints it, without the runtime's own frames on top unless `whole` asks for them."""
    try:
        trace = error.__traceback__ if whole else _user_part(error.__traceback__)
        lines = traceback.format_exception(type(error), error, trace)
        return "".join(lines)
    except BaseException as failure:
        return "%s: %s\n(the traceback cannot be formatted: %s)\n" % (
            type(error).__name__,
            _text(error),
            type(failure).__name__,
        )


def _user_part(trace: Optional[TracebackType]) -> Optional[TracebackType]:
    """The traceback from the first frame that is the user's; all of it is dropped where the runtime alone was on the stack."""
    while trace is not None and _is_ours(trace.tb_frame):
        trace = trace.tb_next
    return trace


def _is_ours(frame: FrameType) -> bool:
    # __package__ first: under `python -m pypool` the command line's own module is called __main__.
    name = frame.f_globals.get("__package__") or frame.f_globals.get("__name__") or ""
    package = str(name).partition(".")[0]
    return package in ("pypool", "asyncio", "importlib", "_frozen_importlib", "_frozen_importlib_external")


def _place(error: BaseException) -> Dict[str, Any]:
    """file, line and function of the innermost frame that is code of the user's own; nothing where there is none."""
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
    return not (file.startswith(("<", _STDLIB)) or any(part in file for part in _INSTALLED))


def _text(value: object) -> str:
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


def unknown(what: str, name: str, names: Iterable[str]) -> Dict[str, Any]:
    """The error object for a command or program that nobody registered; names come nearest first."""
    from difflib import SequenceMatcher

    wanted = name[:128].lower()
    ordered = sorted(names, key=lambda other: -SequenceMatcher(None, wanted, other.lower()).ratio())
    message = "unknown %s %r" % (what, name[:128])
    message += "; known are: " + ", ".join(ordered[:10]) if ordered else "; none is registered"
    return {"kind": "unknown_command", "message": message, "what": what, "names": ordered}


def note(text: str) -> None:
    """A line for the worker's log, from the runtime itself."""
    try:
        sys.stderr.write("pypool: " + text + "\n")
    except BaseException:
        pass
