"""How a worker is guarded, and how it ends when the host is gone. `_exit` is the orderly way."""

from __future__ import annotations

import os
from _thread import get_ident, start_new_thread
from time import sleep

from ._call import RUNNING
from ._page import MEMORY
from ._stdio import LOG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, NoReturn, Optional

_SIGKILL = 9
#: Kept: a script may put something else in its place.
end, _kill, _write = os._exit, os.kill, os.write

#: SIGRTMAX-2: beside SIGUSR1, which user code may take for itself, one that nobody else is likely
#: to use. Linux only.
_STACKS = 62


#: Kept for `_errors`, which may be loaded when no other module can be found any more.
SEP = os.sep
STDLIB = (getattr(os, "__file__", None) or "").rpartition(SEP)[0] + SEP


class _Watch:
    """`armed` is False once the host has said `shutdown`; `started` is True once requests are
    served.

    `group` is the process group that is the worker's own, to be killed with it; None when there is
    none.
    """

    armed = True
    started = False
    pid = os.getpid()
    group: Optional[int] = None


WATCH = _Watch()


def own_group(started: Optional[int]) -> None:
    """Find out what may be killed as a whole. `started` is the process that the host has started in
    a group of its own: this one, or a wrapper that did not exec.
    """
    try:
        if os.getpgrp() in (started, os.getpid()):
            WATCH.group = os.getpgrp()
    except AttributeError:
        pass  # no groups on Windows


def leave_terminal() -> None:
    """Give up the host's terminal: whoever asks for a password there would stop the whole worker.
    So he gets an error at once.
    """
    try:
        fd = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except (AttributeError, OSError):
        return  # there is none
    try:
        import fcntl
        import termios

        fcntl.ioctl(fd, termios.TIOCNOTTY)
    except (ImportError, AttributeError, OSError):
        pass
    finally:
        os.close(fd)


def volunteer() -> None:
    """Be the first to go when memory runs out, and not the host, unless that has half the limit more
    in use, or the highest score. Children inherit it.
    """
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
    except (AttributeError, OSError):
        return  # not Linux, or no /proc
    try:
        score = min(1000, int(os.read(fd, 16)) + 500)
        os.pwrite(fd, b"%d" % score, 0)
    except (OSError, ValueError):
        pass
    finally:
        os.close(fd)


def note(text: str, head: bytes = b"") -> None:
    """A line of the runtime itself, on the private stderr. Never raises, and needs nothing that a
    script can take away.
    """
    data = head + ("pypool: " + text + "\n").encode("utf-8", "backslashreplace")
    for fd in (LOG.err, 2):
        try:
            _write(fd, data)
            return
        except BaseException:
            pass  # closed by a handler: perhaps the other one is not


def host_gone(why: str = "") -> NoReturn:
    """The host died without a goodbye, or the channel is lost, which is said: take the whole
    process group along, so that no grandchild is left behind.

    A forked child that returned from its handler comes here too, see `guard_forks`; it just ends.
    """
    if os.getpid() != WATCH.pid:
        end(0)
    if why:
        note(why, LOG.mark and LOG.mark + b'{"lost":true}\x1f')  # the host believes nothing else
    try:
        if WATCH.group is not None and os.getpgrp() == WATCH.group:
            _kill(0, _SIGKILL)
    except (AttributeError, OSError):
        pass  # no groups on Windows
    end(1)


def watch_host(fd: int, stacks: Optional[int] = None, asks: Optional[int] = None) -> None:
    """Start the thread that notices the host's end while the loop's thread is busy with a call, and
    that writes all threads' stacks when it is asked to. Must be called in the main thread.
    """
    try:
        import select

        poll = select.poll()
    except (ImportError, AttributeError):
        return  # Windows: the end of file in the loop has to do
    # Hang-up only: asking for readable data as well would wake this thread for each request.
    poll.register(fd, select.POLLHUP)
    dump = None
    if stacks is not None and asks is not None:
        dump = _dump_for(stacks, asks)
        poll.register(asks, select.POLLIN)

    def watch() -> None:
        while True:
            events = poll.poll()
            if dump is not None and events and events[-1][0] == asks:
                if events.pop()[1] != select.POLLIN or not dump():
                    poll.unregister(asks)
            if events:
                break
        # A handler has closed it before this thread came to wait
        if events[0][1] & select.POLLNVAL:
            host_gone("the channel to the host is closed")
        # What was written before the host closed its end is still in the pipe, and may be
        # `shutdown`: an idle loop reads it, and the end of file behind it, by itself.
        while WATCH.armed:
            request = RUNNING.request
            if not WATCH.started or (request is not None and request[1] != "shutdown"):
                host_gone()
            sleep(0.005)

    start_new_thread(watch, ())


def _dump_for(stacks: int, asks: int) -> Callable[[], bool]:
    """What writes the stacks, while this thread has the GIL and the others stand still; it returns
    False once it cannot any more.
    """
    import faulthandler

    main, own, write = get_ident(), get_ident, _write
    read, fstat, traceback = os.read, os.fstat, faulthandler.dump_traceback

    def identity() -> List[Any]:
        return [(found.st_dev, found.st_ino) for found in (fstat(stacks), fstat(asks))]

    files = identity()

    def dump() -> bool:
        try:
            if identity() != files:
                return False  # a handler has closed one, and its number is another file's
            read(asks, 64)  # who asks again before the answer is meant by it, too
            write(stacks, b"asked %x %x\n" % (own(), main))
            traceback(stacks, True)
            write(stacks, b"\0")
        except BlockingIOError:
            pass  # the host has taken the question back, or has not read the last answer
        except OSError:
            return False
        return True

    return dump


def leash(fd: Optional[int]) -> Optional[int]:
    """Have the kernel kill the process group when the host, which holds the other end of this pipe,
    is gone.

    That needs no thread and no GIL, and takes along what the worker has started. This process is
    named besides, should it leave its group: through a file of its own, since a file has one owner.
    Linux only: elsewhere nothing happens.
    """
    try:
        import _signal  # type: ignore[import-not-found]  # signal itself would import enum
        import fcntl

        if fd is None or WATCH.group is None:
            return None
        _own(fcntl, fd, -WATCH.group)
        second = None
        try:
            opened = os.open("/proc/self/fd/%d" % fd, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            second = private(opened)
            if second is not None:
                _own(fcntl, second, os.getpid())
        except OSError:
            pass  # no /proc
        # The host's parent death signal, which has guarded the start, would end this process alone,
        # and the leash with it.
        _signal.signal(_signal.SIGIO, _signal.SIG_IGN)
        return second
    except (ImportError, AttributeError, OSError, ValueError):
        return None


def become(pid: int) -> None:
    """Make this process, forked by a fork server, a worker: one with a group of its own."""
    try:
        os.setpgid(0, 0)
    except OSError:
        pass  # the server was first
    WATCH.pid = WATCH.group = pid


def hold_leash(fd: Optional[int]) -> None:
    """End if the host was gone before it held the leash: of that nobody is told any more."""
    import select

    if fd is None:
        return
    poll = select.poll()
    poll.register(fd, 0)
    if poll.poll(0):  # POLLERR: nobody has the other end
        host_gone()


def _own(fcntl: Any, fd: int, owner: int) -> None:
    fcntl.fcntl(fd, fcntl.F_SETSIG, _SIGKILL)
    fcntl.fcntl(fd, fcntl.F_SETOWN, owner)
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)


def private(fd: Optional[int]) -> Optional[int]:
    """Move an inherited descriptor out of the reach of handlers and their children; None when it is
    not there.
    """
    if fd is None:
        return None
    try:
        import fcntl

        try:
            copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100)
        except ValueError:
            copy = os.dup(fd)
        except OSError:
            copy = os.dup(fd)  # RLIMIT_NOFILE is small; or fd is not open, which this says again
        os.close(fd)
        return copy
    except (ImportError, OSError):
        return None


def close_inherited() -> None:
    """Close what the host passed on without knowing it: descriptors that it inherited itself, not
    marked close-on-exec.
    """
    try:
        names = os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd")
    except OSError:
        return
    for name in names:
        try:
            fd = int(name)
            if fd > 2 and os.get_inheritable(fd):  # all that Python opens itself is not inheritable
                os.close(fd)
        except (ValueError, OSError):
            pass


def guard_process(err: int, stack_fd: Optional[int]) -> None:
    """Signals, core dumps and crash reports. `err` is the private copy of stderr."""
    import _signal
    import faulthandler

    # ^C in a terminal goes to the whole foreground group; the host decides when a worker stops.
    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
    # The default action ends C code that holds the GIL too; an ignored SIGTERM would have been
    # inherited.
    _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
    faulthandler.enable(file=err)
    if stack_fd is not None and hasattr(_signal, "SIGUSR1"):
        for signum in (_signal.SIGUSR1, _STACKS):
            try:
                faulthandler.register(signum, file=stack_fd, all_threads=True, chain=False)
            except (OSError, RuntimeError, ValueError):
                pass  # no such signal here
    # What is inherited blocked from a host that blocks it would never be heard.
    names = ("SIGUSR1", "SIGTERM", "SIGIO", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT")
    try:
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [getattr(_signal, name) for name in names if hasattr(_signal, name)])
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [_STACKS])
    except (AttributeError, OSError, ValueError):
        pass  # Windows
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    except (ImportError, ValueError, OSError):
        pass


class _Forks:
    """What forked children are not to have."""

    def __init__(self) -> None:
        self.channel: List[int] = []
        self.lines: List[Any] = []
        self.guarded = False


FORKS = _Forks()


def guard_forks(channel: List[int], lines: List[Any]) -> None:
    """Take the channel from forked children: they would keep it open, or serve a call a second
    time.

    The numbers stay taken, by /dev/null: a child that returns from its handler into the loop writes
    its answer to nowhere, finds none of the requests that had been read before, and then reads the
    end of file, which ends it.
    """
    forks = FORKS
    forks.channel, forks.lines = channel, lines
    if forks.guarded:
        return
    forks.guarded = True

    def after_in_child() -> None:
        forks.lines.clear()
        MEMORY.half = 0  # it is the parent's: this one's payloads go nowhere, as its lines do
        null = os.open(os.devnull, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
        for fd in forks.channel:
            try:
                os.dup2(null, fd, inheritable=False)
            except OSError:
                pass  # the handler has closed it
        os.close(null)

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=after_in_child)
