"""Tables, where pyarrow is not installed: with it the Go module arrow tests them, with all three libraries."""

from __future__ import annotations

from typing import Any

import pytest
from test_hints import arrives, define, module

from pypool import _tables
from pypool._arrays import value_of
from pypool._wire import BindError


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
