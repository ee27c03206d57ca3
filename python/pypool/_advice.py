"""What to return in place of a value that is not JSON, for those that people return."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: What takes a table as one.
_IN_GO = "; or have Go ask for a pypoolarrow.Table"
#: What needs no text for keys.
_UNNAMED = ', or df.to_dict("split") where the columns have no text for names'
#: What takes a buffer of numbers as one.
_OF_NUMBERS = "; one of numbers is an array where Go asks for a pypool.Array"

#: By library (the first name of the class's module) and class; "" stands for any class of the
#: library.
_INSTEAD = {
    ("pandas", "DataFrame"): 'return df.to_dict("records"), or df.to_dict("list") by columns' + _UNNAMED + _IN_GO,
    ("pandas", "Series"): "return series.tolist(), or list(series.items()) with its index",
    ("pandas", "Index"): "return index.tolist()",
    ("pandas", "RangeIndex"): "return index.tolist()",
    ("pandas", "DatetimeIndex"): "return index.tolist()",
    ("pandas", "MultiIndex"): "return index.tolist()",
    ("pandas", "Categorical"): "return categorical.tolist()",
    ("pandas", "Interval"): "return [interval.left, interval.right]",
    ("polars", "DataFrame"): "return df.to_dicts(), or df.to_dict(as_series=False) by columns" + _IN_GO,
    ("polars", "LazyFrame"): "return lf.collect().to_dicts()" + _IN_GO,
    ("polars", "Series"): "return series.to_list()",
    ("pyarrow", "Table"): "return table.to_pylist(), or table.to_pydict() by columns" + _IN_GO,
    ("pyarrow", "RecordBatch"): "return batch.to_pylist()" + _IN_GO,
    ("pyarrow", "RecordBatchReader"): "return reader.read_all().to_pylist()" + _IN_GO,
    ("pyarrow", "Array"): "return array.to_pylist()",
    ("pyarrow", "ChunkedArray"): "return array.to_pylist()",
    ("pyarrow", "Scalar"): "return scalar.as_py()",
    ("pyarrow", "Schema"): "return str(schema)",
    ("pyarrow", "DataType"): "return str(type)",
    ("duckdb", "DuckDBPyRelation"): "return relation.fetchall()" + _IN_GO,
    ("duckdb", "DuckDBPyConnection"): "return connection.fetchall()" + _IN_GO,
    ("_duckdb", "DuckDBPyRelation"): "return relation.fetchall()" + _IN_GO,
    ("_duckdb", "DuckDBPyConnection"): "return connection.fetchall()" + _IN_GO,
    ("xarray", ""): "return value.to_dict()",
    ("dask", ""): "return value.compute(), and then what its result needs",
    ("torch", "Tensor"): "return tensor.tolist()",
    ("torch", "Parameter"): "return parameter.tolist()",
    ("torch", "device"): "return str(device)",
    ("torch", "dtype"): "return str(dtype)",
    ("tensorflow", ""): "return tensor.numpy()",
    ("jaxlib", ""): "return array.tolist()",
    ("jax", ""): "return array.tolist()",
    ("cupy", ""): "return array.get()",
    ("numpy", "complexfloating"): "return [float(z.real), float(z.imag)]",
    ("numpy", "floating"): "return float(value)",
    ("numpy", "dtype"): "return str(dtype)",
    ("scipy", ""): "return matrix.toarray(), or what you need of it as numbers and lists",
    ("sklearn", ""): "return what it computes (predict(...).tolist()), or its bytes (pickle.dumps) to keep it",
    ("PIL", ""): "return the file's bytes: image.save(buffer := io.BytesIO(), 'PNG'), then buffer.getvalue()",
    ("matplotlib", ""): "return the file's bytes: figure.savefig(buffer := io.BytesIO()), then buffer.getvalue()",
    ("plotly", ""): "return figure.to_plotly_json(), or figure.to_image('png')",
    ("networkx", ""): "return networkx.node_link_data(graph)",
    ("shapely", ""): "return shapely.geometry.mapping(shape)",
    ("sqlalchemy", "Row"): "return dict(row._mapping)",
    ("sqlalchemy", "RowMapping"): "return dict(row)",
    ("sqlalchemy", "LegacyRow"): "return dict(row)",
    ("sqlite3", "Row"): "return dict(row)",
    ("bson", "ObjectId"): "return str(id)",
    ("requests", "Response"): "return response.json() or response.text",
    ("httpx", "Response"): "return response.json() or response.text",
    ("spacy", "Doc"): "return doc.to_json()",
    ("bs4", ""): "return tag.get_text(), or str(tag)",
    ("transformers", ""): "return what you need of it: tensors have .tolist()",
    ("sentence_transformers", ""): "return what it computes: model.encode(...).tolist()",
    ("google", "Message"): "return MessageToDict(message), of google.protobuf.json_format",
    ("_ctypes", "Array"): "return list(value), .value of characters, or bytes(value)" + _OF_NUMBERS,
    ("_ctypes", "Structure"): "return a dict of its fields, or bytes(value)",
    ("_ctypes", "Union"): "return one of its fields, or bytes(value)",
    ("_ctypes", "_Pointer"): "return what it points to: pointer[0], pointer[:n]",
    ("_ctypes", "CFuncPtr"): "call it, and return what it gives",
    ("_ctypes", "_SimpleCData"): "return value.value",
    ("types", "SimpleNamespace"): "return vars(value)",
    ("argparse", "Namespace"): "return vars(value)",
    ("fractions", "Fraction"): "return str(value), or float(value)",
    ("re", "Match"): "return match.groupdict() or match.groups()",
    ("re", "Pattern"): "return pattern.pattern",
    ("builtins", "set"): "return sorted(...) or list(...)",
    ("builtins", "frozenset"): "return sorted(...) or list(...)",
    ("builtins", "complex"): "return [z.real, z.imag]",
    ("builtins", "dict_keys"): "return list(...)",
    ("builtins", "dict_values"): "return list(...)",
    ("builtins", "dict_items"): "return list(...)",
    ("builtins", "type"): "return its __name__",
    ("builtins", "ellipsis"): "return None",
}


def refusal(value: Any) -> str:
    """That a value is not JSON, and what to do."""
    return "%s is not JSON%s" % (type(value).__qualname__, _instead(value))


def _instead(value: Any) -> str:
    if hasattr(type(value), "__await__"):
        return ": was an await forgotten?"
    for kind in type(value).__mro__:
        library = str(getattr(kind, "__module__", "")).partition(".")[0]
        found = _INSTEAD.get((library, kind.__name__)) or _INSTEAD.get((library, ""))
        if found:
            return ": " + found
    if hasattr(type(value), "__next__"):
        return ": make the command itself a generator, or return list(...)"
    if isinstance(value, (set, frozenset)):
        return ": return sorted(...) or list(...)"
    if callable(value):
        return ": call it, and return what it gives"
    if hasattr(type(value), "to_dict"):
        return ": return value.to_dict()"
    if hasattr(type(value), "tolist"):
        return ": return value.tolist()"
    if hasattr(value, "__dict__"):
        return ": make its class a dataclass, or return a dict of what is needed"
    return ""
