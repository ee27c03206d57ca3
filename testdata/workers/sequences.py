"""Generators and the commands that Map's tests run."""

import os
import time

from pypool import command, current_call


@command
def count(n: int):
    for i in range(n):
        yield {"i": i, "pid": os.getpid(), "session": current_call().session_id}


@command
def endless(journal: str):
    try:
        i = 0
        while True:
            yield i
            i += 1
    finally:
        with open(journal, "a") as f:
            f.write("closed\n")


@command
def breaks(after: int):
    yield from range(after)
    raise ValueError("enough")


@command
def stalls():
    yield 1
    time.sleep(600)
    yield 2


@command
async def gently(n: int):
    for i in range(n):
        yield i


@command
def square(x):
    return x * x


@command
def pid(x=None):
    return os.getpid()


@command
def journaled(file: str, nonce: int, die: bool = False):
    fd = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, b"%d\n" % nonce)
    os.close(fd)
    if die:
        os._exit(3)
    return nonce


@command
def echo(text: str):
    return text


@command
def waits(latch: str):
    with open(latch) as f:
        f.read()
    return "released"
