"""Concurrent commands that call functions of the host's."""

import asyncio
import contextvars
import functools
import os
import threading
from typing import Any, AsyncIterator, Dict, List

from pypool import HostError, command, current_call, host, shield

LEFT: List[Any] = []


def note(path: str, word: str) -> None:
    with open(path, "a") as file:
        file.write(word + "\n")


@command
def pid() -> int:
    return os.getpid()


@command(concurrency=64)
async def call(name: str, keyword: Any = None, positional: Any = None) -> Dict[str, Any]:
    """What the function returns, or how it failed."""
    try:
        return {"result": await getattr(host.aio, name)(*(positional or ()), **(keyword or {}))}
    except HostError as error:
        return {"type": error.type, "message": error.message, "attribute": isinstance(error, AttributeError)}


@command(concurrency=64)
async def many(n: int) -> List[int]:
    """A function many times at once, and one time after the other."""
    first = await asyncio.gather(*[host.aio.echo(i) for i in range(n)])
    return [*first, *[await host.aio.echo(i) for i in range(n)]]


@command(concurrency=64)
async def items(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield await host.aio.echo(i)


@command(concurrency=64)
async def threads(n: int) -> List[List[int]]:
    """From threads: one that has the call's context, one that has the call, and a loop of its own."""
    call, loop = current_call(), asyncio.get_running_loop()

    def own_loop() -> List[int]:
        async def ask() -> List[int]:
            return await asyncio.gather(*[call.host.aio.echo(i) for i in range(n)])

        return asyncio.new_event_loop().run_until_complete(ask())

    inherited = functools.partial(contextvars.copy_context().run, lambda: [host.echo(i) for i in range(n)])
    return await asyncio.gather(
        loop.run_in_executor(None, inherited),
        loop.run_in_executor(None, lambda: [call.host.echo(i) for i in range(n)]),
        loop.run_in_executor(None, own_loop),
    )


@command(concurrency=64)
async def big(size: int) -> int:
    got = await asyncio.gather(*[host.aio.big(size=size) for _ in range(4)])
    sent = await asyncio.gather(*[host.aio.length("x" * size) for _ in range(4)])
    return sum(len(text) for text in got) + sum(sent)


@command(concurrency=64)
async def bytes_of(size: int) -> bool:
    got = await host.aio.echo_bytes(bytes(range(256)) * size)
    return got == bytes(range(256)) * size


@command(concurrency=64)
async def refused(how: str) -> str:
    """What the host's functions say where they cannot be called."""
    loop = asyncio.get_running_loop()
    try:
        if how == "blocking":
            host.echo(1)
        elif how == "thread":
            await loop.run_in_executor(None, host.echo, 1)
        elif how == "callback":
            said = loop.create_future()

            def ask() -> None:
                try:
                    said.set_result(host.aio.echo(1).send(None))
                except LookupError as error:
                    said.set_exception(error)

            contextvars.Context().run(loop.call_soon, ask)
            await said
        else:
            raise ValueError(how)
    except (LookupError, RuntimeError) as error:
        return "%s: %s" % (type(error).__name__, error)
    return "called"


@command(concurrency=64)
async def leave(path: str, gate: str) -> None:
    """Leaves a task and two threads behind that wait for a function when the call ends, and a thread that calls later."""
    call = current_call()

    async def task() -> None:
        try:
            await call.host.aio.block()
        except LookupError:
            note(path, "task")

    def thread(word: str) -> None:
        try:
            call.host.block()
        except LookupError:
            note(path, word)

    def late() -> None:
        while not os.path.exists(gate):
            threading.Event().wait(0.005)
        thread("late")

    LEFT.append(asyncio.ensure_future(task()))
    for target, args in ((thread, ("thread",)), (thread, ("thread",)), (late, ())):
        threading.Thread(target=target, args=args).start()
    while not await host.aio.blocked() == 3:
        await asyncio.sleep(0.001)


@command(concurrency=64)
async def leave_calling(threads: int, n: int) -> None:
    """Threads that call until they are told that their call is over."""
    call = current_call()
    began = threading.Semaphore(0)

    def ask() -> None:
        began.release()
        for i in range(n):
            try:
                if call.host.echo(i) != i:
                    os._exit(3)
            except LookupError:
                return

    for _ in range(threads):
        threading.Thread(target=ask).start()
    for _ in range(threads):
        while not began.acquire(blocking=False):
            await asyncio.sleep(0)


@command(concurrency=64)
async def stop(path: str, how: str) -> None:
    """Waits for a function that ends with the call."""
    call = current_call()
    try:
        if how == "shielded":
            with shield():
                await host.aio.block()
        elif how == "thread":
            await asyncio.get_running_loop().run_in_executor(None, call.host.block)
        else:
            await host.aio.block()
    finally:
        note(path, "ended")


@command(concurrency=64)
async def forge(lines: List[str]) -> None:
    from pypool import _channel

    for line in lines:
        text = line % current_call().id if "%d" in line else line
        _channel.OURS.channel.write(text + "\n")
