"""The example's worker."""

import polars

from pypool import command


@command
def by_city(trips: polars.DataFrame) -> polars.DataFrame:
    return trips.group_by("city").agg(polars.col("fare").sum(), polars.col("fare").len().alias("trips")).sort("city")
