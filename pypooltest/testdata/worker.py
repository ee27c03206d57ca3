"""What the fakes of the tests stand for."""

import time
from typing import Iterator, List

from pypool import command, current_call, host, program


@command
def greet(name: str, greeting: str = "Hello") -> str:
    if not name:
        raise ValueError("no name")
    return greeting + ", " + name


@command
def add(a: int, b: int) -> int:
    return a + b


@command
def session() -> object:
    return current_call().session_id


@command
def sleep(seconds: float) -> None:
    time.sleep(seconds)


@command
def hosted() -> object:
    return host.wait()


@command
def count(n: int) -> Iterator[int]:
    for i in range(n):
        if i == 3:
            raise RuntimeError("three")
        yield i


@command
def wrong() -> object:
    return float("nan")


@command
def nothing() -> None:
    pass


@command
def same(value: object) -> object:
    return value


@command
def array(value):
    return value


@command
def parts(value):
    return value


@program("total")
def total(values: List[int]) -> int:
    return sum(values)



@program("texts")
def texts(data: bytes, n: int) -> Iterator[str]:
    for i in range(n):
        if i == 3:
            raise RuntimeError("three")
        yield data.decode()


@program("one")
def one() -> Iterator[int]:
    yield 1
