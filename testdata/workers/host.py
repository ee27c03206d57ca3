"""Handlers that call functions of the host's."""

import asyncio
import os
import threading
import time
from typing import Any, AsyncIterator, Iterator, List

from pypool import HostError, command, current_call, current_calls, host, program, shield

LEFT: List[Any] = []


@command
def pid(value: Any = None) -> int:
    return os.getpid()


@command
def add(a: int, b: int = 1) -> int:
    return a + b


@command
def call(name: str, keyword: Any = None, positional: Any = None) -> Any:
    """What the function returns, or how it failed."""
    try:
        return {"result": getattr(host, name)(*(positional or ()), **(keyword or {}))}
    except HostError as error:
        return {"type": error.type, "message": error.message, "attribute": isinstance(error, AttributeError)}


@command
def passes(name: str, keyword: Any = None) -> Any:
    return getattr(host, name)(**(keyword or {}))


@command
def many(n: int) -> int:
    return sum(host.echo(i) for i in range(n))


@command
def items(n: int) -> Iterator[Any]:
    for i in range(n):
        yield host.echo(i)


@command
async def coroutine(n: int) -> Any:
    return await asyncio.gather(*[host.aio.echo(i) for i in range(n)])


@command
async def mixed(n: int) -> Any:
    """Tasks, threads and the loop's own code, all at once."""

    def blocking(i: int) -> Any:
        return host.echo(i)

    tasks = [asyncio.ensure_future(host.aio.echo(i)) for i in range(n)]
    threads = [asyncio.get_running_loop().run_in_executor(None, call_with, current_call(), i) for i in range(n)]
    own = [host.echo(i) for i in range(n)]
    return [own, await asyncio.gather(*tasks), await asyncio.gather(*threads)]


def call_with(call: Any, i: int) -> Any:
    return call.host.echo(i)


@command
async def async_items(n: int) -> AsyncIterator[Any]:
    for i in range(n):
        yield await host.aio.echo(i)


@command
def threads(count: int, n: int) -> int:
    wrong: List[Any] = []

    def work(k: int) -> None:
        try:
            for i in range(n):
                value = {"thread": k, "i": i, "text": "x" * (i % 50 * 100)}
                if host.echo([value]) != [value]:
                    wrong.append(value)
        except BaseException as error:
            wrong.append(repr(error))

    started = [threading.Thread(target=work, args=(k,)) for k in range(count)]
    for thread in started:
        thread.start()
    for i in range(n):
        if host.echo(i) != i:
            wrong.append(i)
    for thread in started:
        thread.join()
    if wrong:
        raise AssertionError(wrong[:3])
    return count * n


@command
def leave_thread(gate: str, out: str) -> None:
    """A thread that calls when this call is over, and one that waits then."""
    call = current_call()

    def late() -> None:
        while not os.path.exists(gate):
            time.sleep(0.001)
        for function in (host.echo, call.host.echo):
            note(out, function, 1)

    def waiting() -> None:
        note(out, host.block)

    for target in (late, waiting):
        threading.Thread(target=target, daemon=True).start()
    while not host.blocked():
        time.sleep(0.001)


def note(path: str, function: Any, *args: Any) -> None:
    try:
        text = repr(function(*args))
    except BaseException as error:
        text = type(error).__name__
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, text.encode() + b"\n")
    os.close(fd)


@command
def stop_in_function(path: str, name: str = "block") -> None:
    try:
        getattr(host, name)()
    finally:
        note(path, lambda: "ended")


@command
def shielded(path: str) -> None:
    with shield():
        note(path, host.block)


@command
def forked(value: int) -> Any:
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            host.echo(value)
            text = b"called"
        except BaseException as error:
            text = type(error).__name__.encode()
        os.write(writer, text)
        os._exit(0)
    os.waitpid(child, 0)
    return [os.read(reader, 100).decode(), host.echo(value)]


@command
def bytes_of(size: int) -> bool:
    data = host.bytes(size=size)
    return type(data) is bytes and len(data) == size and host.echo_bytes(data) == data


@command
def nested_bytes() -> Any:
    value = host.record()
    return [type(value["body"]).__name__, value["body"].decode(), type(value["list"][1]).__name__, value["name"]]


@command
def unhandled(name: str) -> None:
    getattr(host, name)()


@program("asks")
def asks(value: Any) -> Any:
    return host.echo(value)


@command
def leave_mark(path: str) -> None:
    note(path, lambda: "began")
    host.block()


@command
def echo_item(value: Any) -> Any:
    return host.echo([value])


@command
async def stop_in_aio(path: str) -> None:
    try:
        await host.aio.block()
    finally:
        note(path, lambda: "ended")


@command
def stop_in_thread(path: str) -> None:
    thread = threading.Thread(target=note, args=(path, host.block))
    thread.start()
    thread.join()


@command
def deep(depth: int) -> Any:
    try:
        value = host.deep(depth=depth)
    except HostError as error:
        return error.type
    n = 0
    while value:
        value, n = value[0], n + 1
    return n


@command
def send_deep(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    try:
        host.echo(value)
        return "sent"
    except Exception as error:
        return type(error).__name__


@command
def forge(lines: List[str], stay: bool = False) -> None:
    from pypool import _channel

    fd = _channel.OURS.channel.fd_out
    for line in lines:
        data = (line.replace("%d", str(current_call().id)) + "\n").encode()
        while data:
            data = data[os.write(fd, data) :]
    while stay:
        time.sleep(0.01)


@command
def big_threads(count: int, size: int) -> int:
    sizes: List[int] = []
    started = [threading.Thread(target=lambda: sizes.append(len(host.big(size=size)))) for _ in range(count)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return sum(sizes)


@command
async def leave_big(size: int) -> None:
    """Nobody reads the answers any more when this returns."""
    LEFT.extend(asyncio.ensure_future(host.aio.big(size=size)) for _ in range(2))
    await asyncio.sleep(0)


@command
def leave_calling(threads: int, n: int) -> None:
    def work() -> None:
        try:
            for i in range(n):
                if host.echo(i) != i:
                    LEFT.append("a wrong answer")
        except LookupError:
            pass
        except BaseException as error:
            LEFT.append(repr(error))

    for _ in range(threads):
        threading.Thread(target=work, daemon=True).start()
    host.echo(1)


@command
def unexpected() -> List[str]:
    return [text for text in LEFT if isinstance(text, str)]


@command
def dive(depth: int) -> int:
    return 1 + host.dive(depth=depth - 1) if depth else 0


@command
def echo_one(value: int) -> Any:
    return host.echo([value])


@command
def loop_in_thread(n: int) -> Any:
    """An event loop of a thread's own."""
    call, got = current_call(), []

    async def gather() -> Any:
        return await asyncio.gather(*[call.host.aio.echo(i) for i in range(n)])

    thread = threading.Thread(target=lambda: got.append(asyncio.run(gather())))
    thread.start()
    thread.join()
    return got[0]


@command(max_batch_size=8, max_wait_ms=200)
def batched(n: List[int]) -> List[Any]:
    """The size of the batch, and what the host says to each."""
    return [[len(n), host.echo(x)] for x in n]


@command(max_batch_size=8, max_wait_ms=200)
async def batched_aio(n: List[int]) -> List[Any]:
    return [[len(n), x] for x in await asyncio.gather(*[host.aio.echo(x) for x in n])]


@command(max_batch_size=8, max_wait_ms=200)
def batched_threads(n: List[int]) -> List[Any]:
    """Each call's function in a thread, by the call itself."""
    got = {}
    started = [
        threading.Thread(target=lambda x=x, call=call: got.update({x: call.host.echo(x)})) for x, call in zip(n, current_calls())
    ]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return [[len(n), got[x]] for x in n]
