"""What chaos calls beside the commands of faults.py: batches, commands side by side, and functions of the host's."""

import asyncio
import os
import time
from typing import Any, AsyncIterator, List

import faults  # noqa: F401  its commands are this worker's, too

from pypool import command, host


def note(path: str, nonces: List[str]) -> None:
    """With one write, before anything else."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(fd, "".join(nonce + "\n" for nonce in nonces).encode())
    os.close(fd)


@command(max_batch_size=8)
def stamp_batch(path: List[str], nonce: List[str], value: List[Any]) -> List[Any]:
    note(path[0], nonce)
    return [[one, os.getpid(), back] for one, back in zip(nonce, value)]


@command(max_batch_size=8)
def nap_batch(path: List[str], nonce: List[str]) -> List[str]:
    note(path[0], nonce)
    time.sleep(0.002)
    return list(nonce)


@command(concurrency=16)
async def stamp_task(path: str, nonce: str, value: Any) -> List[Any]:
    note(path, [nonce])
    await asyncio.sleep(0.001)
    return [nonce, os.getpid(), value]


@command(concurrency=16)
async def nap_task(path: str, nonce: str) -> str:
    note(path, [nonce])
    await asyncio.sleep(0.002)
    return nonce


@command(concurrency=4)
async def count_task(count: int) -> AsyncIterator[int]:
    for i in range(count):
        await asyncio.sleep(0)
        yield i


@command
def stamp_host(path: str, nonce: str, value: Any) -> List[Any]:
    note(path, [nonce])
    return [nonce, os.getpid(), host.echo(value)]


@command
def nap_host(path: str, nonce: str) -> Any:
    note(path, [nonce])
    return host.nap(nonce)


@command(concurrency=16)
async def stamp_task_host(path: str, nonce: str, value: Any) -> List[Any]:
    note(path, [nonce])
    return [nonce, os.getpid(), await host.aio.echo(value)]


@command(concurrency=16)
async def nap_task_host(path: str, nonce: str) -> Any:
    note(path, [nonce])
    return await host.aio.nap(nonce)


@command(max_batch_size=4)
async def stamp_batch_host(path: List[str], nonce: List[str], value: List[Any]) -> List[Any]:
    note(path[0], nonce)
    back = await asyncio.gather(*[host.aio.echo(one) for one in value])
    return [[one, os.getpid(), got] for one, got in zip(nonce, back)]


@command(max_batch_size=16)
def echo_batch(value: List[Any]) -> List[Any]:
    return list(value)


@command
def echo_host(value: Any) -> Any:
    return host.echo(value)
