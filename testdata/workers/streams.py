"""Generators that stop when they are told to, and some that do not."""

import os
import time

from pypool import command


@command
def tokens(delay: float = 0.001, journal: str = ""):
    """For ever, until it is closed."""
    try:
        i = 0
        while True:
            yield i
            i += 1
            time.sleep(delay)
    finally:
        if journal:
            with open(journal, "a") as f:
                f.write("closed\n")


@command
async def async_tokens(delay: float = 0.001):
    import asyncio

    i = 0
    while True:
        yield i
        i += 1
        await asyncio.sleep(delay)


@command
def stubborn():
    """Does not end within anybody's patience when it is closed."""
    try:
        while True:
            yield os.getpid()
    finally:
        time.sleep(600)


@command
def quarrelsome():
    """Raises when it is closed."""
    try:
        while True:
            yield 1
    finally:
        raise ValueError("not now")


@command
def pauses():
    """One item, then nothing."""
    yield os.getpid()
    time.sleep(600)


@command
def thinks(latch: str):
    """One item, then it waits at a FIFO; stops at the next one when it is told to."""
    yield os.getpid()
    with open(latch) as f:
        f.read()
    yield 2
    yield 3


@command
def brief(n: int):
    yield from range(n)


@command
def echo(x=None):
    return x


@command
def pid():
    return os.getpid()
