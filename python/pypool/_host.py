"""Calling the functions of the host: ``from pypool import host``, ``host.lookup(id="7")``.

A call of one is a line out, while a request is served, and a line in that answers it. The thread
that waits reads the channel; of several one reads for all. What it reads besides, the host's next
requests, is left in the channel's `lines` for the loop.

    main thread   host.x() --> write --> read until the reply is there      (`_read`)
    other thread  the same, where nobody reads; else it waits at its gate
    event loop    host.aio.x() --> write --> a reader of the loop's         (`_Aio`)
    the loop      begins to wait for a request: whoever reads has to stop   (`_Shared`)
"""

from __future__ import annotations

import os
import sys
from _thread import allocate_lock, get_ident
from os import read
from time import monotonic_ns, sleep

from . import _channel, _life
from ._call import CALL, RUNNING
from ._cancel import STATE
from ._json import escape, scan
from ._results import encode
from ._stdio import LOG
from ._wire import ResultError, is_reply

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, Callable, Dict, List, Optional, Tuple

    from ._channel import Channel
    from ._wire import Request


class HostError(Exception):
    """What a function of the host's has raised, in Go: an error, a panic.

    `type` is the name of the Go type, or one of pypool's own words (``"invalid_arguments"``,
    ``"panic"``, ``"canceled"`` and so on); `message` is its text.
    """

    def __init__(self, type: str, message: str) -> None:
        super().__init__(type, message)
        self.type = type
        self.message = message

    def __str__(self) -> str:
        return "%s: %s" % (self.type, self.message)


class _Unknown(HostError, AttributeError):
    """There is no such function: `host` has no such attribute."""


_Unknown.__name__ = _Unknown.__qualname__ = "HostError"


class _Pending:
    """A call that waits for its reply."""

    __slots__ = ("number", "id", "reply", "gate", "loop", "future", "thread")

    def __init__(self, number: int, id: int) -> None:
        self.number = number
        self.id = id
        self.reply: Any = None
        self.gate: Any = None  # where its thread waits while another reads
        self.loop: Any = None  # of asyncio, and what waits there
        self.future: Any = None
        self.thread = 0  # the loop's


class _Waits:
    """Who waits for what. `lock` guards all of it, but for `waker`."""

    def __init__(self) -> None:
        self.lock = allocate_lock()
        self.reading = allocate_lock()  # while something is read and taken apart
        self.number = 0
        self.pending: Dict[int, _Pending] = {}
        self.reader: Any = None  # who reads: a _Pending, or the event loop; None: nobody
        self.watched: Any = None  # the event loop that has a reader of ours
        self.stop = False  # the reader has to go
        self.forked = False  # this is a child
        self.waker: Optional[Tuple[int, int]] = None  # a pipe that wakes a thread that reads


WAITS = _Waits()
#: A reply is looked for so long before the thread parks: what waking both sides costs.
SPIN_NS = 25_000
_give_way: Callable[[], Any] = getattr(os, "sched_yield", None) or (lambda: sleep(0))


def _after_fork() -> None:
    WAITS.forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# -- a call


def _request(id: int) -> Request:
    """The running request, on whose behalf this thread works; with `id` it has to be that one."""
    request = RUNNING.request
    if WAITS.forked or os.getpid() != _life.WATCH.pid:
        raise LookupError("a forked child cannot call the host: only the worker's own process can")
    if request is None or _channel.OURS.channel is None:
        raise LookupError("no call is running: functions of the host can be called inside a command or a program only")
    if _channel.OURS.channel.functions is None:
        raise LookupError("this host has no functions to call")
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
    if known is not None and known[0] != request[0]:
        raise LookupError("the call that this thread or task belongs to is over")
    return request


def _begin(id: int, name: str, args: Tuple[Any, ...], keyword: Dict[str, Any]) -> _Pending:
    """Write the call's line."""
    request = _request(id)
    channel: Any = _channel.OURS.channel
    if args and keyword:
        raise TypeError("%s(): by position or by keyword, not both: they are one value in Go" % name)
    text = ',"args":' + _encoded(name, keyword or args) if keyword or args else ""
    waits = WAITS
    channel.replies = _deliver
    with waits.lock:
        waits.number = number = waits.number + 1
        pending = waits.pending[number] = _Pending(number, request[0])
    line = '{"id":%d,"host":%d,"function":%s%s}\n' % (request[0], number, escape(name), text)
    try:
        if len(line) > channel.limit:
            raise _too_large(len(line), channel.limit)
        if get_ident() == LOG.thread:
            channel.write(line)
        else:
            _write_beside(channel, request[0], line)
    except BaseException:
        _forget(pending)
        raise
    return pending


def _words(error: ResultError) -> str:
    path = error.fields.get("path")
    return "%s%s" % (error.fields.get("message", error.kind), "" if path is None else " at " + path)


def _forget(pending: _Pending) -> None:
    """Nobody waits for it any more; another may have to read in its place."""
    waits = WAITS
    with waits.lock:
        waits.pending.pop(pending.number, None)
        if waits.reader is pending:
            waits.reader = None
        if waits.reader is None and waits.pending:
            _appoint()


def _value(pending: _Pending) -> Any:
    reply = pending.reply
    if reply is _OVER:
        raise LookupError("the call is over: what its function answers goes nowhere")
    if reply["success"]:
        return reply["result"]
    error = reply["error"]
    raise HostError(error["type"], error["message"])


_OVER: Any = {}


def call(id: int, name: str, args: Tuple[Any, ...], keyword: Dict[str, Any]) -> Any:
    """Call a function and wait for what it returns."""
    waits = WAITS
    request = RUNNING.request
    if (
        request is not None
        and not waits.pending
        and not waits.forked
        and get_ident() == LOG.thread
        and (id or request[0]) == request[0]
    ):
        channel: Any = _channel.OURS.channel
        known: Any = CALL.get(None)
        if channel.functions and not (args and keyword) and (known is None or known[0] == request[0]):
            return _call_alone(channel, request[0], name, args or keyword)
    pending = _begin(id, name, args, keyword)
    try:
        _wait(pending)
    finally:
        _forget(pending)
    return _value(pending)


def _call_alone(channel: Channel, id: int, name: str, args: Any) -> Any:
    """`call` in the loop's thread, where nobody else waits for anything: the same in half the time."""
    waits, state = WAITS, STATE
    text = ',"args":' + _encoded(name, args) if args else ""
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
            pending = waits.reader = waits.pending[number] = _Pending(number, id)
    if not number:
        return call(id, name, *((args, {}) if type(args) is tuple else ((), args)))
    channel.replies = _deliver
    value: Any = _OVER
    reading = False
    try:
        channel.write(line)
        poll = getattr(channel.waiter, "inner", channel.waiter).poll
        state.waiting = True
        try:
            if not _soon(poll):
                poll()
        finally:
            state.waiting = False
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
                except RecursionError:
                    end = 0
                if answer[end:] != "}\n":  # there are bytes in it, or it is too deep
                    value = _OVER
            if value is _OVER:
                if not chunk:
                    _life.host_gone()
                if chunk != b"\n":
                    channel.take(chunk)
        reading = False
        if value is _OVER:
            _wait(pending)
    except BaseException:
        if reading:
            _lost()
        raise
    finally:
        _forget(pending)
    return _value(pending) if value is _OVER else value


def _encoded(name: str, args: Any) -> str:
    try:
        return encode(args)
    except ResultError as error:
        raise TypeError("%s(): the arguments cannot be sent: %s" % (name, _words(error))) from None


def _too_large(size: int, limit: int) -> HostError:
    return HostError("message_too_large", "the arguments have %d bytes, the limit is %d" % (size, limit))


def _lost() -> None:
    """What was read may be lost, and then nobody knows where the stream stands."""
    from . import _exit  # few are struck so

    _life.note("the worker ends, because a reply of the host's was read only in part")
    _exit.finish(1)


def _wait(pending: _Pending) -> None:
    waits, main = WAITS, get_ident() == LOG.thread
    while pending.reply is None:
        with waits.lock:
            if pending.reply is not None:
                return
            # The event loop may not run, while the coroutine waits for this very thread
            mine = waits.reader is None or waits.reader is waits.watched or waits.reader is pending
            if mine:
                if waits.reader is not None and waits.reader is waits.watched and not main:
                    waits.reader.call_soon_threadsafe(_step_back, waits.reader)
                waits.reader = pending
            elif pending.gate is None:
                pending.gate = allocate_lock()
                pending.gate.acquire()
        if mine:
            _read(pending, main)
            if pending.reply is None:  # told to stop
                pending.reply = _OVER
        elif main:
            STATE.waiting = True
            try:
                pending.gate.acquire()
            finally:
                STATE.waiting = False
        else:
            pending.gate.acquire()


def _read(pending: _Pending, main: bool) -> None:
    """Read until the reply is there, or the loop wants to read itself."""
    channel: Any = _channel.OURS.channel
    wait: Callable[[], None]
    if main:
        wait = _main_wait(channel)
    else:
        wait = _thread_wait(channel)
    reading = False
    try:
        while pending.reply is None and not WAITS.stop:
            wait()
            if WAITS.stop and not main:
                return
            reading = True
            _read_now(channel)
            reading = False
    except BaseException:
        if reading:
            _lost()
        raise


def _read_now(channel: Channel) -> None:
    with WAITS.reading:
        try:
            chunk = read(channel.fd_in, 1 << 16)
        except BlockingIOError:
            return
        if not chunk:
            _life.host_gone()
        channel.take(chunk)


class _Spin:
    """Whether to look for a reply for a while before the thread parks. To be woken takes longer than a
    brief function, and each side then waits for the other's waking.
    """

    missed = 0  # times in a row that it was in vain
    skip = 0  # times that are left out because of that


def _soon(poll: Callable[[Any], Any]) -> bool:
    """Whether something comes to be read within a moment."""
    if _Spin.skip:
        _Spin.skip -= 1
        return False
    end = monotonic_ns() + SPIN_NS
    while not poll(0):
        if monotonic_ns() >= end:
            _Spin.missed = min(_Spin.missed + 1, 6)
            _Spin.skip = (1 << _Spin.missed) - 1
            return False
        _give_way()
    _Spin.missed = 0
    return True


def _main_wait(channel: Channel) -> Callable[[], None]:
    poll = getattr(channel.waiter, "inner", channel.waiter).poll

    def wait() -> None:
        STATE.waiting = True
        try:
            if not _soon(poll):
                poll()
        finally:
            STATE.waiting = False

    return wait


def _thread_wait(channel: Channel) -> Callable[[], None]:
    import select

    _share(channel)
    waits = WAITS
    if waits.waker is None:
        waits.waker = os.pipe()
        for fd in waits.waker:
            os.set_blocking(fd, False)
    poll = select.poll()
    poll.register(channel.fd_in, select.POLLIN)
    poll.register(waits.waker[0], select.POLLIN)

    def wait() -> None:
        if not _soon(poll.poll):
            poll.poll()
        if waits.stop:
            try:
                os.read(waits.waker[0], 64)  # type: ignore[index]
            except BlockingIOError:
                pass

    return wait


def _deliver(line: bytes) -> bool:
    """Whether the line is a reply; then it is given to whoever waits for it, if anybody does."""
    if not is_reply(line):
        return False
    text = line.decode()
    try:
        reply, _ = scan(text, 0)
    except RecursionError:
        id, after = scan(text, 6)
        number, _ = scan(text, after + 8)
        message = "the result cannot be read: it is nested too deeply"
        reply = {"id": id, "host": number, "success": False, "error": {"type": "invalid_result", "message": message}}
    waits = WAITS
    with waits.lock:
        pending = waits.pending.get(reply["host"])
        if pending is None or pending.id != reply["id"] or pending.reply is not None:
            return True  # the answer to a call that is over
        if "bytes" in reply:
            from ._forms import set_bytes  # for few replies

            set_bytes(reply, reply["bytes"])
        pending.reply = reply
        del waits.pending[pending.number]
        if pending.gate is not None and pending.gate.locked():
            pending.gate.release()
    if pending.future is not None:
        _settle(pending)
    return True


def _appoint() -> None:
    """Have somebody else read, if anybody waits. With the lock held."""
    waits = WAITS
    aio = None
    for pending in waits.pending.values():
        if pending.gate is not None and pending.reply is None:
            if pending.gate.locked():
                pending.gate.release()
            return
        if pending.future is not None:
            aio = pending
    if aio is not None:
        aio.loop.call_soon_threadsafe(_watch, aio.loop)


# -- threads


def _share(channel: Channel) -> None:
    """From now on threads write and read, too. Called in such a thread."""
    if vars(_channel)["write"] is not _channel.write_whole:
        vars(_channel)["write"] = _channel.write_whole
        # What the loop's thread has begun before this it has to end
        while _in_write(sys._current_frames().get(LOG.thread)):
            sleep(0.0005)
    _share_waiting(channel)


def _share_waiting(channel: Channel) -> None:
    """Have the loop end what is left when it waits for a request."""
    with WAITS.lock:
        if not isinstance(channel.waiter, _Shared):
            channel.waiter = _Shared(channel.waiter)  # type: ignore[assignment]


def _in_write(frame: Optional[FrameType]) -> bool:
    while frame is not None:
        if frame.f_code in _channel.WRITES:
            return True
        frame = frame.f_back
    return False


def _is_answering(frame: Optional[FrameType]) -> bool:
    """Whether the loop's thread has written a call's final line, or is about to."""
    while frame is not None:
        if frame.f_code.co_name == "_serve" and frame.f_globals.get("__name__") == "pypool._worker":
            return bool(frame.f_locals.get("writing"))
        frame = frame.f_back
    return True


def _write_beside(channel: Channel, id: int, line: str) -> None:
    """Write in a thread: not behind the final line of the call."""
    _share(channel)
    with channel.lock:
        request = RUNNING.request
        if request is None or request[0] != id or channel.over == id or _is_answering(sys._current_frames().get(LOG.thread)):
            raise LookupError("the call is over: its functions cannot be called any more")
        data = memoryview(line.encode())
        while data:
            data = data[os.write(channel.fd_out, data) :]


class _Shared:
    """A waiter beside which threads read: who waits here has them stop first."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def ready(self) -> bool:
        """A thread that reads puts it where the loop finds it."""
        reader = WAITS.reader
        return (reader is None or reader is WAITS.watched) and bool(self.inner.ready())

    def wait(self) -> None:
        """The loop waits for a request: all calls are over."""
        _end_all()
        _channel.OURS.channel.waiter = self.inner  # type: ignore[union-attr]
        self.inner.wait()


def _end_all() -> None:
    """Nobody waits for a reply any more, and nobody but the loop reads."""
    waits = WAITS
    while True:
        with waits.lock:
            for pending in list(waits.pending.values()):
                pending.reply = _OVER
                if pending.gate is not None and pending.gate.locked():
                    pending.gate.release()
                elif pending.future is not None:
                    _settle(pending)
            reader = waits.reader
            if reader is None or reader is waits.watched:
                waits.stop = False
                waits.pending.clear()
                return
            waits.stop = True
        if waits.waker is not None:
            try:
                os.write(waits.waker[1], b"x")
            except BlockingIOError:
                pass
        sleep(0.0001)


# -- asyncio


class _Aio:
    """The functions for coroutines: ``await host.aio.lookup(id="7")``."""

    def __init__(self, id: int) -> None:
        self._id = id

    def __getattr__(self, name: str) -> Any:
        _check(name)
        id = self._id

        async def function(*args: Any, **keyword: Any) -> Any:
            return await _call_aio(id, name, args, keyword)

        return _named(function, name)


async def _call_aio(id: int, name: str, args: Tuple[Any, ...], keyword: Dict[str, Any]) -> Any:
    import asyncio  # whoever comes here has it

    loop = asyncio.get_running_loop()
    channel: Any = _channel.OURS.channel
    pending = _begin(id, name, args, keyword)
    pending.loop, pending.thread = loop, get_ident()
    pending.future = future = loop.create_future()
    _share_waiting(channel)
    try:
        if pending.thread == LOG.thread:
            _look(channel)
        with WAITS.lock:
            done, free = pending.reply is not None, WAITS.reader is None
        if not done:
            if free:
                _watch(loop)
            await future
    finally:
        _forget(pending)
        _unwatch(loop)
    return _value(pending)


def _look(channel: Channel) -> None:
    """Read what comes within a moment, where nobody else does."""
    with WAITS.lock:
        if WAITS.reader is not WAITS.watched:
            return
    if _soon(getattr(channel.waiter, "inner", channel.waiter).poll):
        _read_now(channel)


def _settle(pending: _Pending) -> None:
    def done() -> None:
        if not pending.future.done():
            pending.future.set_result(None)

    if pending.thread == get_ident():
        return done()
    try:
        pending.loop.call_soon_threadsafe(done)
    except RuntimeError:
        pass  # the loop is closed


def _watch(loop: Any) -> None:
    """Have the event loop read, in its thread."""
    waits = WAITS
    channel: Any = _channel.OURS.channel
    with waits.lock:
        if waits.reader is not None or not any(pending.future is not None for pending in waits.pending.values()):
            return
        waits.reader = waits.watched = loop
    loop.add_reader(channel.fd_in, _on_readable, channel)


def _unwatch(loop: Any) -> None:
    waits = WAITS
    channel: Any = _channel.OURS.channel
    with waits.lock:
        if waits.watched is not loop or any(pending.loop is loop for pending in waits.pending.values()):
            return
        waits.watched = None
        if waits.reader is loop:
            waits.reader = None
            _appoint()
    loop.remove_reader(channel.fd_in)


def _on_readable(channel: Channel) -> None:
    if WAITS.reader is WAITS.watched:
        _read_now(channel)


def _step_back(loop: Any) -> None:
    """A thread reads in the event loop's place."""
    if WAITS.reader is not loop:
        loop.remove_reader(_channel.OURS.channel.fd_in)  # type: ignore[union-attr]


# -- what users see


def _check(name: str) -> None:
    """Raise where there is no such function, as far as that is known here."""
    if name.startswith("_"):
        raise AttributeError(name)
    channel = _channel.OURS.channel
    known = None if channel is None else channel.functions
    if known is None or name in known:
        return
    from ._names import nearest  # only now

    close = nearest(name, known)
    if not known:
        close = ": it has none (Config.Functions)"
    elif not close:
        close = "; it has: " + ", ".join(list(known)[:10])
    raise _Unknown("unknown_function", "the host has no function %r%s" % (name[:64], close))


def _named(function: Any, name: str) -> Any:
    function.__name__ = name
    function.__qualname__ = "host." + name
    return function


class Host:
    """The functions of the Go program that runs this worker, as methods: ``host.lookup(id="7")``.

    Keyword arguments are the fields of the function's argument in Go, one positional argument is
    that argument itself, several are an array. What the function fails with is raised as HostError.
    In a thread of its own a call of one raises LookupError when the thread's call is over; a thread
    that no call has started takes one along: ``call = current_call()``, ``call.host.lookup(...)``.
    """

    def __init__(self, id: int = 0) -> None:
        self._id = id

    @property
    def aio(self) -> _Aio:
        """The same for coroutines: ``await host.aio.lookup(id="7")``."""
        return _Aio(self._id)

    def __getattr__(self, name: str) -> Any:
        _check(name)
        id = self._id

        def function(*args: Any, **keyword: Any) -> Any:
            return call(id, name, args, keyword)

        function = _named(function, name)
        if _channel.OURS.channel is not None:
            self.__dict__[name] = function
        return function

    def __dir__(self) -> List[str]:
        channel = _channel.OURS.channel
        return ["aio", *((channel.functions or ()) if channel is not None else ())]

    def __repr__(self) -> str:
        return "pypool.host"


host = Host()
