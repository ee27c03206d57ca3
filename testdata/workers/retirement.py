"""Workers that ask to be replaced, in calls of all kinds and between them. The files that they look at are in the
folder $PLACE."""

import asyncio
import os
import threading
import time

import pypool
from pypool import command, program, setup

PLACE = os.environ["PLACE"]


class Dead(RuntimeError):
    pass


def has(name):
    return os.path.exists(os.path.join(PLACE, name))


def say(name):
    open(os.path.join(PLACE, name), "w").close()


@setup
def load():
    with open(os.path.join(PLACE, "starts"), "a") as file:
        file.write("x")
    while has("hold starts"):
        time.sleep(0.005)


@command
def pid():
    return os.getpid()


@command
def leave_later():
    """Once the call is over."""

    def later():
        while has("in the call"):
            time.sleep(0.002)
        pypool.retire("said between two calls")
        say("said")

    threading.Thread(target=later, daemon=True).start()
    return os.getpid()


@command(retire_on=Dead)
def until_said(how="bad"):
    say("waits")
    while not has("said"):
        time.sleep(0.002)
    return act(how)


def act(how):
    """Fail as everybody does, or so that the worker is replaced."""
    if how == "retire":
        pypool.retire("asked")
        raise ValueError("of a call that has asked")
    if how == "dead":
        raise Dead("of a dead device")
    if how == "bad":
        raise ValueError("an ordinary error")
    return how


@command(retire_on=Dead)
def call(how="bad"):
    return act(how)


@command(retire_on=Dead)
def items(how="bad"):
    yield 1
    act(how)


@command(max_batch_size=4, max_wait_ms=100, retire_on=Dead)
def batch(how: list):
    if "all" in how:
        raise Dead("of all")
    if "retire" in how:
        pypool.retire("asked")
    return [Dead("of one") if h == "dead" else ValueError("an ordinary error") if h in ("bad", "retire") else h for h in how]


@command(concurrency=8, retire_on=Dead)
async def beside(how="bad", wait=""):
    say("begun " + wait)
    while wait and not has(wait):
        await asyncio.sleep(0.002)
    return act(how)


@program("told", retire_on=Dead)
class Told:
    def __call__(self, how="bad"):
        return act(how)


@command
def lie(value):
    """Store into the page what the runtime would, and write no line."""
    from pypool import _channel, _page

    _channel.OURS.channel.page[_page.RETIRES] = value
    return os.getpid()


@command
def leave_in_a_child():
    child = os.fork()
    if not child:
        pypool.retire("said by a child")
        os._exit(0)
    os.waitpid(child, 0)
    return os.getpid()
