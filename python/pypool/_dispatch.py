"""A call that needs more than `handler(**args)`: its first one, converted arguments, coroutines, streams, programs."""

from __future__ import annotations

from . import _bind
from ._protocol import ResultError, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._commands import Command
    from ._worker import Worker


def run(worker: Worker, id: int, entry: Command, args: Any, stream: bool) -> str:
    """Bind, call, and return the final line."""
    worker.calls += 1
    try:
        if entry.streams and not stream:
            raise _bind.BindError("%s %r is a generator: call it with Stream or Each" % (entry.what, entry.name))
        positional, keyword = _bind.bind(entry, args)
    except _bind.BindError as error:
        from . import _failure

        return _failure.refused(worker, id, error.fields())
    except BaseException as error:
        if _is_ours(error):
            raise
        return worker.failed(id, error)  # raised by a class of the user's that was to be made
    if entry.direct is not None and entry.what == "command" and not (entry.streams or _bind.outgoing(entry)):
        worker.direct[entry.name] = entry.direct
    try:
        return finish(worker, id, entry, entry.func(*positional, **keyword), stream)
    except BaseException as error:
        return worker.failed(id, error, entry, args)


def finish(worker: Worker, id: int, entry: Command, result: Any, stream: bool) -> str:
    """The final line for what a handler has returned, which decides what it is: a value, an awaitable, items."""
    awaits = hasattr(result, "__await__")
    if awaits or hasattr(result, "__next__") or hasattr(result, "__anext__"):
        entry.direct = None  # it needs this way each time
        worker.direct.pop(entry.name, None)
        if entry.adapt is None:
            entry.adapt = _as_it_is(entry)
    if awaits:
        from . import _async

        result = _async.run(result)
    if stream:
        from . import _stream

        return _stream.run(worker, id, result, _bind.outgoing(entry) or None)
    if hasattr(result, "__anext__") or hasattr(result, "gi_frame"):
        _discard(result)
        message = "%s %r returned a generator: call it with Stream or Each" % (entry.what, entry.name)
        raise ResultError("invalid_result", message=message, path="$")
    outgoing = _bind.outgoing(entry)
    return worker.succeeded(id, encode(outgoing(result) if outgoing else result))


def _is_ours(error: BaseException) -> bool:
    """Whether the runtime itself has raised this."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is None or str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0] == __name__.partition(".")[0]


def _as_it_is(entry: Command) -> Any:
    return lambda args: _bind._split(entry, args)


def _discard(result: Any) -> None:
    close = getattr(result, "close", None)
    if close is not None:
        close()


def send_item(worker: Worker, id: int, text: str) -> None:
    """One frame of a stream; text is JSON."""
    line = '{"id":%d,"item":%s}\n' % (id, text)
    if len(line) > worker.limit:
        message = "the item has %d bytes, the limit is %d" % (len(line), worker.limit)
        raise ResultError("message_too_large", message=message, size=len(line), limit=worker.limit)
    worker.channel.write(line)
