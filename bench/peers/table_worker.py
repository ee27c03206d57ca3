"""The worker script of the table cells."""

from typing import Dict

import pyarrow
import tables

from pypool import command

command(tables.group)

HELD: Dict[str, pyarrow.Table] = {}


@command
def hold(table: pyarrow.Table) -> int:
    """Keep the table, and return how many rows it has."""
    HELD["table"] = table
    return table.num_rows


@command
def group_held() -> int:
    """Do the same with the table that is here; how many rows come out."""
    return tables.group(HELD["table"]).num_rows
