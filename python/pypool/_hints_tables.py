"""Conversions into tables: pyarrow's, pandas' and polars' classes of them."""

from __future__ import annotations

from ._forms import is_one, loaded, text_of
from ._hints_scalars import ConversionError
from ._tables import TABLE, load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional, Tuple

    Converter = Callable[[Any], Any]


def is_table(kind: Any) -> bool:
    """Whether it is a class of tables."""
    return any(kind is loaded(*name) for name in _CLASSES)


def converter(kind: Any) -> Optional[Converter]:
    """The converter of a class of tables, None for any other. A table may also come as the bytes of
    an Arrow stream, as records, or as columns.
    """
    found = [item for item in _CLASSES.items() if kind is loaded(*item[0])]
    if not found:
        return None
    ((library, name), (from_table, from_lists)) = found[0]
    words = "%s.%s (pypoolarrow.Table in Go)" % (library, name)

    def to_table(value: Any) -> Any:
        if type(value) is kind:
            return value
        try:
            if isinstance(value, (bytes, bytearray, memoryview)):
                value = load(TABLE, memoryview(value))
            if _is_records(value):
                return from_lists(value)
            if is_one(value, "polars", "DataFrame") and library != "polars":
                value = value.to_arrow()
            if is_one(value, "pyarrow", "Table", "RecordBatch") or is_one(value, "polars", "DataFrame"):
                return from_table(value)
        except Exception as error:
            raise ConversionError(words, value, text_of(error)) from None
        raise ConversionError(words, value)

    return to_table


def _is_records(value: Any) -> bool:
    """Whether JSON has a table: as a list of objects, or as an object of lists."""
    if type(value) is list:
        return all([type(item) is dict for item in value])
    return type(value) is dict and all([type(item) is list for item in value.values()])


def _to_table(value: Any) -> Any:
    if is_one(value, "pyarrow", "Table"):
        return value
    return loaded("pyarrow", "Table").from_batches([value], value.schema)


def _of_lists(value: Any) -> Any:
    table = loaded("pyarrow", "Table")
    return table.from_pylist(value) if type(value) is list else table.from_pydict(value)


def _to_batch(value: Any) -> Any:
    if is_one(value, "pyarrow", "RecordBatch"):
        return value
    batches = value.combine_chunks().to_batches()
    if len(batches) > 1:
        raise ValueError("it is too large for one batch")
    return batches[0] if batches else loaded("pyarrow", "RecordBatch").from_pylist([], value.schema)


def _to_reader(value: Any) -> Any:
    return _to_table(value).to_reader()


def _to_pandas(value: Any) -> Any:
    """As pyarrow does it, but that no integer is rounded: integers among which there are nulls become
    pandas' own (Int64), not floats.
    """
    import pyarrow  # type: ignore[import-not-found]

    table = _to_table(value)
    frame = table.to_pandas(integer_object_nulls=True)
    if len(frame.columns) != table.num_columns:
        return frame  # some columns are its index: its own schema says of all what they are
    for i, column in enumerate(table.columns):
        if pyarrow.types.is_integer(column.type) and column.null_count and frame.dtypes.iloc[i].kind == "O":
            frame.isetitem(i, column.to_pandas(types_mapper=_nullable))
    return frame


def _nullable(kind: Any) -> Any:
    name = str(kind)  # int64, uint8
    return loaded("pandas", name.replace("uint", "UInt").replace("int", "Int") + "Dtype")()


def _to_polars(value: Any) -> Any:
    return value if is_one(value, "polars", "DataFrame") else loaded("polars", "from_arrow")(value)


#: Of classes what makes one of pyarrow's (or polars') table, and what of JSON.
_CLASSES: Dict[Tuple[str, str], Tuple[Converter, Converter]] = {
    ("pyarrow", "Table"): (_to_table, _of_lists),
    ("pyarrow", "RecordBatch"): (_to_batch, lambda value: _to_batch(_of_lists(value))),
    ("pyarrow", "RecordBatchReader"): (_to_reader, lambda value: _to_reader(_of_lists(value))),
    ("pandas", "DataFrame"): (_to_pandas, lambda value: loaded("pandas", "DataFrame")(value)),
    ("polars", "DataFrame"): (_to_polars, lambda value: loaded("polars", "DataFrame")(value)),
    ("polars", "LazyFrame"): (lambda value: _to_polars(value).lazy(), lambda value: loaded("polars", "LazyFrame")(value)),
}
