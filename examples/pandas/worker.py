"""A pandas job that reports as it goes: a CSV file in, the totals of each chunk out."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
from pypool import command


@dataclass
class Sales:
    """Orders and revenue of one region."""

    orders: int
    cents: int


@dataclass
class Chunk:
    """One chunk's totals by region, and how far the job is."""

    rows: int
    skipped: int  # rows without a price
    done: float  # of the file's bytes, 0 to 1
    regions: dict[str, Sales]


@command
def sales(path: str, chunk_rows: int = 50_000) -> Iterator[Chunk]:
    """Sum up a file of orders with the columns region, quantity and price, chunk by chunk: memory stays small."""
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        for frame in pd.read_csv(file, chunksize=chunk_rows, dtype={"region": "category"}):
            priced = frame.dropna(subset=["price"])
            cents = priced["quantity"] * (priced["price"] * 100).round().astype("int64")
            totals = cents.groupby(priced["region"], observed=True).agg(["count", "sum"])
            yield Chunk(
                rows=len(frame),
                skipped=len(frame) - len(priced),
                done=file.tell() / size,
                regions={region: Sales(row["count"], row["sum"]) for region, row in totals.iterrows()},
            )
