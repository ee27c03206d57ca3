"""The worker of batch_test.go. What a handler notes, it appends to the file that the call names."""

import os
import signal
import time
from typing import List, Optional

from pypool import command, current_call, current_calls, host, program, shield


def note(path, word):
    with open(path, "a") as file:
        file.write(word + "\n")


def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.001)


@command
def sit(started: str, gate: str) -> int:
    """Keep the worker until the gate is there."""
    open(started, "w").close()
    wait_for(gate)
    return os.getpid()


@command
def plain(log: str, word: str) -> None:
    note(log, word)


@command(max_batch_size=8)
def sizes(x: List[int]) -> List[List[int]]:
    """What each call gave, and how many there were."""
    return [[value, len(x)] for value in x]


@command(max_batch_size=8)
def echoed(x: List[int]) -> List[int]:
    return [host.echo(value) for value in x]


@command(max_batch_size=3)
def threes(x: List[int]) -> List[int]:
    return [len(x)] * len(x)


@command(max_batch_size=8)
def logged(log: List[str], word: List[str]) -> List[int]:
    note(log[0], "+".join(word))
    return [len(word)] * len(word)


@command(max_batch_size=8)
def who(x: List[int]) -> List[dict]:
    try:
        current_call()
    except LookupError as error:
        message = str(error)
    calls = current_calls()
    return [
        {"x": value, "id": call.id, "session": call.session_id, "deadline": call.deadline is not None, "message": message}
        for value, call in zip(x, calls)
    ]


@command(max_batch_size=8)
def picky(x: List[int], y: Optional[List[int]] = None) -> List[int]:
    """Negative numbers fail, zeros cannot be sent."""
    return [ValueError("negative: %d" % value) if value < 0 else {1} if value == 0 else value for value in x]


@command(max_batch_size=8)
def boom(x: List[int]) -> List[int]:
    raise KeyError("all %d of them" % len(x))


@command(max_batch_size=8)
def short(x: List[int]) -> List[int]:
    return x[1:]


@command(max_batch_size=8)
def scalar(x: List[int]) -> int:
    return len(x)


@command(max_batch_size=8)
async def later(x: List[float]) -> List[float]:
    import asyncio

    await asyncio.sleep(0.01)
    return [value / 2 for value in x]


@command(max_batch_size=8, max_wait_ms=30_000)
def patient(x: List[int]) -> List[int]:
    return [len(x)] * len(x)


@command(max_batch_size=8, max_wait_ms=20)
def hasty(log: List[str], word: List[str]) -> List[int]:
    note(log[0], "+".join(word))
    return [len(word)] * len(word)


@command(max_batch_size=8)
def hold(x: List[int], log: List[str], gate: List[str]) -> List[int]:
    """Run until the gate is there, or all callers have gone."""
    try:
        note(log[0], "held%d" % len(x))  # who reads it may have all leave at once
        wait_for(gate[0])
    except BaseException as error:
        note(log[0], type(error).__name__)
        raise
    note(log[0], "done")
    return [len(x)] * len(x)


@command(max_batch_size=8)
def stubborn(x: List[int], log: List[str], gate: List[str]) -> List[int]:
    with shield():
        note(log[0], "held%d" % len(x))
        wait_for(gate[0])
    return x


class Broken(RuntimeError):
    pass


@command(max_batch_size=8, retire_on=Broken)
def spoil(x: List[int], log: List[str], gate: List[str]) -> List[int]:
    """Have the worker replaced once the gate is there."""
    note(log[0], "held%d" % len(x))
    wait_for(gate[0])
    raise Broken("for good")


@command(max_batch_size=8, interruptible=False)
def polite(x: List[int], log: List[str], gate: List[str]) -> List[int]:
    """Look whether all callers have gone."""
    note(log[0], "held%d" % len(x))
    while not all(call.canceled for call in current_calls()):
        time.sleep(0.001)
    note(log[0], "seen")
    return x


@command(max_batch_size=8)
def late(x: List[int]) -> List[int]:
    if 100 in x:
        time.sleep(60)
    return x


@command(max_batch_size=8)
def die(x: List[int], how: List[str]) -> List[int]:
    if how[0] == "exit":
        os._exit(3)
    if how[0] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    while how[0] == "stop":  # to tell its stacks it has to go on
        os.kill(os.getpid(), signal.SIGSTOP)
    if how[0] == "close":
        os.closerange(3, 65536)
        time.sleep(60)
    return x


@command(max_batch_size=8)
def large(text: List[str]) -> List[int]:
    return [len(text)] * len(text)


@command(max_batch_size=8)
def grow(size: List[int]) -> List[str]:
    return ["x" * n for n in size]


@program("double", max_batch_size=4)
class Double:
    def __call__(self, x: List[int]) -> List[List[int]]:
        return [[2 * value, len(x)] for value in x]


@command(max_batch_size=8)
def sleepy(x: List[int]) -> List[List[int]]:
    time.sleep(0.002)
    return [[value, len(x)] for value in x]


class Deadly(dict):
    """What ends the process when it is encoded."""

    def items(self):
        os._exit(5)


@command(max_batch_size=8)
def half(x: List[int]) -> list:
    return ["x" * 100_000, *[Deadly(a=1) for _ in x[1:]]]


@command(max_batch_size=8)
def forge(x: List[int]) -> List[int]:
    """Answer the last call first, through whatever descriptor that takes."""
    line = b'{"id":%d,"success":true,"result":null}\n' % current_calls()[-1].id
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            if fd > 2 and os.readlink("/proc/self/fd/%d" % fd).startswith(("pipe:", "socket:")):
                os.write(fd, line)
        except OSError:
            pass
    time.sleep(60)
    return x


@command(max_batch_size=8)
def diesome(x: List[int], how: List[str]) -> List[int]:
    if "exit" in how:
        os._exit(3)
    return x


@command
def turn(x: int, log: str, gate: str) -> int:
    """Note the call, and keep the worker until the gate is there: all but the first."""
    note(log, str(x))
    if x:
        wait_for(gate)
    return x


@command(max_batch_size=4)
def late_tells(x: List[int]) -> List[int]:
    try:
        if 100 in x:
            time.sleep(60)
    finally:
        host.echo(value=len(x))
    return x


@command(max_batch_size=8)
def asks(x: List[int], log: List[str]) -> List[int]:
    note(log[0], "begun%d" % len(x))
    host.ask(pid=os.getpid())
    return x
