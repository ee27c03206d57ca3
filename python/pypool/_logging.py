"""Python's `logging` and `warnings` as records on stderr that the host turns into its own: "\\x1epypool:{...}"."""

from __future__ import annotations

import os
import sys

from ._call import RUNNING
from ._protocol import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict

MARK = b"\x1epypool:"
#: Characters of a message and of a traceback that travel, so that a record stays a line the host accepts.
MAX_TEXT = 16 * 1024


def install(logging: Any, err: int, level: int) -> None:
    """Send the root logger's records to the host; `err` is the private copy of stderr."""

    class HostHandler(logging.Handler):  # type: ignore[misc]
        """Writes each record with one write(2), never fails a call."""

        def emit(self, record: Any) -> None:
            try:
                os.write(err, format_record(record))
            except OSError:
                pass
            except Exception:
                self.handleError(record)

    handler = HostHandler()
    handler.set_name("pypool")
    root = logging.getLogger()
    root.addHandler(handler)
    if root.level == logging.WARNING:
        root.setLevel(level)
    _tame_basic_config(logging, root, handler)


def _tame_basic_config(logging: Any, root: Any, handler: Any) -> None:
    """Let logging.basicConfig set what it sets, but not write to stderr a second time what the host gets already."""
    original = logging.basicConfig

    def basicConfig(**options: Any) -> None:  # noqa: N802
        ours = handler in root.handlers
        root.removeHandler(handler)
        try:
            original(**options)
        finally:
            if ours or options.get("force"):
                for other in list(root.handlers):
                    if type(other) is logging.StreamHandler and other.stream in (sys.stdout, sys.stderr):
                        root.removeHandler(other)
                root.addHandler(handler)

    basicConfig.__doc__ = original.__doc__
    logging.basicConfig = basicConfig


def show_warning(
    warnings: Any, plain: Any, message: Any, category: Any, filename: Any, lineno: Any, file: Any = None, line: Any = None
) -> None:
    """What warnings.showwarning does in a worker: a record of the logger that logging.captureWarnings uses."""
    if file is not None:
        plain(message, category, filename, lineno, file, line)
        return
    import logging

    text = warnings.formatwarning(message, category, filename, lineno, line)
    logging.getLogger("py.warnings").warning("%s", text)


def format_record(record: Any) -> bytes:
    """One log record as the line that docs/protocol.md describes."""
    fields: Dict[str, Any] = {
        "level": record.levelno,
        "logger": record.name,
        "message": _clean(record.getMessage()),
    }
    if record.exc_info and record.exc_info[1] is not None:
        from . import _errors

        fields["exc"] = _clean(_errors.format_traceback(record.exc_info[1]))
    elif record.exc_text:
        fields["exc"] = _clean(record.exc_text)
    request = RUNNING.request
    if request is not None:
        fields["call"] = request[0]
        if request[3] is not None:
            fields["session"] = request[3]
    return MARK + encode(fields).encode("ascii") + b"\n"


def _clean(text: str) -> str:
    if len(text) > MAX_TEXT:
        text = text[:MAX_TEXT] + "... (%d characters)" % len(text)
    return text.encode("utf-8", "replace").decode("utf-8")
