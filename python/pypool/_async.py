"""The one event loop of a worker, kept across calls: clients and tasks that a handler leaves in it
live on.
"""

from __future__ import annotations

import asyncio
from contextvars import copy_context

from ._call import CALL, RUNNING, named
from ._cancel import STATE
from ._life import note
from ._stdio import LOG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, AsyncIterator, Awaitable, Dict, Iterator, Optional

_loop: Optional[asyncio.AbstractEventLoop] = None


def run(awaitable: Awaitable[Any]) -> Any:
    """Run an awaitable to its end and return its result. Tasks it started and did not await go on
    during the next call.
    """
    loop = event_loop()
    return _finish(loop, loop.create_task(_await(awaitable)))


def run_here(awaitable: Awaitable[Any]) -> Any:
    """The same, and what it has set in context variables by its end is set here, too: a task has a
    context of its own.
    """
    found: Dict[Any, Any] = {}

    async def kept() -> Any:
        result = await awaitable
        found.update(copy_context().items())
        return result

    result = run(kept())
    for variable, value in found.items():
        if variable is not CALL and variable.get(found) is not value:
            variable.set(value)
    return result


def event_loop() -> asyncio.AbstractEventLoop:
    global _loop
    if _loop is None or _loop.is_closed():
        _loop = asyncio.new_event_loop()
        asyncio.set_event_loop(_loop)
    return _loop


def items(source: AsyncIterator[Any]) -> Iterator[Any]:
    """An async generator as a plain one. All its steps run in one task, so that context variables
    and timeouts outlive a step.
    """
    loop = event_loop()
    wish = loop.create_future()

    async def steps() -> None:
        nonlocal wish
        _begin()
        try:
            while await wish:
                wish = loop.create_future()
                item = await source.__anext__()
                answer.set_result(item)
        except StopAsyncIteration:
            pass
        finally:
            close = getattr(source, "aclose", None)
            if close is not None:
                await close()

    task = loop.create_task(steps())
    try:
        while True:
            answer = loop.create_future()
            wish.set_result(True)
            _finish(loop, asyncio.wait((answer, task), return_when=asyncio.FIRST_COMPLETED), task)
            if not answer.done():
                break
            yield answer.result()
    except GeneratorExit:
        if RUNNING.request is not None:
            STATE.told = STATE.raised = RUNNING.request[0]  # it cleans up, and is not to be struck in that
        wish.set_result(False)
        _finish(loop, task)
        raise
    task.result()


def _finish(loop: asyncio.AbstractEventLoop, awaitable: Awaitable[Any], task: Optional[asyncio.Task[Any]] = None) -> Any:
    """Run the loop until the awaitable is done. Other tasks run meanwhile: that one of them exits
    is not this call's failure.
    """
    future = asyncio.ensure_future(awaitable, loop=loop)
    own = task or future
    LOG.looping = True
    STATE.own, STATE.struck, STATE.current = own, None, lambda: asyncio.current_task(loop)
    STATE.task = lambda: loop.call_soon_threadsafe(_cancel, own)
    try:
        while True:
            try:
                return loop.run_until_complete(future)
            except (SystemExit, KeyboardInterrupt) as error:
                if own.done():
                    raise
                note("a task that a call has left behind raised %s" % type(error).__name__)
    finally:
        STATE.task = STATE.own = STATE.struck = None
        LOG.looping = False


def _cancel(own: Any) -> None:
    """Cancel a call's own task, unless it has been told by Canceled meanwhile: it may clean up. A
    task beside it in which that was raised may clean up, too, before what waits for it is canceled.
    """
    request = RUNNING.request
    if request is None or STATE.own is not own or STATE.raised == request[0]:
        return
    if STATE.struck is None or STATE.struck.done():
        STATE.raised = request[0]
        own.cancel()
    else:
        STATE.struck.add_done_callback(lambda struck: None if _has_been_told(own, struck) else _cancel(own))


def _has_been_told(own: Any, struck: Any) -> bool:
    """Whether whoever waited for the task that was struck has had its Canceled by now, and so has what
    waits for that. A gather() that goes on has kept it.
    """
    kept = struck in getattr(getattr(own, "_fut_waiter", None), "_children", ())
    return not kept and (struck.cancelled() or (struck._exception is not None and not struck._log_traceback))


def _begin() -> None:
    request = RUNNING.request
    if request is not None:
        CALL.set(named(request))


async def _await(awaitable: Awaitable[Any]) -> Any:
    _begin()
    return await awaitable
