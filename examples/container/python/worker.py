"""What the service calls. It is in the binary: see main.go."""

import os
from typing import Dict

from pypool import command


@command
def greet(name: str) -> str:
    return "Hello, %s!" % name


@command
def where() -> Dict[str, object]:
    """Where this runs, for the test."""
    return {"pid": os.getpid(), "uid": os.getuid(), "file": __file__, "cwd": os.getcwd()}


@command
def leave_behind() -> int:
    """Start something that leaves the worker's group and its parent: an init has to reap it."""
    first = os.fork()
    if first == 0:
        os.setsid()
        second = os.fork()
        if second == 0:
            os.execvp("sh", ["sh", "-c", "exit 0"])
        os._exit(0)
    os.waitpid(first, 0)
    return first


@command
def fill(megabytes: str) -> int:
    """Take so much memory, of which the container may not have as much."""
    return len(bytearray(os.urandom(1024)) * (int(megabytes) * 1024))
