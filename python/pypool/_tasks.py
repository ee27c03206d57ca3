"""Calls of concurrent commands side by side: a shared worker's loop.

It begins with the first request that the host marks as shared, and ends when the last of those
calls has its final line and the host wants something else, or nothing for now. Each call is a task
of the worker's event loop (`_async`), in a context of its own.
"""

from __future__ import annotations

import asyncio
import os
from _thread import get_ident
from time import monotonic_ns

from . import _async, _bind, _builtins, _cancel, _life, _replies
from ._call import RUNNING, SHARED_REQUEST, TaskCall, enter_task
from ._commands import COMMANDS
from ._dispatch import gave_items, needs_stream
from ._json import escape, scan
from ._requests import parse_request
from ._results import encode
from ._stacks import stack_of
from ._stdio import LOG, OPEN
from ._wire import BLOBS, SHARED, SPLIT_WRITE, STREAM, BindError, Control, Packed, RequestError
from ._wire import Shared as _Shared

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextvars import Context
    from typing import Any, List, Sequence

    from ._answers import Answers
    from ._commands import Command
    from ._replies import Pending
    from ._wire import Request

_SHARED = SHARED.encode()
#: Bytes of lines that are kept together before they are written.
GATHERED = 1 << 16


def serve(answers: Answers, base: Context) -> None:
    """Serve shared requests, the first of which is the next line, until none is left."""
    serving = _Serving(answers, base)
    functions = bool(answers.channel.functions)
    if functions:
        _replies.read_by_loop(True)
    RUNNING.request, RUNNING.loop = SHARED_REQUEST, serving
    LOG.looping = True
    _FORKS.loop = serving.loop
    try:
        serving.run()
    finally:
        _FORKS.loop = None
        LOG.looping = False
        RUNNING.request = RUNNING.loop = None
        if functions:
            _replies.read_by_loop(False)


class _Forks:
    """In a forked child the loop must not go on: it shares its selector with the parent's, and the
    other calls are the parent's.
    """

    loop: Any = None

    def after(self) -> None:
        loop = self.loop
        if loop is None:
            return
        try:
            loop._ready.appendleft(asyncio.Handle(_life.end, (0,), loop, None))
        except AttributeError:  # uvloop
            loop.call_soon(_life.end, 0)


_FORKS = _Forks()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_FORKS.after)


class _Serving:
    def __init__(self, answers: Answers, base: Context) -> None:
        self.answers = answers
        self.channel = answers.channel
        self.base = base
        self.loop = _async.event_loop()
        self.calls = RUNNING.tasks
        self.out: List[str] = []
        self.size = 0  # characters in out
        self.small = min(SPLIT_WRITE, answers.limit - 64)
        self.over = False  # the next line is for the worker's own loop
        self.stopped = False  # the loop is to end

    def run(self) -> None:
        loop = self.loop
        loop.add_reader(self.channel.fd_in, self._guarded, self._read)
        loop.call_soon(self._guarded, self._take)
        while True:
            try:
                loop.run_forever()
                if not self.calls:
                    break
                if not self.stopped:
                    _life.note("a call has stopped the event loop, which goes on")
                self.stopped = False  # a request came meanwhile
            except BaseException as error:
                # A task that some call has made, or a signal handler: the calls go on
                _life.note("raised in the event loop, outside of a call: %s" % type(error).__name__)
        loop.remove_reader(self.channel.fd_in)
        self._flush()

    def _guarded(self, step: Any) -> None:
        """Run a step of this loop's own. What is raised there has lost a line, or a part of one: so
        the worker is lost.
        """
        try:
            step()
        except BaseException as error:
            if isinstance(error, OSError):
                _life.host_gone("the channel to the host is closed: %s" % error)
            _life.note("the worker ends, because a line was read or written only in part: %s" % type(error).__name__)
            _life.end(1)

    # --- lines in ---------------------------------------------------------------------------------

    def _read(self) -> None:
        channel = self.channel
        try:
            chunk = os.read(channel.fd_in, 1 << 20 if channel.parts else 1 << 16)
        except BlockingIOError:
            return
        if not chunk:
            _life.host_gone()
        channel.take(chunk)
        self._take()

    def _take(self) -> None:
        lines = self.channel.lines
        while lines and not self.over:
            line = lines.pop()
            if isinstance(line, bytes) and line.startswith(_SHARED):
                request = line[len(_SHARED) : -1] if line.endswith(b"}") else b""
                if type(line) is not bytes:
                    from ._payloads import laden, payloads_of  # many requests have none

                    request = laden(request, payloads_of(line))
                self._begin(request)
            elif not (isinstance(line, bytes) and self._control(line)):
                lines.append(line)
                self.over = True
                self.loop.remove_reader(self.channel.fd_in)
        self._leave()

    def _leave(self) -> None:
        if not self.calls:
            self.stopped = True
            self.loop.stop()

    def _control(self, line: bytes) -> bool:
        """Obey a control line; whether it is one."""
        if not line.startswith(b'{"id":') or len(line) > 80:
            return False
        try:
            text = line.decode()
            id, at = scan(text, 6)
        except (ValueError, StopIteration):
            return False
        rest = text[at:]
        call = self.calls.get(id)
        if rest in (',"cancel":true}', ',"cancel":true,"stack":true}', ',"stack":true}'):
            if call is not None:
                if "stack" in rest:
                    self._put('{"id":%d,"stack":%s}\n' % (id, escape(stack_of(call.task, call.items))))
                    self._flush()
                if "cancel" in rest:
                    self._cancel(call)
            return True
        if rest.startswith(',"credit":') and rest[10:-1].isdigit() and rest.endswith("}"):
            if call is not None:
                call.credit += int(rest[10:-1])
                if call.wanted is not None and not call.wanted.done():
                    call.wanted.set_result(None)
            return True
        return False

    def _cancel(self, call: TaskCall) -> None:
        if call.canceled or call.ended:
            return
        call.canceled = True
        if not call.shields:
            call.task.cancel()
        elif call.wanted is not None and not call.wanted.done():
            call.wanted.set_result(None)  # no credit comes any more

    def _begin(self, line: bytes) -> None:
        try:
            try:
                request = parse_request(line)
            except (Control, Packed, _Shared):
                raise RequestError("invalid_request", "no request can be shared but one of its own", None) from None
            if request[0] in self.calls:
                raise RequestError("invalid_request", "a request with this id runs already", None)
        except RequestError as error:
            from . import _failure  # no host sends such a line, but for arguments that cannot be read

            self._put(_failure.error_line(error.id, {"kind": error.kind, "message": str(error)}))
            return
        self.answers.calls += 1
        call = TaskCall(request, monotonic_ns())
        self.calls[request[0]] = call
        self.base.copy().run(self._start, call, request)

    def _start(self, call: TaskCall, request: Request) -> None:
        enter_task(request)
        call.task = self.loop.create_task(self._run(call, request))
        call.task.add_done_callback(self._done)

    # --- one call ---------------------------------------------------------------------------------

    async def _run(self, call: TaskCall, request: Request) -> None:
        id, name, args, _, _, how, _ = request
        entry = COMMANDS.get(name)
        if entry is None:
            self.answers.calls -= 1
            self._end(call, _builtins.answer(self.answers, request))
            return
        if not entry.interruptible:
            with _cancel.holding():
                answer = await self._answer(call, entry, args, how)
        else:
            answer = await self._answer(call, entry, args, how)
        self._end(call, answer)

    async def _answer(self, call: TaskCall, entry: Command, args: Any, how: int) -> str:
        answers, id = self.answers, call.request[0]
        try:
            if entry.streams and not how & STREAM:
                raise needs_stream(entry)
            positional, keyword = _bind.bind(entry, args)
        except BindError as error:
            return answers.refused(id, error.fields())
        except BaseException as error:
            return answers.failed(id, error)  # raised by a class of the user's that was to be made
        try:
            result = entry.func(*positional, **keyword)
            if hasattr(type(result), "__await__"):
                result = await result
            if how & STREAM:
                await self._items(call, result, entry, how)
                text = "null"
            else:
                if hasattr(type(result), "__anext__") or hasattr(type(result), "gi_frame"):
                    raise gave_items(entry)
                if how & BLOBS:
                    from . import _blobs  # many callers take none

                    return _blobs.succeeded(answers, id, _blobs.prepared(entry, result), self._flush)
                outgoing = _bind.outgoing(entry)
                text = encode(outgoing(result) if outgoing else result)
            if len(text) < self.small:
                return f'{{"id":{id},"success":true,"result":{text}}}\n'
            self._flush()
            return answers.succeeded(id, text)
        except BaseException as error:
            return answers.failed(id, error, entry, args)

    async def _items(self, call: TaskCall, result: Any, entry: Command, how: int) -> None:
        """Send what the handler yields, as far as the host's credit goes. The generator is closed
        in every case.
        """
        items = call.items = _items_of(result)
        several = hasattr(type(result), "__next__") or hasattr(type(result), "__anext__")
        outgoing = _bind.outgoing(entry, several) or None
        try:
            while not call.canceled:
                try:
                    item = await items.__anext__()
                except StopAsyncIteration:
                    break
                text = "" if how & BLOBS else encode(item if outgoing is None else outgoing(item))
                while not call.credit and not call.canceled:
                    call.wanted = self.loop.create_future()
                    await call.wanted
                if call.canceled:
                    break
                call.credit -= 1
                if how & BLOBS:
                    from . import _blobs  # many callers take none

                    prepared = _blobs.prepared(entry, item, several)
                    _blobs.item(self.answers, call.request[0], prepared, self._put, self._flush)
                    continue
                line = '{"id":%d,"item":%s}\n' % (call.request[0], text)
                self.answers._check("item", len(line))
                self._put(line)
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()

    def _done(self, task: Any) -> None:
        """What has ended without an answer: it was canceled before it began, or its own clean-up
        was struck.
        """
        for call in list(self.calls.values()):
            if call.task is task:
                self._guarded(lambda: self._lost(call, task))  # noqa: B023

    def _lost(self, call: TaskCall, task: Any) -> None:
        error: BaseException = asyncio.CancelledError()
        if not task.cancelled():
            error = task.exception() or RuntimeError("the task ended without an answer")
            if call.request[1] in COMMANDS:
                self.answers.judge(COMMANDS[call.request[1]], error)
        self._end(call, self.answers.failed(call.request[0], error))

    # --- lines out --------------------------------------------------------------------------------

    def _end(self, call: TaskCall, line: str) -> None:
        call.ended = True
        # The loop may end with this call: what it still had to do would keep the arguments
        call.task.remove_done_callback(self._done)
        id = call.request[0]
        if self.channel.replies is not None:
            _replies.end_calls(id)
        if OPEN:
            from . import _output  # loaded by what was printed

            _output.end_lines_of(id)
        self._put(line)
        self.calls.pop(id, None)
        if not self.calls:
            self._guarded(self._flush)
            self._leave()

    def send(self, pending: Pending, line: str, payloads: Sequence[Any] = ()) -> None:
        """Write a call of a function of the host's: in any thread, and not behind the final line of
        the call that it is for.
        """
        if get_ident() == LOG.thread:
            self._put(line, payloads)
        else:
            step = lambda: self._put(line, payloads) if pending.reply is None else None  # noqa: E731
            self.loop.call_soon_threadsafe(self._guarded, step)

    def _put(self, line: str, payloads: Sequence[Any] = (), final: int = 0) -> None:
        """Keep a line until the loop has run all that is ready: one write(2) then takes what is
        there.
        """
        if payloads:
            self._flush()
            self.channel.write_laden(payloads, line, final)
            return
        if not self.out:
            self.loop.call_soon(self._guarded, self._flush)
        self.out.append(line)
        self.size += len(line)
        if self.size > GATHERED:
            self._guarded(self._flush)

    def _flush(self) -> None:
        if self.out:
            text = "".join(self.out)
            self.out.clear()
            self.size = 0
            self.channel.write(text)


class _Items:
    """A plain result, or a plain generator, as an async iterator."""

    def __init__(self, items: Any) -> None:
        self._items = items

    async def __anext__(self) -> Any:
        try:
            return next(self._items)
        except StopIteration:
            raise StopAsyncIteration from None


def _items_of(result: Any) -> Any:
    if hasattr(type(result), "__anext__"):
        return result
    return _Items(result if hasattr(type(result), "__next__") else iter((result,)))
