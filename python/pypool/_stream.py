"""A generator command's items, one frame each, until it ends, fails, or the host cancels."""

from __future__ import annotations

from ._call import RUNNING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterator

    from ._answers import Answers
    from ._commands import Command


def run(answers: Answers, id: int, entry: Command, result: Any, send: Callable[[Any], None]) -> str:
    """Send what the handler yields, one by one; returns the final line. A plain command's result is its one
    item.

    The generator is closed in every case, so that its finally blocks have run before the final line
    is written.
    """
    items = items_of(result)
    cancel = b'{"id":%d,"cancel":true}' % id
    try:
        # Asked before each item, so that a caller who left early stops a generator that has not
        # begun, too.
        while not (answers.channel.told(cancel) or RUNNING.canceled(id)):
            try:
                item = next(items)
            except StopIteration:
                break
            send(item)
    except BaseException as error:
        answers.judge(entry, error)
        answer = answers.failed(id, error)
        _close(items)
        return answer
    close = getattr(items, "close", None)
    if close is not None:
        close()
    return answers.succeeded(id, "null")


def items_of(result: Any) -> Iterator[Any]:
    """What a handler returned, as an iterator of items."""
    if hasattr(type(result), "__anext__"):
        from . import _async  # imports asyncio

        return _async.items(result)
    if hasattr(type(result), "__next__"):
        items: Iterator[Any] = result
        return items
    return iter((result,))


def _close(items: Any) -> None:
    """Close after an error that is the call's outcome already; another one only goes to the log."""
    try:
        close = getattr(items, "close", None)
        if close is not None:
            close()
    except BaseException as error:
        from . import _errors  # seldom needed

        _errors.note("a generator raised while it was closed:\n" + _errors.format_traceback(error))
