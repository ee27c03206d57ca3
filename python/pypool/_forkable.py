"""Whether a process can be forked, once it has imported the script, and what libraries need before and after."""

from __future__ import annotations

import os
import sys
from _thread import get_ident
from time import monotonic, sleep

from ._finder import imported
from ._life import note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List

#: Seconds that threads which end by themselves are given to do so.
PATIENCE = 0.5
#: How threads are called that others in the process wait for, and that nobody starts again after a
#: fork: those of polars (once something was computed), tokio, XLA (jax, TensorFlow), and torch's for
#: what runs side by side (`torch.jit.fork`; its operators have other threads).
POOLS = ("polars-0", "tokio-r", "async-executor-", "tf_XLA", "PTThreadPool")
#: What renews a library in a child, by module and function.
_RENEWED = (("gevent", "reinit"), ("numpy.random", "seed"), ("torch", "seed"))
#: OpenMP's omp_pause_soft.
_SOFT = 1


def refusal() -> str:
    """Why this process cannot be forked; empty: it can."""
    sleep(0.005)  # one that was started last may not have begun
    running = threads()
    end = monotonic() + PATIENCE
    while running and monotonic() < end:
        sleep(0.01)
        running = threads()
    if running:
        return refused_for(running)
    pools = _pools()
    if pools:
        return (
            "Config.ForkServer: the import has started native threads that a forked worker would wait for in vain: %s. "
            "Import the library, and compute in a @setup function or in commands only" % ", ".join(pools)
        )
    device = _device()
    if device:
        return (
            "Config.ForkServer: the import has initialised CUDA (%s), which does not work in a forked worker. "
            "Use the device in a @setup function, which runs in each worker" % device
        )
    return ""


def refused_for(running: List[str]) -> str:
    return (
        "Config.ForkServer: Python threads run after the import, and a forked worker would not have them: %s. "
        "Start them in a @setup function, which runs in each worker" % "; ".join(running)
    )


def threads() -> List[str]:
    """The other threads of Python, by name and place."""
    frames = {ident: frame for ident, frame in sys._current_frames().items() if ident != get_ident()}
    active: Any = getattr(imported("threading"), "_active", None) or {}
    named: List[str] = []
    for ident, frame in frames.items():
        thread = active.get(ident)
        name = "a thread" if thread is None else "%r" % (thread.name,)
        code = frame.f_code
        named.append("%s in %s (%s:%d)" % (name, code.co_name, code.co_filename, frame.f_lineno))
    return sorted(named)


def _pools() -> List[str]:
    """The native threads by name whose libraries are known not to handle forks."""
    found = set()
    try:
        for task in os.listdir("/proc/self/task"):
            with open("/proc/self/task/%s/comm" % task) as comm:
                name = comm.read().strip()
            if name.startswith(POOLS):
                found.add(name)
    except OSError:
        pass  # no /proc, or one that has ended meanwhile
    return sorted(found)


def pause_openmp() -> None:
    """End the threads that GNU's OpenMP (scikit-learn, torch) keeps for the next computation: in a
    forked worker it would wait for them for ever. It makes others when it needs them. Other OpenMPs
    handle forks.
    """
    try:
        with open("/proc/self/maps") as maps:
            mapped = {line.split(None, 5)[5].rstrip("\n") for line in maps if "libgomp" in line}
    except OSError:
        return
    for path in sorted(mapped):
        import ctypes  # where there is such a library

        try:
            ctypes.CDLL(path).omp_pause_resource_all(_SOFT)
        except (OSError, AttributeError):
            pass  # older than GCC 9: it cannot be asked to


def _device() -> str:
    """What shows that CUDA is in use; empty: nothing does."""
    cuda = getattr(imported("torch"), "cuda", None)
    try:
        if cuda is not None and cuda.is_initialized():
            return "torch.cuda.is_initialized()"
    except Exception:
        pass  # some other module of that name
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return ""
    for name in names:
        try:
            # Of the device's files the one that managing it alone does not open
            if os.readlink("/proc/self/fd/" + name) == "/dev/nvidia-uvm":
                return "/dev/nvidia-uvm is open"
        except OSError:
            pass
    return ""


def renew() -> None:
    """Give a child what libraries have once in a process: generators of its own, that its siblings
    have not, for `random` sees to itself; and the loops of gevent, which renews its own in its own
    os.fork only, and of eventlet, which never does.
    """
    known = [(name, getattr(imported(name), function, None)) for name, function in _RENEWED]
    for name, renews in [*known, ("eventlet", _renew_eventlet)]:
        if renews is not None:
            try:
                renews()
            except Exception as error:
                note("%s was not renewed in a forked worker: %s: %s" % (name, type(error).__name__, error))


def _renew_eventlet() -> None:
    """Make an epoll of this process's own, with what green threads of the import wait for."""
    hub: Any = getattr(getattr(imported("eventlet.hubs"), "_threadlocal", None), "hub", None)
    if hasattr(getattr(hub, "poll", None), "close"):  # poll(2) and select(2) have nothing to share
        hub.poll.close()
        hub.poll = type(hub.poll)()
        for fd in {*hub.listeners["read"], *hub.listeners["write"]}:
            hub.register(fd, new=True)


def ignored(signum: int) -> bool:
    """Whether the kernel drops the signal, whoever has told it so."""
    try:
        with open("/proc/self/status") as status:
            return any([line.startswith("SigIgn:") and int(line.split()[1], 16) >> signum - 1 & 1 for line in status])
    except OSError:
        return False  # no /proc
