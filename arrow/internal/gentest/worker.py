"""The worker of which pypoolgen makes a client with tables."""

from dataclasses import dataclass
from typing import Dict, Iterator, List, Optional, Tuple

import pandas
import polars
import pyarrow

from pypool import command


@dataclass
class Report:
    """A table, and what is beside it."""

    title: str
    rows: polars.DataFrame
    more: Optional[pandas.DataFrame] = None


@command
def double(rows: polars.DataFrame) -> polars.DataFrame:
    return rows.with_columns(twice=rows["n"] * 2)


@command
def maybe(rows: Optional[pyarrow.Table] = None, times: int = 1) -> Optional[pyarrow.Table]:
    return rows and pyarrow.concat_tables([rows] * times)


@command
def late(rows: polars.DataFrame = None) -> int:  # type: ignore[assignment]
    return -1 if rows is None else len(rows)


@command
def pieces(rows: pyarrow.RecordBatch, size: int) -> Iterator[pyarrow.RecordBatch]:
    for at in range(0, len(rows), size):
        yield rows.slice(at, size)


@command
def report(given: Report) -> Report:
    return Report(given.title + "!", given.rows.head(1), given.more)


@command
def many(tables: List[pandas.DataFrame], named: Dict[str, pandas.DataFrame]) -> Dict[str, List[pandas.DataFrame]]:
    return {name: [table, *tables] for name, table in named.items()}


@command
def pair(both: Tuple[pyarrow.Table, int]) -> Tuple[pyarrow.Table, int]:
    return both[0], both[1] + 1
