"""The one event loop of a worker, kept across calls: clients and tasks that a handler leaves in it live on."""

from __future__ import annotations

import asyncio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Awaitable, Optional

_loop: Optional[asyncio.AbstractEventLoop] = None


def run(awaitable: Awaitable[Any]) -> Any:
    """Run an awaitable to its end and return its result. Tasks it started and did not await go on during the next call."""
    return event_loop().run_until_complete(_await(awaitable))


def event_loop() -> asyncio.AbstractEventLoop:
    global _loop
    if _loop is None or _loop.is_closed():
        _loop = asyncio.new_event_loop()
        asyncio.set_event_loop(_loop)
    return _loop


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
