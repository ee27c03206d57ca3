"""The fork server: a process that has imported the script, and makes workers of itself by `os.fork`.

    host ---- socket: "fork", with the worker's descriptors ---> poll --> os.fork --> worker: setups, hello's answer
         <--- "forked PID" -------------------------------------   |                   (`_start`)
         ---- "reap PID", once the group has been killed ------> waitpid
         <--- "reaped PID STATUS USER_US SYSTEM_US" -----------

To fork a process with large libraries takes milliseconds, most of them for its page tables. So the
server forks one ahead when nobody asks: the spare, which becomes the next worker. Until then it waits
for its descriptors as a part of the server, in the server's group, and ends with it.

The server serves nobody, has one thread, and runs no code of the script's any more. What a worker
has of its own (pipes, page, leash) takes the numbers that the server's have: whatever knows those,
as faulthandler does, writes to the worker's from then on.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal itself would import enum
import _socket
import gc
import os
import select
import sys

from . import _finder, _forkable, _life, _stdio
from ._finder import imported

try:
    import mmap  # noqa: F401  for the workers' pages
except ImportError:
    pass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, NoReturn, Optional

#: What the host sends with "fork", in this order; the page where there is one.
STDIN, STDOUT, STDERR, STACKS, ASKS, LEASH, PAGE = range(7)
MOST = 7
#: Seconds without a question after which the spare is forked: the workers that a pool wants are asked
#: for in a row, and the spare is not to be in their way.
QUIET = 0.01


class Own:
    """The descriptors of this process, by the numbers that they keep in each worker."""

    def __init__(
        self, channel: List[int], stacks: Optional[int], asks: Optional[int], leash: Optional[int], second: Optional[int]
    ) -> None:
        self.channel = channel  # in, out and the private copy of stderr
        self.stacks = stacks
        self.asks = asks
        self.leash = leash
        self.second = second  # of the leash


#: What `_answer` returns in the server itself.
STILL_SERVER: Any = object()


def ready(socket_fd: Optional[int], own: Own, channel: Any) -> _Server:
    """The server of this process, once the script is imported. Raises where that cannot be one."""
    why = _forkable.refusal()
    if why:
        raise RuntimeError(why)
    if socket_fd is None or own.stacks is None or own.asks is None or own.leash is None:
        raise RuntimeError(
            "Config.ForkServer: Python has not got its descriptors: "
            "is it started by a wrapper that closes those it does not know?"
        )
    # What a worker needs for its first ping and call, or for its first failure: loaded once
    from . import _builtins, _dispatch, _errors, _exit, _failure, _output  # noqa: F401

    _forkable.pause_openmp()
    gc.collect()
    gc.freeze()  # so that a collection in a worker writes to none of it
    return _Server(socket_fd, own, channel)


class _Server:
    def __init__(self, socket_fd: int, own: Own, channel: Any) -> None:
        self.own = own
        self.channel = channel
        self.socket = _socket.socket(fileno=socket_fd)
        self.socket.setblocking(True)
        # What waits for any child, or for none, must not take ours. Workers get the script's back; a
        # handler of C code's, for which Python has None or SIG_DFL, stays: libev's only wakes its loop.
        taken = _signal.SIG_IGN if _forkable.ignored(_signal.SIGCHLD) else _signal.getsignal(_signal.SIGCHLD)
        self.sigchld = None if taken == _signal.SIG_DFL else taken
        if self.sigchld is not None:
            _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        self.poll = select.poll()
        self.poll.register(socket_fd, select.POLLIN)
        self.poll.register(channel.fd_in, select.POLLIN)
        self.spare: Optional[_Spare] = None
        self.quiet: Optional[float] = QUIET  # after that the spare is forked; None: not now
        self.ignore_warnings: Any = None
        if sys.version_info >= (3, 12):
            # It warns of native threads, too: those are their libraries' business.
            import warnings

            self.ignore_warnings = warnings

    def run(self) -> Any:
        """Serve until the host leaves. Returns in each worker, with its page, and nowhere else."""
        while True:
            try:
                ready = [fd for fd, _ in self.poll.poll(None if self.quiet is None else self.quiet * 1000)]
                page = STILL_SERVER
                if self.channel.fd_in in ready:
                    self._leave_if_told()
                if self.socket.fileno() in ready:
                    page = self._answer()
                elif not ready:
                    page = self._fork_ahead()
                elif self.spare is not None and self.spare.fd in ready:
                    self._lose_spare()  # it has ended: no other one until a worker is asked for
                if page is not STILL_SERVER:
                    return page
            except OSError:
                self._leave()  # the host is gone

    def _leave_if_told(self) -> None:
        from ._json import scan
        from ._wire import SUCCESS

        line = self.channel.next_line()
        if line is None:
            self._leave()
        request, _ = scan(line.decode(), 0)
        self.channel.write(SUCCESS % (request["id"], "null"))
        if request.get("command") == "shutdown":
            self._leave()

    def _leave(self) -> NoReturn:
        self._lose_spare()
        _leave(0)

    def _answer(self) -> Any:
        """Do one thing that the host asks for."""
        size = _socket.CMSG_SPACE(4 * MOST)
        data, ancillary, flags, _ = self.socket.recvmsg(256, size, getattr(_socket, "MSG_CMSG_CLOEXEC", 0))
        if not data:
            self._leave()
        fds = descriptors(ancillary)
        word, _, number = data.decode().partition(" ")
        try:
            if word == "reap":
                self._reap(int(number))
            elif flags & _socket.MSG_CTRUNC or len(fds) < PAGE:
                self._say("failed the fork server has no descriptor left (RLIMIT_NOFILE)")
            else:
                return self._fork(fds)
        finally:
            for fd in fds:
                os.close(fd)
        return STILL_SERVER

    def _say(self, text: str) -> None:
        self.socket.send(text.encode()[:1024])

    def _reap(self, pid: int) -> None:
        try:
            _, status, usage = os.wait4(pid, 0)
        except OSError:
            self._say("lost %d" % pid)
            return
        self._say("reaped %d %d %d %d" % (pid, status, usage.ru_utime * 1e6, usage.ru_stime * 1e6))

    def _fork(self, fds: List[int]) -> Any:
        """Make a worker: of the spare if there is one that lives."""
        self.quiet = QUIET
        pid = self._take_spare(fds)
        if not pid:
            why = self._why_not()
            if why:
                self._say("unfit " + why)
                return STILL_SERVER
            try:
                pid = self._plain_fork()
            except OSError as error:
                self._say("failed fork: %s" % error)
                return STILL_SERVER
            if not pid:
                return _begin(lambda: self._become_at_once(fds))
        try:
            os.setpgid(pid, pid)  # as it does itself: whoever comes first
        except OSError:
            pass
        self._say("forked %d" % pid)
        return STILL_SERVER

    def _why_not(self) -> str:
        """Why nothing can be forked now; empty: it can. What is buffered is written, once."""
        threads = _forkable.threads()
        if threads:
            return _forkable.refused_for(threads)
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                pass  # closed, or some other object
        return ""

    def _plain_fork(self) -> int:
        if self.ignore_warnings is None:
            return os.fork()
        with self.ignore_warnings.catch_warnings():
            self.ignore_warnings.simplefilter("ignore")
            return os.fork()

    def _fork_ahead(self) -> Any:
        """Fork the spare. It returns in the worker that this becomes, with its page."""
        self.quiet = None
        if self._why_not():
            return STILL_SERVER  # which whoever asks for a worker is told
        ours = theirs = None
        try:
            ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
            ours.setblocking(True)  # whatever the script has made of socket.setdefaulttimeout
            theirs.setblocking(True)
            pid = self._plain_fork()
        except OSError:
            pid = -1  # no process or descriptor left: whoever asks for a worker is told
        if pid > 0:
            self.spare = _Spare(pid, ours)
            self.poll.register(self.spare.fd, 0)  # its end
        elif ours is not None and pid < 0:
            ours.close()
        if pid and theirs is not None:
            theirs.close()
        if pid:
            return STILL_SERVER
        return _begin(lambda: self._wait_for_a_life(ours, theirs))

    def _wait_for_a_life(self, ours: Any, theirs: Any) -> Any:
        """In the spare: do what can be done beforehand, and wait for the descriptors of a worker."""
        ours.close()
        self._prepare()
        size = _socket.CMSG_SPACE(4 * MOST)
        data, ancillary, flags, _ = theirs.recvmsg(1, size, getattr(_socket, "MSG_CMSG_CLOEXEC", 0))
        if not data:
            _life.end(0)  # the server has ended
        fds = descriptors(ancillary)
        if flags & _socket.MSG_CTRUNC:
            raise OSError("no descriptor left (RLIMIT_NOFILE)")
        theirs.close()
        page = self._become(fds)
        for fd in fds:
            os.close(fd)
        return page

    def _take_spare(self, fds: List[int]) -> int:
        """Make the spare the worker that has these descriptors; its pid, or 0: there is none."""
        spare = self.spare
        if spare is None:
            return 0
        packed = b"".join([fd.to_bytes(4, sys.byteorder) for fd in fds])
        try:
            spare.socket.sendmsg([b"!"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)], _socket.MSG_NOSIGNAL)
        except OSError:
            self._lose_spare()  # it has ended
            return 0
        self._forget_spare(spare)
        return spare.pid

    def _lose_spare(self) -> None:
        spare = self.spare
        if spare is not None:
            self._forget_spare(spare)
            _life._kill(spare.pid, _life._SIGKILL)
            os.waitpid(spare.pid, 0)

    def _forget_spare(self, spare: _Spare) -> None:
        self.spare = None
        self.poll.unregister(spare.fd)
        spare.socket.close()

    def _prepare(self) -> None:
        """Do in a child that is to be a worker what needs none of its descriptors."""
        _life.WATCH.pid, _life.WATCH.group = os.getpid(), None
        self.socket.close()
        if self.sigchld is not None:
            _signal.signal(_signal.SIGCHLD, self.sigchld)
        _forget_server()
        _forkable.renew()

    def _become_at_once(self, fds: List[int]) -> Any:
        self._prepare()
        return self._become(fds)

    def _become(self, fds: List[int]) -> Any:
        """Make a worker of this child; its page."""
        own = self.own
        _life.become(os.getpid())
        server = os.fstat(own.channel[STDERR])
        for new, old in zip(fds, [*own.channel, own.stacks, own.asks, own.leash]):
            os.dup2(new, old, inheritable=False)  # type: ignore[arg-type]
        for fd in (1, 2):
            if _is_same(fd, server):  # else the script has put another file there
                os.dup2(own.channel[STDERR], fd)
        if own.second is not None:
            os.close(own.second)
        own.second = _life.leash(own.leash)
        _life.hold_leash(own.leash)
        if len(fds) <= PAGE:
            return None
        from . import _page

        return _page.shared(os.dup(fds[PAGE]))


class _Spare:
    """A child that was forked ahead, and the server's end of the socket by which it gets its
    descriptors.
    """

    def __init__(self, pid: int, socket: Any) -> None:
        self.pid = pid
        self.socket = socket
        self.fd = socket.fileno()


def descriptors(ancillary: Any) -> List[int]:
    """Those that have come with a message."""
    fds: List[int] = []
    for _, _, packed in ancillary:
        fds += [int.from_bytes(packed[at : at + 4], sys.byteorder) for at in range(0, len(packed) - 3, 4)]
    return fds


def _begin(become: Callable[[], Any]) -> Any:
    """What `become` returns, in a child; else its end."""
    try:
        return become()
    except BaseException as error:
        _life.note("the forked worker cannot begin: %s: %s" % (type(error).__name__, error))
        _life.end(1)


def _is_same(fd: int, file: Any) -> bool:
    try:
        found = os.fstat(fd)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (file.st_dev, file.st_ino)


def _forget_server() -> None:
    """Undo what the runtime and the standard library have noted of the fork, or of the server."""
    _stdio.LOG.forked = False
    _stdio.OPEN.clear()
    replies = _finder.loaded("_replies")
    if replies is not None:
        replies.WAITS.forked = False
    spawn = _finder.loaded("_spawn")
    if spawn is not None:
        spawn.forked()
    # A TemporaryDirectory that the script made at its import is everybody's: the server removes it
    registry: Any = getattr(getattr(imported("weakref"), "finalize", None), "_registry", None)
    for info in list((registry or {}).values()):
        info.atexit = False


def _leave(code: int) -> NoReturn:
    """End the server. Functions of atexit are the workers': only what weakref.finalize has to clean
    up, which is there once for all of them, is done here.
    """
    try:
        finalize: Any = getattr(imported("weakref"), "finalize", None)
        if getattr(finalize, "_registry", None):
            finalize._exitfunc()
        from . import _exit

        _exit._stop_trackers()
        _exit._flush()
    except BaseException:
        pass
    _life.end(code)
