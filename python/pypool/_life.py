"""How a worker is guarded, and how it ends when the host is gone. `_exit` is the orderly way."""

from __future__ import annotations

import os
from _thread import start_new_thread
from time import sleep

from ._call import RUNNING
from ._stdio import LOG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, NoReturn, Optional

_SIGKILL = 9
#: Kept: a script may put something else in its place.
end, _kill, _write = os._exit, os.kill, os.write


#: Kept for `_errors`, which may be loaded when no other module can be found any more.
SEP = os.sep
STDLIB = (getattr(os, "__file__", None) or "").rpartition(SEP)[0] + SEP


class _Watch:
    """`armed` is False once the host has said `shutdown`; `started` is True once requests are served."""

    armed = True
    started = False
    pid = os.getpid()


WATCH = _Watch()


def note(text: str) -> None:
    """A line of the runtime itself, on the private stderr. Never raises, and needs nothing that a script can take away."""
    data = ("pypool: " + text + "\n").encode("utf-8", "backslashreplace")
    for fd in (LOG.err, 2):
        try:
            _write(fd, data)
            return
        except BaseException:
            pass  # closed by a handler: perhaps the other one is not


def host_gone(why: str = "") -> NoReturn:
    """The host died without a goodbye, or the worker cannot go on, which is said: take the whole process group along, so that no
    grandchild is left behind.

    A forked child that returned from its handler comes here too, see `guard_forks`; it just ends.
    """
    if os.getpid() != WATCH.pid:
        end(0)
    if why:
        note(why)
    try:
        if os.getpgrp() == os.getpid():
            _kill(0, _SIGKILL)
    except (AttributeError, OSError):
        pass  # no groups on Windows
    end(1)


def watch_host(fd: int) -> None:
    """Start the thread that notices the host's end while the loop's thread is busy with a call."""
    try:
        import select

        poll = select.poll()
    except (ImportError, AttributeError):
        return  # Windows: the end of file in the loop has to do
    # Hang-up only: asking for readable data as well would wake this thread for each request.
    poll.register(fd, select.POLLHUP)

    def watch() -> None:
        while not poll.poll():
            pass
        # What was written before the host closed its end is still in the pipe, and may be `shutdown`: an idle loop reads it,
        # and the end of file behind it, by itself.
        while WATCH.armed:
            request = RUNNING.request
            if not WATCH.started or (request is not None and request[1] != "shutdown"):
                host_gone()
            sleep(0.005)

    start_new_thread(watch, ())


def leash(fd: Optional[int]) -> None:
    """Have the kernel kill the process group when the host, which holds the other end of this pipe, is gone.

    That needs no thread and no GIL, and takes along what the worker has started. Linux only: elsewhere nothing happens.
    """
    try:
        import _signal  # type: ignore[import-not-found]  # signal itself would import enum
        import fcntl

        if fd is None or os.getpgrp() != os.getpid():
            return
        fcntl.fcntl(fd, fcntl.F_SETSIG, _SIGKILL)
        fcntl.fcntl(fd, fcntl.F_SETOWN, -os.getpid())
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
        # The host's parent death signal, which has guarded the start, would end this process alone, and the leash with it.
        _signal.signal(_signal.SIGIO, _signal.SIG_IGN)
    except (ImportError, AttributeError, OSError, ValueError):
        pass


def close_inherited() -> None:
    """Close what the host passed on without knowing it: descriptors that it inherited itself, not marked close-on-exec."""
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
    # The default action ends C code that holds the GIL too; an ignored SIGTERM would have been inherited.
    _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
    faulthandler.enable(file=err)
    if stack_fd is not None and hasattr(_signal, "SIGUSR1"):
        faulthandler.register(_signal.SIGUSR1, file=stack_fd, all_threads=True, chain=False)
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    except (ImportError, ValueError, OSError):
        pass


def guard_forks(channel: List[int], lines: List[Any]) -> None:
    """Take the channel from forked children: they would keep it open, or serve a call a second time.

    The numbers stay taken, by /dev/null: a child that returns from its handler into the loop writes its answer to nowhere,
    finds none of the requests that had been read before, and then reads the end of file, which ends it.
    """

    def after_in_child() -> None:
        lines.clear()
        null = os.open(os.devnull, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
        for fd in channel:
            try:
                os.dup2(null, fd, inheritable=False)
            except OSError:
                pass  # the handler has closed it
        os.close(null)

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=after_in_child)
