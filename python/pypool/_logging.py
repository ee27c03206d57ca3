"""Python's `logging` and `warnings`, loguru and structlog as records that the host turns into its
own.

A record goes to the host when it reaches the root logger, whatever handlers a script has put there
or taken away, or when one of another logger writes it to stdout or stderr. What handlers write
there is a rendering of that record: it is held back.
"""

from __future__ import annotations

import sys

from . import _finder, _life, _output
from ._output import HELD, flow
from ._stdio import LOG, Printed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict

#: Characters of a message and of a traceback that travel.
MAX_TEXT = 16 * 1024
_SENT = "_pypool_sent"


def install(logging: Any, level: int) -> None:
    """Hook for `logging`."""
    root = logging.getLogger()
    if root.level == logging.WARNING:
        root.setLevel(level)
    call_handlers, handle, handle_error = logging.Logger.callHandlers, logging.Handler.handle, logging.Handler.handleError

    def callHandlers(self: Any, record: Any) -> None:  # noqa: N802
        logger = self
        while logger.propagate and logger.parent is not None:
            logger = logger.parent
        if logger.parent is None:
            _send(record)
        _hold(record, call_handlers, self, record)

    def handle_held(self: Any, record: Any) -> Any:
        # Not called by callHandlers alone: a QueueListener does so, too
        return _hold(record, handle, self, record)

    def handleError(self: Any, record: Any) -> None:  # noqa: N802
        held = HELD.pop(flow(), None)  # what a handler could not do is no rendering
        try:
            handle_error(self, record)
        finally:
            if held is not None:
                HELD[flow()] = held

    logging.Logger.callHandlers, logging.Handler.handle, logging.Handler.handleError = callHandlers, handle_held, handleError
    _finder.when_imported("loguru._simple_sinks", loguru)  # both of them import logging first
    _finder.when_imported("structlog._output", structlog)


def _hold(record: Any, function: Callable[..., Any], *args: Any) -> Any:
    """Call function; what it writes to stdout and stderr is the record, which is sent once in its
    stead.
    """
    here = flow()
    if here in HELD or not LOG.mark:
        return function(*args)
    HELD[here] = 0
    try:
        return function(*args)
    finally:
        if HELD.pop(here, 0):
            _send(record)


def _send(record: Any) -> None:
    """Send a record of `logging`, once. Never fails a call."""
    if record.__dict__.get(_SENT):
        return
    record.__dict__[_SENT] = True
    try:
        exc = ""
        if record.exc_info and record.exc_info[1] is not None:
            from . import _errors  # few records have an exception

            exc = _errors.format_traceback(record.exc_info[1])
        elif record.exc_text:
            exc = record.exc_text
        stack = getattr(record, "stack_info", None)
        if stack:  # behind the exception, as logging.Formatter has it
            exc = "%s\n%s" % (exc.rstrip("\n"), stack) if exc else stack
        _emit(record.levelno, record.name, _message(record), exc)
    except Exception as error:
        _life.note("a record of logging cannot be told: %s" % type(error).__name__)


def _message(record: Any) -> str:
    try:
        return str(record.getMessage())
    except Exception as error:
        return "%r, whose arguments do not fit (%s): %s" % (record.msg, type(error).__name__, _repr(record.args))


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except Exception:
        return "?"


def _emit(level: int, logger: str, message: str, exc: str = "") -> None:
    fields: Dict[str, Any] = {"level": level, "logger": logger, "message": _clean(message)}
    if exc:
        fields["exc"] = _clean(exc)
    try:
        _output.record(fields)
    except OSError:
        pass  # nobody listens


def _clean(text: str) -> str:
    if len(text) > MAX_TEXT:
        text = text[:MAX_TEXT] + "... (%d characters)" % len(text)
    return text.encode("utf-8", "replace").decode("utf-8")


def show_warning(
    warnings: Any, plain: Any, message: Any, category: Any, filename: Any, lineno: Any, file: Any = None, line: Any = None
) -> None:
    """What warnings.showwarning does in a worker: a record of the logger that
    logging.captureWarnings uses.
    """
    if file is not None:
        plain(message, category, filename, lineno, file, line)
        return
    import logging

    text = warnings.formatwarning(message, category, filename, lineno, line)
    logging.getLogger("py.warnings").warning("%s", text)


def _ours(stream: Any) -> bool:
    """Whether what is written to a stream reaches the host's log."""
    return bool(LOG.mark) and isinstance(getattr(stream, "buffer", None), Printed)


def loguru(sinks: Any) -> None:
    """Hook for `loguru._simple_sinks`: what a sink would write to stdout or stderr is sent as the
    record that it is.
    """
    plain = sinks.StreamSink.write

    def write(self: Any, message: Any) -> None:
        record = getattr(message, "record", None)
        if record is None or not _ours(self._stream):
            plain(self, message)
        elif flow() in HELD:
            HELD[flow()] += 1  # a handler of logging handed it on: the host has it, or gets it
        else:
            from . import _errors  # as above

            failure = record["exception"]
            exc = _errors.format_traceback(failure.value) if failure is not None and failure.value is not None else ""
            _emit(record["level"].no, record["name"] or "loguru", record["message"], exc)

    sinks.StreamSink.write = write


def structlog(output: Any) -> None:
    """Hook for `structlog._output`: its own loggers print; their methods know the level."""
    levels = {"debug": 10, "info": 20, "msg": 20, "warning": 30, "warn": 30, "error": 40, "err": 40}
    levels.update(failure=40, exception=40, critical=50, fatal=50, log=20)
    for kind, stream in (("PrintLogger", "_file"), ("WriteLogger", "_file")):
        owner = getattr(output, kind, None)
        for name, level in levels.items() if owner is not None else ():
            plain = getattr(owner, name, None)
            if plain is not None:
                setattr(owner, name, _structlog_method(plain, stream, level))


def _structlog_method(plain: Any, stream: str, level: int) -> Any:
    def method(self: Any, message: str) -> Any:
        if not _ours(getattr(self, stream, sys.stdout)):
            return plain(self, message)
        text, _, exc = str(message).partition("\n")
        _emit(level, "structlog", text, exc)
        return None

    method.__doc__ = plain.__doc__
    return method
