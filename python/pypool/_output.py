"""What a worker prints and logs, as lines of stderr that say which call they belong to:
docs/protocol.md, "Logs".

`print` and everything else that goes through sys.stdout and sys.stderr comes here. What is written
to descriptors 1 and 2 past them, by C code and subprocesses, reaches the host as it is.
"""

from __future__ import annotations

import os
import sys
from _io import FileIO
from _thread import get_ident
from itertools import count
from os import fstat, getpid, write

from ._call import CALL, RUNNING, SHARED_REQUEST, named, this_thread
from ._finder import when_imported
from ._json import encode_raw
from ._life import WATCH, note
from ._stdio import LOG, OPEN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Tuple

#: Bytes of one write(2) to a pipe that nobody else's can tear: PIPE_BUF on Linux; elsewhere 512 is
#: all that POSIX promises.
ATOMIC = 4096 if sys.platform == "linux" else 512
#: By `flow`, whose output is a handler's rendering of a record that the host gets anyway: how many
#: bytes each has written so.
HELD: Dict[int, int] = {}


class _Flows:
    greenlet: Any = None  # what returns the one that runs, once a script has imported greenlet


def flow() -> int:
    """What runs here: a thread, or where there are greenlets (gevent, eventlet) one of these."""
    return get_ident() if _Flows.greenlet is None else id(_Flows.greenlet())


def _greenlets(module: Any) -> None:
    _Flows.greenlet = getattr(module, "getcurrent", None)


when_imported("greenlet", _greenlets)


class _Keys:
    """Of lines that are not ended, and of records in pieces: no two have the same, a forked child's
    and its parent's neither.
    """

    next = count(1).__next__


def _after_fork() -> None:
    """In a forked child: for which call it works, nobody knows."""
    LOG.forked, _Keys.next = True, count(getpid() << 24).__next__
    OPEN.clear()
    HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
if getpid() != WATCH.pid:
    _after_fork()  # a child is the first to print


def printing() -> Optional[Tuple[int, Optional[str], str]]:
    """Id, session and command of the call whose code runs here; None where that is not certain. A
    batch's id is negative, and no call's.

    Code of the loop's thread is the running call's; so is that of threads started during the call.
    Contexts tell for tasks of asyncio, also for those that a call has left behind. Anything else
    may work for another call, or for none.
    """
    if LOG.forked:
        return None
    known: Any = CALL.get(None)
    if known is not None:
        return known  # type: ignore[no-any-return]
    request = RUNNING.request
    if request is None or request is SHARED_REQUEST:
        return None
    call = named(request)
    if get_ident() == LOG.thread:
        return None if LOG.looping else call
    return call if getattr(this_thread(), "_pypool_call", None) == call[0] else None


def _file(fd: int) -> Any:
    found = fstat(fd)
    return found.st_dev, found.st_ino


def write_text(self: Any, data: Any) -> int:
    """`_stdio.Printed.write`."""
    if HELD and flow() in HELD:
        HELD[flow()] += len(data)
        return len(data)
    fd = self.fileno()
    if _file(fd) != LOG.file:  # somebody has put another file there
        return FileIO.write(self, data)
    call = printing()
    known = self.known  # with its head, which another thread may replace meanwhile
    if call != known[0]:
        known = self.known = call, _head(call)
    _print(fd, known[1], bytes(data), call[0] if call is not None and RUNNING.tasks else 0)
    request = RUNNING.request
    if request is not None and RUNNING.canceled(request[0]) and get_ident() == LOG.thread and not LOG.forked:
        RUNNING.strike(sys._getframe(1))  # of a loop that prints, the host's signals find nothing but this
    return len(data)


def _head(call: Any) -> str:
    fields: Dict[str, Any] = {}
    _name(call, fields)
    return encode_raw(fields)[:-1]


def _name(call: Any, fields: Dict[str, Any]) -> None:
    if call is not None:
        if call[0] > 0:
            fields["call"] = call[0]
        fields["command"] = call[2]
        if call[1] is not None:
            fields["session"] = call[1]


def _print(fd: int, head: str, text: bytes, task: int) -> None:
    """Write the text's lines, and what it begins of another, which is ended by what comes later, or
    by the call's end. `task` is the call's id where several run side by side.
    """
    where = fd, flow(), task
    key = OPEN.get(where)
    comma = "," if len(head) > 1 else ""
    room = ATOMIC - len(LOG.mark) - len(head) - 64
    frames: List[bytes] = []
    size = 0
    *lines, last = text.split(b"\n")
    for line in [*lines, None] if last else lines:
        whole, ends = (last, False) if line is None else (line, True)
        part: Any = memoryview(whole)  # cut from its front again and again
        while True:
            piece, part = part[:room], part[room:]
            more = len(part) > 0 or not ends
            if more and key is None:
                key = OPEN[where] = _Keys.next()
            rest = "" if key is None else '%s"line":%d%s' % (comma, key, ',"more":true' if more else "")
            frame = b"%b%b%b}\x1f%b\n" % (LOG.mark, head.encode(), rest.encode(), piece)
            if size + len(frame) > ATOMIC:
                _write(fd, b"".join(frames))
                frames, size = [], 0
            frames.append(frame)
            size += len(frame)
            if not len(part):
                break
        if ends and key is not None:
            OPEN.pop(where, None)
            key = None
    _write(fd, b"".join(frames))
    if key is not None:
        OPEN[where] = key  # again: another thread, at a call's end, may have ended it before it was written


def end_lines_of(task: int) -> None:
    """`end_lines` for one of the calls that run side by side."""
    try:
        for where in list(OPEN):  # at once, whatever other threads print
            if where[2] == task:
                _end_line(OPEN.pop(where, None))
    except Exception:
        pass  # nobody listens


def end_lines() -> None:
    """Tell the host that no more of the open lines will come: the call is over. Never raises."""
    try:
        for where in list(OPEN):
            _end_line(OPEN.pop(where, None))
    except Exception:
        OPEN.clear()  # nobody listens


def _end_line(key: Optional[int]) -> None:
    """Tell the host that no more of this line will come; None: its thread has done so meanwhile."""
    if key is not None:
        _write(LOG.err, b'%b{"line":%d}\x1f\n' % (LOG.mark, key))


def record(fields: Dict[str, Any]) -> None:
    """Send a record of logging. Raises what write(2) does."""
    _name(printing(), fields)
    if not LOG.mark:
        note("%(level)d %(logger)s: %(message)s" % fields)
        return
    text = encode_raw(fields).encode("ascii")
    room = ATOMIC - len(LOG.mark) - 48
    if len(text) <= room:
        _write(LOG.err, b"%b%b\n" % (LOG.mark, text))
        return
    key = b"%d.%d" % (getpid(), _Keys.next())
    for at in range(0, len(text), room):
        sign = b"+" if at + room < len(text) else b"="
        _write(LOG.err, b"%b%b%b:%b\n" % (LOG.mark, sign, key, text[at : at + room]))


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[write(fd, data) :]
