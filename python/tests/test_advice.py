"""What an error says to return in place of a value is JSON: each advice is followed."""

from __future__ import annotations

import builtins
import importlib
import json
from typing import Any, Dict, List, Tuple

import pytest

from pypool import _advice
from pypool._results import encode
from pypool._wire import ResultError

FILE = "(%s.%s(buffer := io.BytesIO()%s), buffer.getvalue())[1]"
POLARS = "polars.DataFrame({'a': [1], 'at': [datetime.datetime(2026, 1, 2)]})"
ARROW = "pyarrow.table({'a': [1], 'at': [datetime.datetime(2026, 1, 2)]})"
DUCKDB = "duckdb.connect().sql(\"select 1 as a, date '2026-01-02' as d\")"
SQL = "sqlalchemy.create_engine('sqlite://').connect().execute(sqlalchemy.text('select 1 as a')).one()"

#: By row of the table: values, and what the advice says, a name for the value; where that is words,
#: a pair of these and what they mean.
FOLLOWED: Dict[Tuple[str, str], Tuple[List[str], List[Any]]] = {
    ("pandas", "DataFrame"): (
        ["pandas.DataFrame({'a': [1], 'at': [pandas.Timestamp(0)]})"],
        ['df.to_dict("records")', 'df.to_dict("list")', 'df.to_dict("split")'],
    ),
    ("pandas", "Series"): (
        ["pandas.Series([1, 2])", "pandas.Series([1.5], [pandas.Timestamp(0)])", "pandas.Series([1], [('a', 2)])"],
        ["series.tolist()", "list(series.items())"],
    ),
    ("pandas", "Index"): (["pandas.Index(['a'])", "pandas.PeriodIndex(['2026-01'], freq='M')"], ["index.tolist()"]),
    ("pandas", "RangeIndex"): (["pandas.RangeIndex(2)"], ["index.tolist()"]),
    ("pandas", "DatetimeIndex"): (["pandas.date_range('2026-01-02', periods=2)"], ["index.tolist()"]),
    ("pandas", "MultiIndex"): (["pandas.MultiIndex.from_tuples([('a', 1)])"], ["index.tolist()"]),
    ("pandas", "Categorical"): (["pandas.Categorical(['a'])"], ["categorical.tolist()"]),
    ("pandas", "Interval"): (["pandas.Interval(0, 1)"], ["[interval.left, interval.right]"]),
    ("polars", "DataFrame"): ([POLARS], ["df.to_dicts()", "df.to_dict(as_series=False)"]),
    ("polars", "LazyFrame"): ([POLARS + ".lazy()"], ["lf.collect().to_dicts()"]),
    ("polars", "Series"): ([POLARS + "['at']"], ["series.to_list()"]),
    ("pyarrow", "Table"): ([ARROW], ["table.to_pylist()", "table.to_pydict()"]),
    ("pyarrow", "RecordBatch"): ([ARROW + ".to_batches()[0]"], ["batch.to_pylist()"]),
    ("pyarrow", "RecordBatchReader"): ([ARROW + ".to_reader()"], ["reader.read_all().to_pylist()"]),
    ("pyarrow", "Array"): (["pyarrow.array([1])", "pyarrow.array([{'a': 'b'}])"], ["array.to_pylist()"]),
    ("pyarrow", "ChunkedArray"): ([ARROW + "['at']"], ["array.to_pylist()"]),
    ("pyarrow", "Scalar"): (["pyarrow.scalar(1)", "pyarrow.scalar([1])"], ["scalar.as_py()"]),
    ("pyarrow", "Schema"): ([ARROW + ".schema"], ["str(schema)"]),
    ("pyarrow", "DataType"): (["pyarrow.int64()"], [("str(type)", "str(value)")]),
    ("duckdb", "DuckDBPyRelation"): ([DUCKDB], ["relation.fetchall()"]),
    ("duckdb", "DuckDBPyConnection"): (["duckdb.connect().execute('select 1')"], ["connection.fetchall()"]),
    ("xarray", ""): (["xarray.DataArray([1, 2])", "xarray.Dataset({'a': ('x', [1])})"], ["value.to_dict()"]),
    ("numpy", "complexfloating"): (["numpy.clongdouble(1j)"], ["[float(z.real), float(z.imag)]"]),
    ("numpy", "floating"): (["numpy.longdouble(1)"], ["float(value)"]),
    ("numpy", "dtype"): (["numpy.dtype('f8')", "numpy.dtype([('a', 'i4')])"], ["str(dtype)"]),
    ("scipy", ""): (["importlib.import_module('scipy.sparse').csr_matrix([[1, 0]])"], ["matrix.toarray()"]),
    ("PIL", ""): (
        ["importlib.import_module('PIL.Image').new('L', (2, 2))"],
        [("image.save(buffer := io.BytesIO(), 'PNG'), then buffer.getvalue()", FILE % ("image", "save", ", 'PNG'"))],
    ),
    ("networkx", ""): (["networkx.path_graph(2)"], ["networkx.node_link_data(graph)"]),
    ("shapely", ""): (["shapely.Point(1, 2)"], ["shapely.geometry.mapping(shape)"]),
    ("sqlalchemy", "Row"): ([SQL], ["dict(row._mapping)"]),
    ("sqlalchemy", "RowMapping"): ([SQL + "._mapping"], ["dict(row)"]),
    ("sqlite3", "Row"): (["rows(sqlite3.connect(':memory:'))"], ["dict(row)"]),
    ("bson", "ObjectId"): (["bson.ObjectId()"], [("str(id)", "str(value)")]),
    ("requests", "Response"): (["answer(requests.Response())"], ["response.json()", "response.text"]),
    ("httpx", "Response"): (["httpx.Response(200, json={'a': 1})"], ["response.json()", "response.text"]),
    ("bs4", ""): (["bs4.BeautifulSoup('<p>a</p>', 'html.parser').p"], ["tag.get_text()", "str(tag)"]),
    ("google", "Message"): (
        ["importlib.import_module('google.protobuf.struct_pb2').Value(number_value=1)"],
        [("MessageToDict(message)", "importlib.import_module('google.protobuf.json_format').MessageToDict(value)")],
    ),
    ("_ctypes", "Array"): (
        ["(ctypes.c_int * 2)(1, 2)", "ctypes.create_unicode_buffer('ab')"],
        ["list(value)", "bytes(value)"],
    ),
    ("_ctypes", "Structure"): (["Pair(1)"], [("a dict of its fields", "{'n': value.n}"), "bytes(value)"]),
    ("_ctypes", "Union"): (["Either(1)"], [("one of its fields", "value.n"), "bytes(value)"]),
    ("_ctypes", "_Pointer"): (["ctypes.pointer(ctypes.c_int(1))"], ["pointer[0]", ("pointer[:n]", "value[:1]")]),
    ("_ctypes", "CFuncPtr"): (["ctypes.CFUNCTYPE(ctypes.c_int)(int)"], [("call it, and return what it gives", "value()")]),
    ("_ctypes", "_SimpleCData"): (
        ["ctypes.c_int(1)", "ctypes.c_double(1)", "ctypes.c_char_p(b'a')", "ctypes.c_wchar('a')"],
        ["value.value"],
    ),
    ("types", "SimpleNamespace"): (["types.SimpleNamespace(a=1)"], ["vars(value)"]),
    ("argparse", "Namespace"): (["argparse.Namespace(a=1)"], ["vars(value)"]),
    ("fractions", "Fraction"): (["fractions.Fraction(1, 3)"], ["str(value)", "float(value)"]),
    ("re", "Match"): (["re.match('(?P<a>.)(.)?', 'a')"], ["match.groupdict()", "match.groups()"]),
    ("re", "Pattern"): (["re.compile('a')", "re.compile(b'a')"], ["pattern.pattern"]),
    ("builtins", "set"): (["{1, 2}"], ["sorted(...)", "list(...)"]),
    ("builtins", "frozenset"): (["frozenset('a')"], ["sorted(...)", "list(...)"]),
    ("builtins", "complex"): (["1j"], ["[z.real, z.imag]"]),
    ("builtins", "dict_keys"): (["{'a': 1}.keys()"], ["list(...)"]),
    ("builtins", "dict_values"): (["{'a': 1}.values()"], ["list(...)"]),
    ("builtins", "dict_items"): (["{'a': 1}.items()"], ["list(...)"]),
    ("builtins", "type"): (["int"], [("its __name__", "value.__name__")]),
    ("builtins", "ellipsis"): (["..."], ["None"]),
}
#: Libraries that are too large for a test, have gone, or whose values are no one expression away from
#: JSON; and names of another version's for a row above.
LEFT = {"dask", "torch", "tensorflow", "jaxlib", "jax", "cupy", "sklearn", "matplotlib", "plotly", "spacy", "transformers"}
LEFT |= {"sentence_transformers", "_duckdb"}
#: What no row of the table says.
OTHERS: List[Tuple[str, str]] = [
    ("len", "call it, and return what it gives"),
    ("iter([1])", "list(...)"),
    ("(one for one in [1])", "list(...)"),
    ("type('Mine', (set,), {})([1])", "sorted(...)"),
    ("pandas.array([1, 2])", "value.tolist()"),
]


def space() -> Dict[str, Any]:
    """The names that the values above use."""
    import ctypes
    import sqlite3

    class Pair(ctypes.Structure):
        _fields_ = [("n", ctypes.c_int)]

    class Either(ctypes.Union):
        _fields_ = [("n", ctypes.c_int)]

    def rows(connection: Any) -> Any:
        connection.row_factory = sqlite3.Row
        row = connection.execute("select 1 as a").fetchone()
        connection.close()
        return row

    def answer(response: Any) -> Any:
        response._content = b'{"a": 1}'
        return response

    modules = "argparse ctypes datetime fractions importlib io re sqlite3 types".split()
    return {
        **{name: importlib.import_module(name) for name in modules},
        "Pair": Pair,
        "Either": Either,
        "rows": rows,
        "answer": answer,
    }


class Names(Dict[str, Any]):
    """The names of an advice: whatever is not known otherwise is the value."""

    def __init__(self, value: Any, known: Dict[str, Any]) -> None:
        self.value, self.known = value, known

    def __missing__(self, name: str) -> Any:
        if name != "value" and (name in self.known or hasattr(builtins, name)):
            raise KeyError(name)
        return self.value


def known_with(library: str) -> Dict[str, Any]:
    known = space()
    if library not in ("builtins", "_ctypes"):
        known[library] = pytest.importorskip(library, reason="a library that is not here")
    for inner in ("shapely.geometry", "google.protobuf"):
        if inner.startswith(library + "."):
            pytest.importorskip(inner, reason="a library that is not here")
    return known


def follow(value: Any, said: str, meant: str, known: Dict[str, Any]) -> None:
    with pytest.raises(ResultError) as refusal:
        encode(value)
    assert said in refusal.value.fields["message"]
    made = eval(meant.replace("...", "value") if "..." in said else meant, known, Names(value, known))
    json.loads(encode([made]))


@pytest.mark.parametrize("row", FOLLOWED, ids=".".join)
def test_what_an_error_says_to_return_is_json(row: Tuple[str, str]) -> None:
    known = known_with(row[0])
    values, advice = FOLLOWED[row]
    for source in values:
        for one in advice:
            said, meant = one if isinstance(one, tuple) else (one, one)
            assert said in _advice._INSTEAD[row]
            follow(eval(source, known), said, meant, known)


def test_each_advice_is_followed_or_left() -> None:
    assert {row for row in _advice._INSTEAD if row[0] not in LEFT} - {("sqlalchemy", "LegacyRow")} == set(FOLLOWED)


def test_a_frame_whose_columns_have_no_names() -> None:
    """Its "records" have numbers for keys, which the hint of a result may say."""
    known = known_with("pandas")
    value = eval("pandas.DataFrame([[1, 2]])", known)
    follow(value, 'df.to_dict("split") where the columns have no text', 'df.to_dict("split")', known)
    with pytest.raises(ResultError):
        encode(value.to_dict("records"))


@pytest.mark.parametrize(("source", "advice"), OTHERS)
def test_what_is_said_of_any_other_class(source: str, advice: str) -> None:
    known = known_with(source.partition(".")[0]) if source.startswith(("numpy", "pandas")) else space()
    follow(eval(source, known), advice, "value.__name__" if advice.startswith("call") else advice, known)
