"""What is done with a table, whoever carries it."""

import pyarrow


def group(table: pyarrow.Table) -> pyarrow.Table:
    """Sum the values of each key, and count them."""
    return table.group_by("key").aggregate([("value", "sum"), ("name", "count")])
