"""What public reports of other systems did to their workers; docs/comparison.md names them."""

import ctypes
import os
import sys
import time
from typing import Dict, Iterator

from pypool import command

stopped = 0


@command
def pid() -> int:
    return os.getpid()


@command
def leave() -> None:
    os._exit(0)


@command
def crash(data: bytes) -> int:
    ctypes.string_at(0)
    return len(data)


@command
def size(data: bytes, seconds: float = 0) -> int:
    time.sleep(seconds)
    return len(data)


@command
def echo(value: int, seconds: float = 0) -> Dict[str, int]:
    global stopped
    try:
        time.sleep(seconds)
    except BaseException:
        stopped += 1
        raise
    return {"value": value}


@command
def numbers() -> Iterator[int]:
    global stopped
    try:
        n = 0
        while True:
            yield n
            n += 1
    finally:
        stopped += 1


@command
def how_many_stopped() -> int:
    return stopped


@command
def talk() -> str:
    print('{"id":1,"success":true,"result":"no"}')
    sys.stdout.flush()
    os.write(1, b"blah\n")
    os.system("echo blah")
    return "yes"
