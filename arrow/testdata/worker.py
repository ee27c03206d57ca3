"""What the tests call."""

from __future__ import annotations

import datetime
import decimal
import zoneinfo
from typing import Any, Iterator

import numpy
import pandas
import polars
import pyarrow

from pypool import command, host


def described(table: Any) -> dict[str, Any]:
    """The class of what came, the types of its columns, and all its values."""
    kind = "%s.%s" % (type(table).__module__.partition(".")[0], type(table).__name__)
    if isinstance(table, pyarrow.RecordBatchReader):
        table = table.read_all()
    if isinstance(table, polars.LazyFrame):
        table = table.collect()
    if isinstance(table, (pyarrow.Table, pyarrow.RecordBatch)):
        types = {field.name: str(field.type) for field in table.schema}
        values = table.to_pydict()
    elif isinstance(table, polars.DataFrame):
        types = {name: str(kind) for name, kind in table.schema.items()}
        values = table.to_dict(as_series=False)
    else:
        types = {name: str(kind) for name, kind in table.dtypes.items()}
        values = {name: table[name].tolist() for name in table.columns}
    return {"class": kind, "types": types, "values": {name: repr(column) for name, column in values.items()}}


@command
def unhinted(table):
    return described(table)


@command
def as_table(table: pyarrow.Table) -> dict[str, Any]:
    return described(table)


@command
def as_batch(table: pyarrow.RecordBatch) -> dict[str, Any]:
    return described(table)


@command
def as_reader(table: pyarrow.RecordBatchReader) -> dict[str, Any]:
    return described(table)


@command
def as_pandas(table: pandas.DataFrame) -> dict[str, Any]:
    return described(table)


@command
def as_polars(table: polars.DataFrame) -> dict[str, Any]:
    return described(table)


@command
def as_lazy(table: polars.LazyFrame) -> dict[str, Any]:
    return described(table)


@command
def column(library: str):
    values = [(1 << 60) + 1, None]
    if library == "pandas":
        return pandas.Series(values, dtype="Int64")
    return polars.Series(values) if library == "polars" else pyarrow.array(values)


@command
def maybe(table: pandas.DataFrame | None = None) -> str:
    return type(table).__name__


@command
def back(table):
    return table


@command
def back_table(table: pyarrow.Table) -> pyarrow.Table:
    return table


@command
def back_batch(table: pyarrow.RecordBatch) -> pyarrow.RecordBatch:
    return table


@command
def back_reader(table: pyarrow.RecordBatchReader) -> pyarrow.RecordBatchReader:
    return table


@command
def back_pandas(table: pandas.DataFrame) -> pandas.DataFrame:
    return table


@command
def back_polars(table: polars.DataFrame) -> polars.DataFrame:
    return table


@command
def back_lazy(table: polars.LazyFrame) -> polars.LazyFrame:
    return table


@command
def chunks(table: pyarrow.Table) -> list[int]:
    return [batch.num_rows for batch in table.to_batches()]


@command
def sample() -> pyarrow.Table:
    """Whatever Arrow has, made in Python."""
    zone = zoneinfo.ZoneInfo("Europe/Berlin")
    at = datetime.datetime(2026, 7, 1, 12, 30, 0, 123456, zone)
    columns = {
        "none": pyarrow.nulls(3),
        "bool": pyarrow.array([True, None, False]),
        "int8": pyarrow.array([-128, None, 127], pyarrow.int8()),
        "uint64": pyarrow.array([0, None, 2**64 - 1], pyarrow.uint64()),
        "int64": pyarrow.array([-(2**63), None, 2**53 + 1], pyarrow.int64()),
        "float16": pyarrow.array(numpy.array([0.5, 1, 2], "float16")),
        "float64": pyarrow.array([float("-inf"), None, 0.1]),
        "string": pyarrow.array(["", None, "Grüße 😀"]),
        "large_string": pyarrow.array(["x" * 10, None, ""], pyarrow.large_string()),
        "string_view": pyarrow.array(["short", None, "a text of more than twelve bytes"], pyarrow.string_view()),
        "binary": pyarrow.array([b"\x00\xff", None, b""]),
        "fixed": pyarrow.array([b"abc", None, b"def"], pyarrow.binary(3)),
        "zoned": pyarrow.array([at, None, at], pyarrow.timestamp("us", "Europe/Berlin")),
        "nanos": pyarrow.array([1, None, -1], pyarrow.timestamp("ns")),
        "date": pyarrow.array([datetime.date(2026, 1, 2), None, datetime.date(1969, 12, 31)]),
        "time": pyarrow.array([datetime.time(1, 2, 3), None, datetime.time(23, 59, 59)], pyarrow.time64("us")),
        "duration": pyarrow.array([1, None, -5], pyarrow.duration("ms")),
        "decimal": pyarrow.array([decimal.Decimal("12345678901234567890.12"), None, decimal.Decimal("-0.01")], pyarrow.decimal128(30, 2)),
        "decimal256": pyarrow.array([decimal.Decimal("1e40"), None, decimal.Decimal(-1)], pyarrow.decimal256(50, 0)),
        "dictionary": pyarrow.array(["red", None, "red"]).dictionary_encode(),
        "list": pyarrow.array([[1, None], None, []], pyarrow.list_(pyarrow.int32())),
        "large_list": pyarrow.array([["a"], None, []], pyarrow.large_list(pyarrow.string())),
        "pair": pyarrow.array([[1, 2], None, [3, 4]], pyarrow.list_(pyarrow.int8(), 2)),
        "struct": pyarrow.array([{"a": 1, "b": [{"c": "x"}]}, None, {"a": None, "b": []}]),
        "map": pyarrow.array([[("k", 1)], None, []], pyarrow.map_(pyarrow.string(), pyarrow.int64())),
        "union": pyarrow.UnionArray.from_dense(
            pyarrow.array([0, 1, 0], pyarrow.int8()), pyarrow.array([0, 0, 1], pyarrow.int32()), [pyarrow.array([5, 6]), pyarrow.array(["u"])]
        ),
        "runs": pyarrow.RunEndEncodedArray.from_arrays(pyarrow.array([2, 3], pyarrow.int32()), pyarrow.array(["r", "s"])),
    }
    return pyarrow.table(columns)


@command
def sliced() -> pyarrow.Table:
    """Parts of longer columns, in chunks of different lengths and dictionaries."""
    names = [pyarrow.array(["a", "b", "c", "d"]).dictionary_encode()[1:], pyarrow.array(["x", None]).dictionary_encode()]
    return pyarrow.table({"n": pyarrow.chunked_array([[0, 1], [2, None, 4]]), "name": pyarrow.chunked_array(names)}).slice(1, 4)


@command
def empties(how: str) -> Any:
    table = sample().drop(["union"])  # of which pyarrow makes no empty column
    if how == "no columns":
        return pyarrow.table({})
    empty = table.schema.empty_table()
    return pyarrow.RecordBatch.from_arrays([column.combine_chunks() for column in empty.columns], schema=empty.schema) if how == "batch" else empty


@command
def indexed() -> pandas.DataFrame:
    frame = pandas.DataFrame({"city": ["Rome", "Oslo", "Rome"], "fare": [1.5, 2.0, 2.5]})
    return frame.groupby("city").sum()


@command
def other(what: str) -> Any:
    return {"dict": {"a": 1}, "list": [1], "text": "x", "number": 5, "none": None, "bytes": b"x" * 5000, "array": numpy.zeros(2000)}[what]


@command
def mixed() -> Any:
    table = pyarrow.table({"a": [1]})
    return {"image": b"\xff" * 5000, "tables": [table, table.to_batches()[0]], "none": None, "n": 7}


@command
def unwritable() -> Any:
    return {"frame": [pandas.DataFrame({"a": [1, "x", object()]})]}


@command
def objects(how: str) -> Any:
    schema = {"n": polars.Int64, "o": polars.Object}
    values = {"n": [1, 2], "o": [object(), None]} if how != "empty" else {"n": [], "o": []}
    frame = polars.DataFrame(values, schema=schema)
    return {"frame": [frame.lazy() if how == "lazy" else frame]}


@command(nan="null")
def with_nan(how: str) -> Any:
    table = pyarrow.table({"x": [float("nan"), 1.0]})
    return {"table": table.to_reader() if how == "reader" else table, "nan": float("nan")}


@command
def hostile(how: str) -> Any:
    """Columns that contradict themselves, which pyarrow does not look at."""
    three = pyarrow.py_buffer(numpy.array([0, 2, 1, 3], "int32"))
    if how == "offsets":
        column = pyarrow.Array.from_buffers(pyarrow.string(), 3, [None, three, pyarrow.py_buffer(b"abc")])
    elif how == "beyond":
        column = pyarrow.Array.from_buffers(pyarrow.string(), 2, [None, pyarrow.py_buffer(numpy.array([0, 1 << 30, 3], "int32")), pyarrow.py_buffer(b"abc")])
    elif how == "list":
        column = pyarrow.Array.from_buffers(pyarrow.list_(pyarrow.int8()), 3, [None, three], children=[pyarrow.array([1, 2, 3], pyarrow.int8())])
    else:
        column = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0, 7], pyarrow.int8()), pyarrow.array(["a"]), safe=False)
    return pyarrow.table({"bad": column})


@command
def batches(n: int, rows: int) -> Iterator[Any]:
    for i in range(n):
        yield pyarrow.record_batch({"n": pyarrow.array(range(i * rows, (i + 1) * rows), pyarrow.int64())})


@command
def stream_of_all() -> Iterator[Any]:
    table = pyarrow.table({"n": pyarrow.chunked_array([[1], [2, 3]])})
    yield table
    yield table.slice(0, 0)
    yield table.to_pandas()
    yield polars.from_arrow(table)
    yield None


@command(max_batch_size=8)
def batched(table: list[polars.DataFrame]) -> list[Any]:
    return [one.select(polars.all() * len(table) // len(table) * 2) for one in table]


@command(concurrency=4)
async def shared(table: pandas.DataFrame) -> pandas.DataFrame:
    return table * 2


@command
def through_host(table: polars.DataFrame) -> Any:
    return host.double({"table": table})["table"]


@command
def group(table: pyarrow.Table) -> pyarrow.Table:
    return table.group_by("key").aggregate([("value", "sum"), ("key", "count")])


KEPT: list[Any] = []


@command
def keep(table: pyarrow.Table) -> int:
    KEPT.append(table)
    return sum(kept["n"].to_pylist() == [i] * 1000 for i, kept in enumerate(KEPT))


@command
def aside(data: bytes, table: pyarrow.Table, more: polars.DataFrame) -> Any:
    """Payloads of odd lengths, so that streams begin anywhere."""
    return [len(data), table["s"].to_pylist(), more["s"].to_list(), table["n"].to_pylist(), more["n"].sum()]


@command
def without(frame: Any = None) -> Any:
    return frame


HELD: dict[str, pyarrow.Table] = {}


@command
def hold(table: pyarrow.Table) -> int:
    HELD["table"] = table
    return table.num_rows


@command
def group_held() -> int:
    return group(HELD["table"]).num_rows


@command
def rows_with_their_index(step: int) -> Any:
    """Some rows of a frame, whose index says which."""
    frame = pandas.DataFrame({"n": [10, 20, None, 40]}, dtype=object)
    return frame[1:] if step == 1 else frame.iloc[::step]


@command
def rows_of(table: pandas.DataFrame) -> dict[str, list[Any]]:
    return {"index": list(table.index), "n": [None if one is pandas.NA else one for one in table["n"]]}


@command
def around_2_53(sign: int) -> Any:
    return pyarrow.array([sign * ((1 << 53) + 1), None])
