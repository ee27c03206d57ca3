"""A call that needs more than `handler(**args)`: its first one, converted arguments, coroutines,
streams, programs.
"""

from __future__ import annotations

from . import _bind, _cancel
from ._call import RUNNING
from ._results import encode
from ._signatures import split
from ._wire import BLOBS, STREAM, BindError, ResultError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from ._answers import Answers
    from ._commands import Command


def run(answers: Answers, id: int, entry: Command, args: Any, how: int) -> str:
    """Bind, call, and return the final line. `how` the caller takes what it gives: STREAM, BLOBS."""
    answers.calls += 1
    try:
        if entry.streams and not how & STREAM:
            raise needs_stream(entry)
        positional, keyword = _bind.bind(entry, args)
    except BindError as error:
        return answers.refused(id, error.fields())
    except BaseException as error:
        if is_ours(error):
            raise
        return answers.failed(id, error)  # raised by a class of the user's that was to be made
    if entry.columns is not None and RUNNING.calls is None:
        RUNNING.calls = (RUNNING.request,)  # type: ignore[assignment]
        try:
            return run(answers, id, entry, args, how)
        finally:
            RUNNING.calls = None
    if not entry.interruptible:
        with _cancel.holding():
            return _call(answers, id, entry, args, positional, keyword, how)
    if entry.direct is not None and entry.what == "command" and not (entry.streams or _bind.outgoing(entry)):
        answers.direct[entry.name] = entry.direct
    return _call(answers, id, entry, args, positional, keyword, how)


def _call(answers: Answers, id: int, entry: Command, args: Any, positional: Any, keyword: Any, how: int) -> str:
    try:
        return finish(answers, id, entry, _cancel.enter(entry.func, positional, keyword), how)
    except BaseException as error:
        return answers.failed(id, error, entry, args)


def finish(answers: Answers, id: int, entry: Command, result: Any, how: int) -> str:
    """The final line for what a handler has returned, which decides what it is: a value, an
    awaitable, items.
    """
    kind = type(result)  # an object may answer to any name, and Python asks its class
    awaits = hasattr(kind, "__await__")
    if awaits or hasattr(kind, "__next__") or hasattr(kind, "__anext__"):
        entry.direct = None  # it needs this way each time
        answers.direct.pop(entry.name, None)
        if entry.adapt is None:
            entry.adapt = _as_it_is(entry)
    if awaits:
        from . import _async  # imports asyncio

        result = _async.run(result)
    if how & STREAM:
        from . import _stream  # most commands are none

        items = hasattr(type(result), "__next__") or hasattr(type(result), "__anext__")
        return _stream.run(answers, id, entry, result, _sender(answers, id, entry, how, items))
    if hasattr(type(result), "__anext__") or hasattr(type(result), "gi_frame"):
        _discard(result)
        raise gave_items(entry)
    if how & BLOBS:
        from . import _blobs  # many callers take none

        return _blobs.succeeded(answers, id, _blobs.prepared(entry, result))
    outgoing = _bind.outgoing(entry)
    return answers.succeeded(id, encode(outgoing(result) if outgoing else result))


def needs_stream(entry: Command) -> BindError:
    return BindError("%s %r is a generator: call it with Stream or Each" % (entry.what, entry.name))


def gave_items(entry: Command) -> ResultError:
    message = "%s %r returned a generator: call it with Stream or Each" % (entry.what, entry.name)
    return ResultError("invalid_result", message=message, path="$")


def _sender(answers: Answers, id: int, entry: Command, how: int, items: bool) -> Callable[[Any], None]:
    """What sends an item of a stream, which is a plain result where there are no `items`."""
    if how & BLOBS:
        from . import _blobs  # many callers take none

        return lambda item: _blobs.item(answers, id, _blobs.prepared(entry, item, items))
    outgoing = _bind.outgoing(entry, items)
    if outgoing:
        return lambda item: answers.item(id, encode(outgoing(item)))
    return lambda item: answers.item(id, encode(item))


def is_ours(error: BaseException) -> bool:
    """Whether the runtime itself has raised this."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is None or str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0] == __name__.partition(".")[0]


def _as_it_is(entry: Command) -> Any:
    return lambda args: split(entry, args)


def _discard(result: Any) -> None:
    close = getattr(result, "close", None)
    if close is not None:
        close()
