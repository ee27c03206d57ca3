"""Who waits for the host's answer to what, and who reads for all of them: see `_host_calls`."""

from __future__ import annotations

import os
from _thread import allocate_lock, get_ident
from os import read
from time import monotonic_ns, sleep

from . import _channel, _life
from ._call import RUNNING
from ._cancel import STATE
from ._json import scan
from ._room import deep
from ._wire import is_reply

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional, Tuple

    from ._channel import Channel


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


HostError.__module__ = __package__  # where everybody finds it


class Pending:
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
        self.pending: Dict[int, Pending] = {}
        self.reader: Any = None  # who reads: a Pending, or the event loop; None: nobody
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


OVER: Any = {}
#: The reader while the worker is shared: the loop that serves its calls.
LOOP: Any = object()


def is_running(id: int) -> bool:
    """Whether this call is still served."""
    request = RUNNING.request
    return request is not None and (request[0] == id or id in RUNNING.tasks)


def forget(pending: Pending) -> None:
    """Nobody waits for it any more; another may have to read in its place."""
    waits = WAITS
    with waits.lock:
        waits.pending.pop(pending.number, None)
        if waits.reader is pending:
            waits.reader = None
        if waits.reader is None and waits.pending:
            appoint()


def read_by_loop(shared: bool) -> None:
    """Whether the loop of concurrent commands reads for everybody."""
    waits = WAITS
    with waits.lock:
        waits.reader = LOOP if shared else None


def end_calls(id: int) -> None:
    """The request has its answer: whoever still waits for a reply on its behalf gets none."""
    waits = WAITS
    with waits.lock:
        over = [pending for pending in waits.pending.values() if pending.id == id]
        for pending in over:
            del waits.pending[pending.number]
            pending.reply = OVER
            if pending.gate is not None and pending.gate.locked():
                pending.gate.release()
    for pending in over:
        if pending.future is not None:
            settle(pending)


def lost() -> None:
    """What was read may be lost, and then nobody knows where the stream stands."""
    from . import _exit  # few are struck so

    _life.note("the worker ends, because a reply of the host's was read only in part")
    _exit.finish(1)


def read_now(channel: Channel) -> None:
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


def soon(poll: Callable[[Any], Any]) -> bool:
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


def deliver(line: bytes) -> bool:
    """Whether the line is a reply; then it is given to whoever waits for it, if anybody does."""
    if not is_reply(line):
        return False
    text = line.decode()
    try:
        reply, _ = scan(text, 0)
    except (RecursionError, ValueError) as error:
        if type(error) is not ValueError and not isinstance(error, RecursionError):
            raise  # it is no JSON
        id, after = scan(text, 6)
        number, _ = scan(text, after + 8)
        too_deep = isinstance(error, RecursionError)
        message = "the result cannot be read: %s" % ("it is nested too deeply" if too_deep else error)
        reply = {"id": id, "host": number, "success": False, "error": {"type": "invalid_result", "message": message}}
        if too_deep and deep():
            reply["error"]["cause"] = error
    waits = WAITS
    with waits.lock:
        pending = waits.pending.get(reply["host"])
        if pending is None or pending.id != reply["id"] or pending.reply is not None:
            return True  # the answer to a call that is over
        if "bytes" in reply:
            from ._forms import set_bytes  # for few replies

            set_bytes(reply, reply["bytes"])
        if "blobs" in reply:
            from ._arrays import Unloadable  # likewise
            from ._payloads import place_all, used

            try:
                place_all(reply, reply["blobs"], line)
                used(line)
            except Unloadable as error:
                told = {"type": "invalid_result", "message": str(error), "cause": error.__cause__}
                reply.update(success=False, error=told)
        pending.reply = reply
        del waits.pending[pending.number]
        if pending.gate is not None and pending.gate.locked():
            pending.gate.release()
    if pending.future is not None:
        settle(pending)
    return True


def appoint() -> None:
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
        aio.loop.call_soon_threadsafe(watch, aio.loop)


def settle(pending: Pending) -> None:
    def done() -> None:
        if not pending.future.done():
            pending.future.set_result(None)

    if pending.thread == get_ident():
        return done()
    try:
        pending.loop.call_soon_threadsafe(done)
    except RuntimeError:
        pass  # the loop is closed


def watch(loop: Any) -> None:
    """Have the event loop read, in its thread."""
    waits = WAITS
    channel: Any = _channel.OURS.channel
    with waits.lock:
        if waits.reader is not None or not any(pending.future is not None for pending in waits.pending.values()):
            return
        waits.reader = waits.watched = loop
    loop.add_reader(channel.fd_in, _on_readable, channel)


def unwatch(loop: Any) -> None:
    waits = WAITS
    channel: Any = _channel.OURS.channel
    with waits.lock:
        if waits.watched is not loop or any(pending.loop is loop for pending in waits.pending.values()):
            return
        waits.watched = None
        if waits.reader is loop:
            waits.reader = None
            appoint()
    loop.remove_reader(channel.fd_in)


def _on_readable(channel: Channel) -> None:
    if WAITS.reader is WAITS.watched:
        read_now(channel)


def step_back(loop: Any) -> None:
    """A thread reads in the event loop's place."""
    if WAITS.reader is not loop:
        loop.remove_reader(_channel.OURS.channel.fd_in)  # type: ignore[union-attr]


def main_wait(channel: Channel) -> None:
    """Wait in the loop's thread until something is there."""
    poll = getattr(channel.waiter, "inner", channel.waiter).poll
    STATE.waiting = True
    try:
        if not soon(poll):
            poll()
    finally:
        STATE.waiting = False
