"""Tables of pyarrow, pandas and polars, which travel as Arrow IPC streams (Go's package
pypoolarrow).

pyarrow reads and writes the streams; where it is not installed, polars does so for its own tables.
Only a table that arrives imports one of them.
"""

from __future__ import annotations

from ._forms import is_one, loaded, text_of
from ._room import library

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Tuple

#: What is one of whichever library: what becomes an array of one loses its names.
CLASSES = (
    ("pyarrow", "Table"),
    ("pyarrow", "RecordBatch"),
    ("pyarrow", "RecordBatchReader"),
    ("pandas", "DataFrame"),
    ("polars", "DataFrame"),
    ("polars", "LazyFrame"),
)

#: Kinds of payloads.
TABLE = "arrow.Table"
BATCH = "arrow.RecordBatch"
KINDS = (TABLE, BATCH)

#: What a stream ends with. One without it has been cut off, even if all of it can be read.
_END = b"\xff\xff\xff\xff\0\0\0\0"

#: Buffers have to begin at multiples of so many bytes, which they do where the stream does.
_ALIGNMENT = 8

_NO_PYARROW = "install pyarrow where the workers run, which reads and writes tables (%s)"


# ----------------------------------------------------------------------------------------------- in


def load(kind: str, view: Any) -> Any:
    """A stream as a pyarrow.Table or RecordBatch that refers to its bytes; as a polars.DataFrame
    where pyarrow is not installed.
    """
    if bytes(view[-len(_END) :]) != _END:
        raise ValueError("the Arrow stream of %d bytes has no end: it was cut off" % view.nbytes)
    try:
        pyarrow = library("pyarrow")
    except Exception as error:  # it may be there, and broken
        return _load_without(view, error)
    buffer = pyarrow.py_buffer(view)
    if buffer.address % _ALIGNMENT:
        buffer = pyarrow.py_buffer(bytearray(view))
    source = pyarrow.BufferReader(buffer)
    reader = pyarrow.ipc.open_stream(source)
    if kind == BATCH:
        found = reader.read_next_batch()
        if list(reader):
            raise ValueError("the Arrow stream has more than one batch")
    else:
        found = reader.read_all()
    behind = buffer.size - source.tell()
    if behind:
        raise ValueError("%d bytes follow the end of the Arrow stream" % behind)
    for column in found.columns:
        for chunk in getattr(column, "chunks", (column,)):
            _check(chunk, pyarrow)
    return found


def _check(column: Any, pyarrow: Any) -> None:
    """See that each offset and index of a column is within it: another one would be followed. What a
    column of text has is seen when it is read: to look at it here takes eight times as long.
    """
    kind = {"string": pyarrow.binary, "large_string": pyarrow.large_binary}.get(str(column.type))
    (column if kind is None else column.view(kind())).validate(full=True)


def _load_without(view: Any, error: Exception) -> Any:
    try:
        polars = library("polars")
    except Exception:
        raise ValueError(_NO_PYARROW % text_of(error)) from None
    return polars.read_ipc_stream(bytes(view), use_pyarrow=False)


# ---------------------------------------------------------------------------------------------- out


def is_table(value: Any) -> bool:
    """Whether dump makes a stream of a value."""
    if any(is_one(value, library, name) for library, name in CLASSES):
        return True
    kind = type(value)  # a relation of duckdb's, say; what is a column is an array
    return hasattr(kind, "__arrow_c_stream__") and not hasattr(kind, "__array__")


def dump(value: Any) -> Tuple[str, Any]:
    """The kind and the stream of what is a table. Raises TypeError."""
    try:
        if is_one(value, "polars", "LazyFrame"):
            value = value.collect()
        if is_one(value, "polars", "DataFrame"):
            _refuse_objects(value)
        try:
            pyarrow = library("pyarrow")
        except Exception as error:
            if is_one(value, "polars", "DataFrame"):
                return TABLE, _of_polars(value)
            raise TypeError(_NO_PYARROW % text_of(error) + '; or return df.to_dict("records")') from None
        if is_one(value, "pandas", "DataFrame"):
            value = pyarrow.Table.from_pandas(value)
        elif is_one(value, "polars", "DataFrame"):
            value = value.to_arrow(compat_level=_plain())  # quicker than polars' own writer
        elif not isinstance(value, (pyarrow.Table, pyarrow.RecordBatch)):
            value = pyarrow.RecordBatchReader.from_stream(value).read_all()
        return BATCH if isinstance(value, pyarrow.RecordBatch) else TABLE, _written(value, pyarrow)
    except BaseException as error:
        if not is_failure(error):
            raise
        raise TypeError("this %s cannot be sent as a table: %s" % (type(value).__qualname__, text_of(error))) from None


def is_failure(error: BaseException) -> bool:
    """Whether a library has failed: polars' panics are no Exceptions."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _refuse_objects(frame: Any) -> None:
    """polars writes objects of Python's as bytes, which are their addresses."""
    for name, kind in frame.schema.items():
        if _has_objects(kind):
            raise TypeError("the column %r is of Python objects (%s), which no table has: cast it, or drop it" % (name, kind))


def _has_objects(kind: Any) -> bool:
    inner = [getattr(kind, "inner", None), *[field.dtype for field in getattr(kind, "fields", ())]]
    return kind == loaded("polars", "Object") or any([_has_objects(one) for one in inner if one is not None])


def _of_polars(value: Any) -> Any:
    import io  # loaded, by polars

    stream = io.BytesIO()
    value.write_ipc_stream(stream, compression="uncompressed", compat_level=_plain())
    return stream.getbuffer()


def _plain() -> Any:
    """Strings as each reader of Arrow knows them: the views of the newer format are not for all."""
    return loaded("polars", "CompatLevel").oldest()


def _written(value: Any, pyarrow: Any) -> Any:
    size = pyarrow.MockOutputStream()
    _write(value, size, pyarrow)
    found = pyarrow.allocate_buffer(size.size())
    _write(value, pyarrow.FixedSizeBufferWriter(found), pyarrow)
    return memoryview(found)


def _write(value: Any, sink: Any, pyarrow: Any) -> None:
    with pyarrow.ipc.new_stream(sink, value.schema) as writer:
        writer.write(value)
