"""Tables, where pyarrow is not installed: with it the Go module arrow tests them, with all three libraries."""

from __future__ import annotations

import json
import sys
from typing import Any, Dict, List

import pytest
from test_hints import arrives, define, module

from pypool import _blobs, _hints_tables, _tables
from pypool._arrays import value_of
from pypool._wire import BindError, ResultError


def test_tables_of_json() -> None:
    module.pd = pytest.importorskip("pandas", reason="not for every Python")
    source = "def f(x: pd.DataFrame): return [type(x) is pd.DataFrame, x.astype(object).where(x.notna(), None).to_dict('list')]\n"
    function = define(source)
    for text in ('[{"a":1,"b":"x"},{"a":2,"b":null}]', '{"a":[1,2],"b":["x",null]}'):
        assert arrives(function, text) == [True, {"a": [1, 2], "b": ["x", None]}]
    assert arrives(function, "[]") == [True, {}]
    for text in ("5", '"x"', "null", "[1]", '{"a":1}', '{"a":[1],"b":[1,2]}'):
        with pytest.raises(BindError, match="pandas.DataFrame"):
            arrives(function, text)
    function = define("def f(x: Optional[List[pd.DataFrame]] = None): return x and list(map(len, x))\n")
    assert arrives(function, "null") is None and arrives(function, '[[],[{"a":1}]]') == [0, 1]


def test_a_class_of_the_same_name_is_another() -> None:
    function = define("class Table:\n    pass\ndef f(x: Table): return x\n")
    assert arrives(function, "5") == 5


@pytest.mark.parametrize("data", [b"", b"x" * 100, b"\xff\xff\xff\xff\0\0\0"])
def test_a_torn_stream(data: bytes) -> None:
    words = "a payload of the kind 'arrow.Table' cannot be read: ValueError: the Arrow stream of %d bytes has no end" % len(data)
    with pytest.raises(ValueError, match=words):
        value_of({"at": [0], "kind": "arrow.Table"}, memoryview(data))


def test_what_lacks() -> None:
    for name in ("pyarrow", "polars"):
        try:
            __import__(name)
        except ImportError:
            continue
        pytest.skip("here is " + name)
    with pytest.raises(ValueError, match="install pyarrow where the workers run"):
        value_of({"at": [0], "kind": "arrow.RecordBatch"}, memoryview(b"\xff\xff\xff\xff\0\0\0\0"))


def test_whatever_exports_a_stream_is_a_table() -> None:
    class Relation:
        def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
            raise RuntimeError("none")

    class Column(Relation):
        def __array__(self) -> Any:
            raise RuntimeError("none")

    assert _tables.is_table(Relation()) and not _tables.is_table(Column()) and not _tables.is_table({})
    with pytest.raises(TypeError, match="Relation cannot be sent as a table"):
        _tables.dump(Relation())


LIBRARIES = [("pyarrow", "Table"), ("pandas", "DataFrame"), ("polars", "DataFrame"), ("polars", "LazyFrame")]
BIG = (1 << 60) + 1
READ = """
def f(x: Hint):
    x = x.collect() if hasattr(x, 'collect') else x
    if hasattr(x, 'to_pydict'): return x.to_pydict()
    if hasattr(x, 'to_dicts'): return x.to_dict(as_series=False)
    return {name: [None if pandas.isna(v) is True else v for v in x[name].tolist()] for name in x}
"""


def read(library: str, name: str, text: str) -> Any:
    module.Hint = getattr(pytest.importorskip(library, reason="in build/arrow"), name)
    if library == "pandas":
        setattr(module, library, sys.modules[library])
    return arrives(define(READ), text)


@pytest.mark.parametrize(("library", "name"), LIBRARIES)
def test_all_rows_of_json_say_what_a_table_is(library: str, name: str) -> None:
    rows: List[Dict[str, Any]] = [{"a": 1}] * 150
    late = rows + [{"a": 2.5, "b": "x"}]
    assert read(library, name, json.dumps(late)) == {"a": [1.0] * 150 + [2.5], "b": [None] * 150 + ["x"]}
    assert read(library, name, '{"a":[150,2.5,null]}') == {"a": [150.0, 2.5, None]}
    for text in ('[{"a":%d},{"a":null}]', '[{"a":%d},{}]', '{"a":[%d,null]}'):
        assert read(library, name, text % BIG) == {"a": [BIG, None]}
    for text in ('[{"a":%d},{"a":0.5}]', '{"a":[0.5,%d]}'):
        with pytest.raises(BindError, match="a: expected float, got a number %d: a float would round it" % BIG):
            read(library, name, text % BIG)


@pytest.mark.parametrize(("library", "name"), LIBRARIES)
def test_what_is_within_columns_of_json(library: str, name: str) -> None:
    lists = read(library, name, '{"a":[[1,2],[2.5],null,[]]}')["a"]
    assert [item if item is None else list(item) for item in lists] == [[1, 2], [2.5], None, []]
    rows = read(library, name, '[{"a":{"x":1}},{"a":{"x":2.5,"y":[{"z":1}]}},{"a":{"y":[{"w":0.5}]}}]')["a"]
    assert [row.get("x") for row in rows] == [1, 2.5, None]
    assert [row.get("y") and [item.get("z") for item in row["y"]] for row in rows] == [None, [1], [None]]
    assert rows[2]["y"][0]["w"] == 0.5
    assert read(library, name, '{"a":[{"x":1},null]}')["a"][1] is None
    if library != "pandas":  # whose columns are of whatever is in them
        for text in ('[{"a":1},{"a":"x"}]', '{"a":[[1],["x"]]}', '{"a":[[1],"x"]}', '{"a":[{"k":1},{"k":true}]}'):
            with pytest.raises(BindError, match="expected values of one type in a column, got a .*: before it there is a"):
                read(library, name, text)


def test_a_panic_of_polars_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        pass

    def panics(*args: Any, **named: Any) -> Any:
        raise PanicException("no Int256")

    module.pd = pandas = pytest.importorskip("pandas", reason="not for every Python")
    function = define("def f(x: pd.DataFrame): return len(x)\n")
    arrives(function, "[]")
    monkeypatch.setattr(_hints_tables, "_columns", panics)
    with pytest.raises(BindError, match="PanicException: no Int256"):
        arrives(function, "[]")
    monkeypatch.setattr(_tables, "library", panics)
    with pytest.raises(TypeError, match="DataFrame cannot be sent as a table: PanicException: no Int256"):
        _tables.dump(pandas.DataFrame())
    end = memoryview(b"\xff\xff\xff\xff\0\0\0\0")
    monkeypatch.setattr(_tables, "load", panics)
    with pytest.raises(ValueError, match="cannot be read: PanicException: no Int256"):
        value_of({"at": [0], "kind": "arrow.Table"}, end)


def test_integers_beside_nulls_are_not_rounded_in_an_array() -> None:
    pandas = pytest.importorskip("pandas", reason="not for every Python")
    for value in (pandas.array([BIG, None], dtype="Int64"), [pandas.Series([None, 1 << 63], dtype="UInt64")]):
        with pytest.raises(ResultError) as refusal:
            _blobs.encode(value, 0)
        assert "which has nulls, would have its integers rounded" in refusal.value.fields["message"]
    assert _blobs.encode(pandas.array([BIG], dtype="Int64"), 0)[1] == '{"at":0,"dtype":"int64","shape":[1]}'
    assert _blobs.encode(pandas.array([1, None], dtype="Int64"), 0)[1] == '{"at":0,"dtype":"float64","shape":[2]}'
