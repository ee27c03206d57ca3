"""Conversions into tables: pyarrow's, pandas' and polars' classes of them."""

from __future__ import annotations

from ._forms import is_one, loaded, text_of, type_name
from ._hints_scalars import ConversionError, exactly_float, plain
from ._tables import TABLE, is_failure, load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Tuple

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
                return from_lists(plain(value))
            if is_one(value, "polars", "DataFrame") and library != "polars":
                value = value.to_arrow()
            if is_one(value, "pyarrow", "Table", "RecordBatch") or is_one(value, "polars", "DataFrame"):
                return from_table(value)
        except BaseException as error:
            if not is_failure(error):
                raise
            reason = error.brief() if isinstance(error, ConversionError) else text_of(error)
            raise ConversionError(words, value, reason) from None
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


def _columns(value: Any) -> Dict[str, List[Any]]:
    """Records as columns: those of all of them, and not of the first ones alone."""
    if type(value) is dict:
        return value
    names = dict.fromkeys([name for row in value for name in row])
    return {name: [row.get(name) for row in value] for name in names}


def _even_columns(value: Any) -> Dict[str, List[Any]]:
    """Records, or columns, as columns in which values are of one type, at any depth, and objects
    have the same keys: a library guesses the type of all by the first ones, in some cases.
    """
    found = {}
    for name, values in _columns(value).items():
        try:
            found[name] = _even(values)
        except ConversionError as error:
            raise error.under("." + name)
    return found


def _even(values: List[Any]) -> List[Any]:
    """Where one is a float all numbers are, as with a `float` hint."""
    kinds = set(map(type, values)) - {type(None)}
    if float in kinds and int in kinds:
        values, kinds = [exactly_float(item) if type(item) is int else item for item in values], kinds - {int}
    if len(kinds) > 1:
        some = [item for item in values if item is not None]
        other = next(item for item in some if type(item) is not type(some[0]))
        raise ConversionError("values of one type in a column", other, "before it there is %s" % type_name(some[0]))
    if list in kinds:
        flat = [item for one in values if one is not None for item in one]
        even = _even(flat)
        rest = iter(even)
        return values if even is flat else [None if one is None else [next(rest) for _ in one] for one in values]
    if dict in kinds:
        columns = _even_columns([one or {} for one in values])
        return [one and {name: column[i] for name, column in columns.items()} for i, one in enumerate(values)]
    return values


def _of_lists(value: Any) -> Any:
    return loaded("pyarrow", "Table").from_pydict(_even_columns(value))


def _pandas_of_lists(value: Any) -> Any:
    """As pandas has it, but that no integer is rounded."""
    frame = loaded("pandas", "DataFrame")(value)
    for name, values in _columns(value).items():
        kinds = set(map(type, values)) - {type(None)}
        if kinds == {int} and None in values:
            unsigned = max([item for item in values if item is not None]) >= 1 << 63
            frame[name] = loaded("pandas", "array")(values, dtype="UInt64" if unsigned else "Int64")
        elif kinds == {int, float}:
            _even_columns({name: values})
    return frame


def _polars_of_lists(value: Any) -> Any:
    frame, columns = loaded("polars", "DataFrame"), _even_columns(value)
    if not any([kind in (list, dict) for values in columns.values() for kind in map(type, values)]):
        return frame(columns)
    if len(set(map(len, columns.values()))) > 1:
        raise ValueError("the columns have different lengths")
    rows = [dict(zip(columns, row)) for row in zip(*columns.values())]
    return frame(rows, infer_schema_length=None)  # by the first row alone it would tell what is in columns


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
            frame.isetitem(i, column.to_pandas(types_mapper=_nullable).array)  # by place, whatever the index
    return frame


def _nullable(kind: Any) -> Any:
    name = str(kind)  # int64, uint8
    return loaded("pandas", name.replace("uint", "UInt").replace("int", "Int") + "Dtype")()


def _to_polars(value: Any) -> Any:
    if is_one(value, "polars", "DataFrame"):
        return value
    value.validate(full=True)  # of text that is none polars ends the process
    return loaded("polars", "from_arrow")(value)


#: Of classes what makes one of pyarrow's (or polars') table, and what of JSON.
_CLASSES: Dict[Tuple[str, str], Tuple[Converter, Converter]] = {
    ("pyarrow", "Table"): (_to_table, _of_lists),
    ("pyarrow", "RecordBatch"): (_to_batch, lambda value: _to_batch(_of_lists(value))),
    ("pyarrow", "RecordBatchReader"): (_to_reader, lambda value: _to_reader(_of_lists(value))),
    ("pandas", "DataFrame"): (_to_pandas, _pandas_of_lists),
    ("polars", "DataFrame"): (_to_polars, _polars_of_lists),
    ("polars", "LazyFrame"): (
        lambda value: _to_polars(value).lazy(),
        lambda value: _polars_of_lists(value).lazy(),
    ),
}
