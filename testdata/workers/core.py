"""The worker of the core tests: commands that do as they are told."""

import atexit
import fcntl
import logging
import os
import stat
import subprocess
import sys
import time

from pypool import command, current_call, program


@command
def echo(value):
    return value


@command
def echo_meta():
    """What Python knows of the call."""
    call = current_call()
    return {"id": call.id, "session_id": call.session_id, "deadline": call.deadline is not None}


@command
def pid():
    return os.getpid()


@command
def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


@command
def hold(gate, mark=None):
    """Tell that it has begun, then wait at the gate, a FIFO, until the test opens it."""
    if mark:
        with open(mark + ".new", "w") as f:
            f.write(str(os.getpid()))
        os.rename(mark + ".new", mark)
    with open(gate) as f:
        f.read()
    return os.getpid()


@command
def crash(code=1):
    os._exit(code)


@command
def kill_self(signal):
    os.kill(os.getpid(), signal)


@command
def fail(message):
    raise ValueError(message)


@command
def nan():
    return {"rows": [{"score": 1.5}, {"score": float("nan")}]}


@command
def big(n):
    return "x" * n


@command
def noise(text):
    """Write to the protocol's own descriptor, as only malice can: the private pipe that is open for writing first."""
    for fd in range(100, 200):
        try:
            if stat.S_ISFIFO(os.fstat(fd).st_mode) and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
                break
        except OSError:
            continue
    os.write(fd, text.encode())
    time.sleep(60)


@command
def busy_loop_of_the_test():
    while True:
        pass


@command
def loud(text):
    """Write to standard output in every way there is."""
    print(text)
    os.write(1, (text + "\n").encode())
    os.system("echo " + text)
    subprocess.call(["echo", text])
    sys.__stdout__.write(text + "\n")
    return "done"


@command
def log(message):
    logging.getLogger("core.test").warning(message)


@command
def at_exit(path):
    """Leave a file when the interpreter ends in order."""
    atexit.register(lambda: open(path, "w").close())


@command
def sabotage():
    """Break the runtime itself: list_commands fails from now on, by no fault of a handler."""
    sys.modules["pypool._describe"].describe = None


@command
def count(n: int):
    yield from range(n)


@program("double")
def double(x: int) -> int:
    return 2 * x


@program("poison")
def poison():
    os._exit(1)


@program("healthy")
def healthy():
    return "fine"
