"""Workers that come to know that they are of no use any more. The files that they look at are in the folder $PLACE."""

import os
import threading
import time

import pypool
from pypool import command, health, program, setup

PLACE = os.environ["PLACE"]


def has(name):
    return os.path.exists(os.path.join(PLACE, name))


class DeadContext(RuntimeError):
    """As torch.AcceleratorError: after it nothing on the device works any more, in this process."""


class Device:
    dead = False

    def run(self, value):
        if self.dead:
            raise DeadContext("CUDA error: device-side assert triggered")
        return value


DEVICE = Device()


@setup
def load():
    with open(os.path.join(PLACE, "starts"), "a") as file:
        file.write("x")
    while has("hold starts"):
        time.sleep(0.005)


@health
def device_answers():
    if has("device lost"):
        raise DeadContext("the device is lost")


@command(retire_on=(DeadContext,))
def infer(value=1):
    return DEVICE.run(value)


@command(retire_on=DeadContext)
def poison(value=1):
    """The input upon which the assert fails."""
    DEVICE.dead = True
    return DEVICE.run(value)


@command
def pid():
    return os.getpid()


@command
def leave(reason="it has leaked too much", size=0):
    pypool.retire(reason)
    return [os.getpid(), "x" * size]


@command
def leave_bytes(size):
    pypool.retire("with a payload")
    return b"x" * size


@command
def leave_and_fail():
    pypool.retire("nothing works")
    raise ValueError("of the call itself")


@command
def leave_in_a_thread():
    thread = threading.Thread(target=pypool.retire, args=("said in a thread",))
    thread.start()
    thread.join()
    return os.getpid()


@command
def leave_later():
    """When the call is over, and another one runs, or none."""

    def later():
        while has("in the call"):
            time.sleep(0.002)
        pypool.retire("said between two calls")
        open(os.path.join(PLACE, "said"), "w").close()

    threading.Thread(target=later, daemon=True).start()
    return os.getpid()


@command
def items(n: int, fail: bool = False):
    for i in range(n):
        if i == n // 2 and not fail:
            pypool.retire("in the midst of a stream")
        yield i
    if fail:
        DEVICE.dead = True


@command(retire_on=DeadContext)
def broken_items():
    yield 1
    raise DeadContext("in a stream")


@command(max_batch_size=8, max_wait_ms=20, retire_on=DeadContext)
def batch(value: list):
    """A negative value fails its own call, 0 all of them."""
    if 0 in value:
        raise DeadContext("of the batch")
    return [DeadContext("of one") if v < 0 else v for v in value]


@command(concurrency=16, retire_on=DeadContext)
async def beside(value):
    import asyncio

    await asyncio.sleep(0.01)
    if value < 0:
        raise DeadContext("beside others")
    return value


@command(concurrency=16)
async def beside_leave(value):
    import asyncio

    await asyncio.sleep(0.01)
    if value == 3:
        await asyncio.get_running_loop().run_in_executor(None, pypool.retire, "said beside others")
    return value


@program("doomed", retire_on=(DeadContext, MemoryError))
class Doomed:
    def __call__(self):
        raise MemoryError


@command(retire_on=Exception)
def strict(value: int):
    return {1} if value == 1 else 1 / value
