"""How a function of the host is called: see `_host`.

A call of one is a line out, while a request is served, and a line in that answers it. The thread
that waits reads the channel; of several one reads for all. What it reads besides, the host's next
requests, is left in the channel's `lines` for the loop.

    main thread   host.x() --> write --> read until the reply is there      (`_read`)
    other thread  the same, where nobody reads; else it waits at its gate
    event loop    host.aio.x() --> write --> a reader of the loop's         (`call_aio`)
    the loop      begins to wait for a request: whoever reads has to stop   (`_Shared`)

On a shared worker, whose calls are tasks, the loop reads and writes for all of them (`_tasks`).
"""

from __future__ import annotations

import os
from _thread import allocate_lock, get_ident
from os import read

from . import _channel, _life
from ._beside import share_waiting, thread_wait, write_beside
from ._call import CALL, RUNNING, SHARED_REQUEST
from ._cancel import STATE
from ._json import escape, scan
from ._replies import (
    OVER,
    WAITS,
    HostError,
    Pending,
    deliver,
    forget,
    is_running,
    lost,
    main_wait,
    read_now,
    soon,
    step_back,
    unwatch,
    watch,
)
from ._results import encode
from ._room import CALL as CALL_FRAMES
from ._room import deep, need
from ._stdio import LOG
from ._wire import TOO_DEEP, ResultError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Sequence, Tuple

    from ._call import TaskCall
    from ._channel import Channel
    from ._wire import Request


def _request(id: int) -> Request:
    """The running request, on whose behalf this thread works; with `id` it has to be that one."""
    request = RUNNING.request
    if WAITS.forked or os.getpid() != _life.WATCH.pid:
        raise LookupError("a forked child cannot call the host: only the worker's own process can")
    if request is None or _channel.OURS.channel is None:
        raise LookupError("no call is running: functions of the host can be called inside a command or a program only")
    if _channel.OURS.channel.functions is None:
        raise LookupError("this host has no functions to call")
    if request is SHARED_REQUEST:
        return _task(id).request
    if id:
        if request[0] != id:
            raise LookupError("the call is over: its functions cannot be called any more")
        return request
    known: Any = CALL.get(None)
    if known is None and get_ident() != LOG.thread:
        from ._output import printing  # where there are threads

        known = printing()
        if known is None:
            raise LookupError(
                "this thread was not started by the call that is running: take it along, call = current_call(), and then "
                "call.host.NAME(...); or the thread's own call is over"
            )
    if known is not None and abs(known[0]) != request[0]:  # negative: a batch's
        raise LookupError("the call that this thread or task belongs to is over")
    return request


def _task(id: int) -> TaskCall:
    """The call of a concurrent command on whose behalf this thread or task works."""
    task = RUNNING.tasks.get(id) if id else RUNNING.task()
    if task is not None and not task.ended:
        return task
    if id or CALL.get(None) is not None:
        raise LookupError("the call is over: its functions cannot be called any more")
    raise LookupError(
        "nothing tells for which of the calls on this worker this thread works: take it along, call = current_call(), "
        "and then call.host.NAME(...)"
    )


def _begin(id: int, name: str, args: Tuple[Any, ...], keyword: Dict[str, Any], future: Any = None) -> Pending:
    """Write the call's line."""
    shared = RUNNING.loop
    request = _request(id)
    channel: Any = _channel.OURS.channel
    if args and keyword:
        raise TypeError("%s(): by position or by keyword, not both: they are one value in Go" % name)
    text, payloads = _keys(channel, name, keyword or args)
    waits = WAITS
    channel.replies = deliver
    with waits.lock:
        waits.number = number = waits.number + 1
        pending = waits.pending[number] = Pending(number, request[0])
        pending.future = future
        if shared is not None:
            _expect(pending)
    if RUNNING.telemetry is not None:
        text += RUNNING.telemetry.outgoing()
    line = '{"id":%d,"host":%d,"function":%s%s}\n' % (request[0], number, escape(name), text)
    try:
        size = len(line) + sum(map(len, payloads))
        if size > channel.limit:
            raise _too_large(size, channel.limit)
        if shared is not None:
            shared.send(pending, line, payloads)
        elif get_ident() != LOG.thread:
            write_beside(channel, request[0], line, payloads)
        elif payloads:
            channel.write_laden(payloads, line, 0)
        else:
            channel.write(line)
    except BaseException:
        forget(pending)
        raise
    return pending


def _expect(pending: Pending) -> None:
    """Make sure that the end of a call of a concurrent command finds what still waits for a reply. With
    the lock held.
    """
    task = RUNNING.tasks.get(pending.id)
    if task is None or task.ended:
        del WAITS.pending[pending.number]
        raise LookupError("the call is over: its functions cannot be called any more")
    if pending.future is None:
        pending.gate = allocate_lock()
        pending.gate.acquire()
    else:
        pending.thread = get_ident()


def _words(error: ResultError) -> str:
    path = error.fields.get("path")
    return "%s%s" % (error.fields.get("message", error.kind), "" if path is None else " at " + path)


def _value(pending: Pending) -> Any:
    reply = pending.reply
    if reply is OVER:
        raise LookupError("the call is over: what its function answers goes nowhere")
    if reply["success"]:
        return reply["result"]
    error = reply["error"]
    if isinstance(error.get("cause"), RecursionError):  # of somebody's code that makes objects of bytes
        raise RecursionError(error["message"]) from error["cause"]
    raise HostError(error["type"], error["message"])


def call(id: int, name: str, args: Tuple[Any, ...], keyword: Dict[str, Any]) -> Any:
    """Call a function and wait for what it returns."""
    need(CALL_FRAMES)
    waits = WAITS
    request = RUNNING.request
    if (
        request is not None
        and request is not SHARED_REQUEST
        and not waits.pending
        and waits.reader is None
        and not waits.forked
        and get_ident() == LOG.thread
        and (id or request[0]) == request[0]
    ):
        channel: Any = _channel.OURS.channel
        known: Any = CALL.get(None)
        plain = channel.functions and name not in channel.blob_functions
        if plain and not (args and keyword) and (known is None or abs(known[0]) == request[0]):
            return _call_alone(channel, request[0], name, args or keyword)
    if RUNNING.loop is not None and get_ident() == LOG.thread:
        raise RuntimeError(
            "host.%s() would block the event loop for all calls on this worker: await host.aio.%s()" % (name, name)
        )
    pending = _begin(id, name, args, keyword)
    try:
        _wait(pending)
    finally:
        forget(pending)
    return _value(pending)


def _call_alone(channel: Channel, id: int, name: str, args: Any) -> Any:
    """`call` in the loop's thread, where nobody else waits for anything: the same in half the time."""
    waits = WAITS
    text = ',"args":' + _encoded(name, args) if args else ""
    if RUNNING.telemetry is not None:
        text += RUNNING.telemetry.outgoing()
    number = waits.number + 1
    line = f'{{"id":{id},"host":{number},"function":"{name}"{text}}}\n'
    if len(line) > channel.limit:
        raise _too_large(len(line), channel.limit)
    with waits.lock:
        if waits.number >= number or waits.reader is not None:  # a thread has come first
            waits.number += 1
            number = 0
        else:
            waits.number = number
            pending = waits.reader = waits.pending[number] = Pending(number, id)
    if not number:
        return call(id, name, *((args, {}) if type(args) is tuple else ((), args)))
    channel.replies = deliver
    value: Any = OVER
    reading = False
    try:
        channel.write(line)
        main_wait(channel)
        reading = True
        with waits.reading:
            try:
                chunk = read(channel.fd_in, 1 << 16)
            except BlockingIOError:
                chunk = b"\n"
            start = b'{"id":%d,"host":%d,"success":true,"result":' % (id, number)
            if chunk.startswith(start) and chunk.find(b"\n") == len(chunk) - 1 and not channel.parts:
                answer = chunk.decode()
                try:
                    value, end = scan(answer, len(start))
                except (RecursionError, ValueError):
                    end = 0
                if answer[end:] != "}\n":  # there are bytes in it, or it is too deep, or a number too large
                    value = OVER
            if value is OVER:
                if not chunk:
                    _life.host_gone()
                if chunk != b"\n":
                    channel.take(chunk)
        reading = False
        if value is OVER:
            _wait(pending)
    except BaseException:
        if reading:
            lost()
        raise
    finally:
        forget(pending)
    return _value(pending) if value is OVER else value


def _keys(channel: Channel, name: str, args: Any) -> Tuple[str, Sequence[Any]]:
    """The arguments as keys of the call's line, and their payloads."""
    if not args:
        return "", ()
    if name not in channel.blob_functions:
        return ',"args":' + _encoded(name, args), ()
    from ._blobs import encode_laden  # few functions take them

    found: Tuple[str, Sequence[Any]] = _encoded(name, args, lambda value: encode_laden(value, channel.smallest))
    return found


def _encoded(name: str, args: Any, how: Callable[[Any], Any] = encode) -> Any:
    try:
        return how(args)
    except ResultError as error:
        if error.fields.get("message") == TOO_DEEP and deep():
            raise RecursionError(TOO_DEEP) from None
        raise TypeError("%s(): the arguments cannot be sent: %s" % (name, _words(error))) from None


def _too_large(size: int, limit: int) -> HostError:
    return HostError("message_too_large", "the arguments have %d bytes, the limit is %d" % (size, limit))


def _wait(pending: Pending) -> None:
    waits, main = WAITS, get_ident() == LOG.thread
    while pending.reply is None:
        with waits.lock:
            if pending.reply is not None:
                return
            if not main and not is_running(pending.id):
                # The loop may wait for a request by now, and has to read that itself
                pending.reply = OVER
                return
            # The event loop may not run, while the coroutine waits for this very thread
            mine = waits.reader is None or waits.reader is waits.watched or waits.reader is pending
            if mine:
                if waits.reader is not None and waits.reader is waits.watched and not main:
                    waits.reader.call_soon_threadsafe(step_back, waits.reader)
                waits.reader = pending
            elif pending.gate is None:
                pending.gate = allocate_lock()
                pending.gate.acquire()
        if mine:
            _read(pending, main)
            if pending.reply is None:  # told to stop
                pending.reply = OVER
        elif main:
            STATE.waiting = True
            try:
                pending.gate.acquire()
            finally:
                STATE.waiting = False
        else:
            pending.gate.acquire()


def _read(pending: Pending, main: bool) -> None:
    """Read until the reply is there, or the loop wants to read itself."""
    channel: Any = _channel.OURS.channel
    wait: Callable[[], None] = (lambda: main_wait(channel)) if main else thread_wait(channel)
    reading = False
    try:
        while pending.reply is None and not WAITS.stop:
            wait()
            if WAITS.stop and not main:
                return
            reading = True
            read_now(channel)
            reading = False
    except BaseException:
        if reading:
            lost()
        raise


async def call_aio(id: int, name: str, args: Tuple[Any, ...], keyword: Dict[str, Any]) -> Any:
    import asyncio  # whoever comes here has it

    need(CALL_FRAMES)
    loop = asyncio.get_running_loop()
    if get_ident() != LOG.thread:  # a loop of a thread's own must not read what is the worker's loop's
        id = _request(id)[0]
        return await loop.run_in_executor(None, call, id, name, args, keyword)
    channel: Any = _channel.OURS.channel
    if RUNNING.loop is not None:
        pending = _begin(id, name, args, keyword, loop.create_future())
        try:
            await pending.future
        finally:
            forget(pending)
        return _value(pending)
    pending = _begin(id, name, args, keyword)
    pending.loop, pending.thread = loop, get_ident()
    pending.future = future = loop.create_future()
    share_waiting(channel)
    try:
        if pending.thread == LOG.thread:
            _look(channel)
        with WAITS.lock:
            done, free = pending.reply is not None, WAITS.reader is None
        if not done:
            if free:
                watch(loop)
            await future
    finally:
        forget(pending)
        unwatch(loop)
    return _value(pending)


def _look(channel: Channel) -> None:
    """Read what comes within a moment, where nobody else does."""
    with WAITS.lock:
        if WAITS.reader is not WAITS.watched:
            return
    if soon(getattr(channel.waiter, "inner", channel.waiter).poll):
        read_now(channel)
