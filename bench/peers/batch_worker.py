"""The worker script of the batch cells."""

from typing import List

from model import BATCH, classify

from pypool import command

command(max_batch_size=BATCH)(classify)


@command
def one(id: int) -> int:
    """The same as a plain command."""
    return classify([id])[0]


@command
def plain(x: int) -> int:
    return x


@command(max_batch_size=BATCH)
def batched(x: List[int]) -> List[int]:
    return x
