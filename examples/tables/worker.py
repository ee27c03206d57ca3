"""Tables of readings: what is far off, and a summary of each day."""

from collections.abc import Iterator

import polars as pl
from pypool import command


@command
def outliers(readings: pl.DataFrame, degrees: float = 5.0) -> pl.DataFrame:
    """The readings that are so many degrees from what their sensor said within the hour around, at the median."""
    around = pl.col("celsius").rolling_median(window_size=61, center=True, min_samples=1).over("sensor")
    far = (pl.col("celsius") - pl.col("expected")).abs() > degrees
    found = readings.with_columns(pl.col("sensor").cast(pl.String), expected=around).filter(far)
    return found.sort("at", "sensor").select("sensor", "at", "celsius", "expected")


@command
def by_day(readings: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """A table for each day, of how often each sensor has spoken, and what it said on average."""
    days = readings.with_columns(pl.col("sensor").cast(pl.String), day=pl.from_epoch("at").dt.strftime("%Y-%m-%d"))
    for _, rows in days.group_by("day", maintain_order=True):
        summary = rows.group_by("sensor", "day").agg(
            readings=pl.col("celsius").count(), silent=pl.col("celsius").null_count(), mean=pl.col("celsius").mean()
        )
        yield summary.sort("sensor")
