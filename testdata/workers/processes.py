"""What a handler can do to its process, to the memory it shares with the host, and to the signals that pypool relies on."""

import gc
import mmap
import os
import signal
from typing import Any, List

from pypool import command


@command
def echo(value: Any = None) -> Any:
    return value


@command
def note(path: str, then: str = "return") -> str:
    """Note the call with one write before anything else, then act."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, b".\n")
    os.close(fd)
    if then == "scribble and exit":
        scribble(0)
        os._exit(7)
    if then == "scribble and kill":
        scribble((1 << 64) - 1)
        os.kill(os.getpid(), signal.SIGKILL)
    return then


@command
def scribble(value: int) -> int:
    """Overwrite every word of every page that is mapped and can be found, as a wild write in C would."""
    words = 0
    for found in gc.get_objects():
        if type(found).__name__ == "Worker" and hasattr(found, "channel"):
            page = found.channel.page
            for i in range(len(page)):
                page[i] = value
                words += 1
    return words


def _shared() -> List[int]:
    """Descriptors of what is shared with the host, the inherited ones and what mmap keeps of them."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if "memfd:" in os.readlink("/proc/self/fd/" + name):
                found.append(int(name))
        except OSError:
            pass
    for name in os.listdir("/proc/self/map_files"):
        path = "/proc/self/map_files/" + name
        try:
            if "memfd:" in os.readlink(path):
                found.append(os.open(path, os.O_RDWR))
        except OSError:
            pass
    return found


@command
def spoil_memory(how: str) -> int:
    """Take the memory away that is shared with the host. Returns how many ways to it there were."""
    fds = _shared()
    for fd in fds:
        try:
            if how == "truncate":
                os.ftruncate(fd, 0)
            elif how == "shrink":
                os.ftruncate(fd, 1)
            elif how == "grow":
                os.ftruncate(fd, 1 << 30)
            elif how == "truncate by path":
                os.truncate("/proc/self/fd/%d" % fd, 0)
            elif how == "open to truncate":
                os.close(os.open("/proc/self/fd/%d" % fd, os.O_RDWR | os.O_TRUNC))
            elif how == "punch":
                import ctypes

                ctypes.CDLL(None, use_errno=True).fallocate(fd, 3, ctypes.c_long(0), ctypes.c_long(mmap.PAGESIZE))
        except OSError:
            pass
    return len(fds)


@command
def spoil_memory_and_exit(how: str) -> None:
    spoil_memory(how)
    os._exit(1)


@command
def pid() -> int:
    return os.getpid()


@command
def loop() -> None:
    while True:
        pass


@command
def c_loop() -> int:
    return sum(range(10**12))  # C code that never releases the GIL


@command
def exit_if(code: int) -> int:
    if code:
        os._exit(code)
    return code


@command
def tell_and(path: str, name: str) -> None:
    """Run another command of this file, and say before that that it is about to run."""
    if name == "wander":
        wander(path, "host")
    with open(path, "w") as out:
        out.write(str(os.getpid()))
    globals()[name]()


@command
def wander(path: str, how: str) -> int:
    """Leave the group of the worker, as far as its session allows, and hold the GIL for ever."""
    if how == "setpgid":
        os.setpgid(0, 0)
    elif how == "host":
        os.setpgid(0, os.getpgid(os.getsid(0) if os.getpgrp() != os.getpid() else os.getppid()))
    else:
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            os.execlp("sleep", "sleep", "2")
        while os.getpgid(child) != child:
            pass
        os.setpgid(0, child)
    with open(path, "w") as out:
        out.write(str(os.getpid()))
    return sum(range(10**12))


@command
def session() -> Any:
    import getpass
    import io

    try:
        os.close(os.open("/dev/tty", os.O_RDWR))
        tty = "a terminal"
    except OSError:
        tty = "no terminal"
    try:
        answer = getpass.getpass("", io.StringIO())
    except (EOFError, OSError) as error:
        answer = type(error).__name__
    import subprocess

    child = subprocess.run(["sh", "-c", "exec 3<>/dev/tty"], stderr=subprocess.DEVNULL).returncode
    child_tty = "no terminal" if child else "a terminal"
    return {"pid": os.getpid(), "child": child_tty, "pgid": os.getpgrp(), "tty": tty, "getpass": answer}


@command
def stopped_by(name: str) -> None:
    os.kill(os.getpid(), getattr(signal, name))
    while True:
        pass


#: The runtime's other signal for a stack dump.
OTHER = 62


@command
def deaf(how: str) -> None:
    import faulthandler
    import threading
    import time

    def handler(*_: Any) -> None:
        pass

    if how == "ignore SIGUSR1":
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    elif how == "handle SIGUSR1":
        signal.signal(signal.SIGUSR1, handler)
    elif how == "default SIGUSR1":
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    elif how == "block SIGUSR1":
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    elif how == "block all":
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
    elif how == "block all in C":
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
        sum(range(10**12))
    elif how == "block all and stop":
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
        os.kill(os.getpid(), signal.SIGSTOP)
    elif how == "unregister":
        faulthandler.unregister(signal.SIGUSR1)
    elif how == "ignore the other":
        signal.signal(OTHER, signal.SIG_IGN)
    elif how == "ignore both":
        for number in (OTHER, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
    elif how == "default both":
        for number in (OTHER, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
    elif how == "handle both":
        for number in (OTHER, signal.SIGUSR1):
            signal.signal(number, handler)
    elif how == "other thread":
        begun = False

        def late() -> None:
            while not begun:  # else the next one's start waits for the GIL
                time.sleep(0.001)
            loop()

        for _ in range(3):
            threading.Thread(target=late, daemon=True).start()
        begun = True
    if "both" in how:
        sum(range(10**12))  # holds the GIL, which no thread has to ask for
    while True:
        pass


def _stranger(path: str) -> None:
    """A child that Python's hooks do not know of keeps all descriptors, and leaves the session."""
    import ctypes
    import time

    libc = ctypes.CDLL(None)
    if libc.fork() == 0:
        libc.setsid()
        with open(path + ".new", "w") as out:
            out.write(str(os.getpid()))
        os.rename(path + ".new", path)
        time.sleep(60)
        os._exit(0)
    while not os.path.exists(path):
        time.sleep(0.001)


@command
def exit_beside_a_stranger(path: str, code: int) -> None:
    _stranger(path)
    os._exit(code)


@command
def leave_a_stranger(path: str) -> None:
    if os.path.exists(path):
        os.unlink(path)
    _stranger(path)


@command
def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@command
def use_up_cpu() -> None:
    import resource

    signal.signal(signal.SIGXCPU, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CPU, (1, 1))
    while True:
        pass


@command
def leave_children(n: int, then: str) -> None:
    """Start processes that nobody waits for, then end."""
    import subprocess

    for _ in range(n):
        command_line = ["sh", "-c", "sleep 60 & sleep 60"] if then == "nested" else ["sleep", "60"]
        subprocess.Popen(command_line)
    if then in ("exit", "nested"):
        os._exit(1)
    if then == "kill":
        kill_self()
    if then == "hang":
        c_loop()


@command
def surroundings() -> Any:
    import sys

    env = [entry for entry in open("/proc/self/environ").read().split("\0") if entry]
    return {"Env": env, "Cwd": os.getcwd(), "Argv": sys.argv[1:]}
