import os
import time

from pypool import command, program, retire


@command
def add(a, b):
    return a + b


@command
def bad():
    raise ValueError("bad")


@command
def die():
    os._exit(3)


@command
def wait(gate):
    while not os.path.exists(gate):
        time.sleep(0.002)


@command(max_batch_size=4, max_wait_ms=10000)
def batch(n):
    return n


@command
def tired():
    retire("enough")


@program("p")
def run():
    return 1
