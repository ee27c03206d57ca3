"""Hints of NumPy's and pandas' classes: what they cannot hold is refused, never rounded or made something else."""

from __future__ import annotations

import json
import sys
import typing
from typing import Any

import pytest
from test_hints import arrives, define, module
from test_hints_keys import sent

from pypool import _schema
from pypool._arrays import Array
from pypool._commands import Command
from pypool._wire import BindError

np = pytest.importorskip("numpy", reason="not for every Python")
module.np = np


def taken(hint: str, text: str) -> Any:
    module.seen = []
    arrives(define("def f(x: %s):\n    seen.append(x)\n" % hint), text)
    return module.seen[0]


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        ("np.float32", "1e39"),
        ("np.float16", "70000"),
        ("np.float32", "16777217"),
        ("np.int8", "128"),
        ("np.integer", "9223372036854775808"),
        ("np.unsignedinteger", "-1"),
        ("np.datetime64", '"9999-12-31T23:59:59.999999999Z"'),
        ("np.datetime64", '"2300-01-01T00:00:00.000000001Z"'),
        ("np.datetime64", '"1600-01-01T00:00:00.000000001+01:00"'),
        ("np.datetime64", '"2262-04-11T23:47:16.854775807-01:00"'),
        ("np.datetime64", '"now"'),
        ("np.datetime64", '"today"'),
        ("np.datetime64", '"NaT"'),
        ("np.datetime64", '""'),
        ("np.timedelta64", "-9223372036854775808"),
        ("np.ndarray", "[9007199254740993, 0.5]"),
        ("np.ndarray", "[[0.5, 1], [2, 9007199254740993]]"),
        ("np.ndarray", "[-1, 9223372036854775809]"),
        ("np.ndarray", "[1, [2]]"),
        ("np.ndarray[typing.Any, np.dtype[np.float32]]", "[1e39]"),
        ("np.ndarray[typing.Any, np.dtype[np.float32]]", "[16777217]"),
        ("np.ndarray[typing.Any, np.dtype[np.uint8]]", "[256]"),
        ("np.ndarray[typing.Any, np.dtype[np.uint8]]", "[-1]"),
        ("np.ndarray[typing.Any, np.dtype[np.uint64]]", "[-1]"),
        ("np.ndarray[typing.Any, np.dtype[np.int64]]", "[9223372036854775808]"),
        ("np.ndarray[typing.Any, np.dtype[np.int32]]", "[1.5]"),
        ("np.ndarray[typing.Any, np.dtype[np.float64]]", "[true]"),
        ("np.ndarray[typing.Any, np.dtype[np.bool_]]", "[1]"),
        ("pypool.Array", '["a"]'),
        ("pypool.Array", "[[1], [2, 3]]"),
        ("pypool.Array", "[1, [2]]"),
        ("pypool.Array", "[9007199254740993, 0.5]"),
        ("pypool.Array", "[null]"),
        ("typing.Dict[float, int]", '{"9007199254740993": 1}'),
    ],
)
def test_what_it_cannot_hold_is_refused(hint: str, text: str) -> None:
    import typing

    import pypool

    module.typing, module.pypool = typing, pypool
    with pytest.raises(BindError):
        taken(hint, text)


@pytest.mark.parametrize(
    ("hint", "text", "wanted"),
    [
        ("np.float32", "0.1", "float32(0.1)"),
        ("np.float32", "16777216", "float32(16777216)"),
        ("np.float32", "100000000000000000000", "float32(1e20)"),
        ("np.float16", "65504", "float16(65504)"),
        ("np.integer", "-1", "int64(-1)"),
        ("np.unsignedinteger", "18446744073709551615", "uint64(18446744073709551615)"),
        ("np.datetime64", '"2026-01-02T03:04:05.123456789Z"', "datetime64('2026-01-02T03:04:05.123456789')"),
        ("np.datetime64", '"2026-01-02T03:04:05+02:00"', "datetime64('2026-01-02T01:04:05')"),
        ("np.datetime64", '"9999-12-31"', "datetime64('9999-12-31')"),
        ("np.timedelta64", "-9223372036854775807", "timedelta64(-9223372036854775807, 'ns')"),
    ],
)
def test_what_it_holds(hint: str, text: str, wanted: str) -> None:
    got, want = taken(hint, text), eval("np." + wanted, {"np": np})
    assert type(got) is type(want) and got == want


@pytest.mark.parametrize(
    ("elements", "text", "wanted"),
    [
        ("float32", "[1, 2]", [1.0, 2.0]),
        ("float32", "[1, 2.5]", [1.0, 2.5]),
        ("float32", "[0.1]", [np.float32(0.1)]),
        ("float64", "[1, 2]", [1.0, 2.0]),
        ("uint8", "[0, 255]", [0, 255]),
        ("int32", "[[1], [-2]]", [[1], [-2]]),
        ("uint64", "[18446744073709551615]", [18446744073709551615]),
        ("complex64", "[1, 2.5]", [1, 2.5]),
        ("bool_", "[true]", [True]),
        ("float16", "[]", []),
        ("int8", "[]", []),
    ],
)
def test_lists_become_arrays_of_the_type_of_the_hint(elements: str, text: str, wanted: Any) -> None:
    got = taken("np.ndarray[typing.Any, np.dtype[np.%s]]" % elements, text)
    assert got.dtype == np.dtype(elements) and got.tolist() == wanted and not got.flags.writeable


@pytest.mark.skipif(sys.version_info < (3, 9) or not hasattr(np.floating, "__class_getitem__"), reason="NumPy's generics")
def test_classes_of_numpy_with_a_parameter_are_those_classes() -> None:
    """As `mypy --strict` wants them to be written, and as they are behind a type variable."""
    module.typing = typing
    exec("F = typing.TypeVar('F', bound=np.floating[typing.Any])", vars(module))
    for elements, text, wanted in (
        ("np.floating[typing.Any]", "[[1, 2]]", np.array([[1.0, 2.0]])),
        ("F", "[1]", np.array([1.0])),
        ("np.float32", "[1]", np.array([1], "float32")),
        ("np.complexfloating[typing.Any, typing.Any]", "[1]", np.array([1 + 0j])),
        ("np.unsignedinteger[typing.Any]", "[1]", np.array([1], "uint64")),
        ("np.integer[typing.Any]", "[-1]", np.array([-1])),
        ("np.number[typing.Any]", "[1]", np.array([1])),
        ("typing.Any", "[1]", np.array([1])),
    ):
        got = taken("np.ndarray[typing.Any, np.dtype[%s]]" % elements, text)
        assert (got.dtype, got.tolist()) == (wanted.dtype, wanted.tolist()), elements
    for elements, text in (("np.floating[typing.Any]", "[true]"), ("F", '["a"]'), ("np.unsignedinteger[typing.Any]", "[-1]")):
        with pytest.raises(BindError, match="an array of|no numbers"):
            taken("np.ndarray[typing.Any, np.dtype[%s]]" % elements, text)
    assert taken("typing.Dict[np.integer[typing.Any], int]", '{"1": 2}') == {np.int64(1): 2}
    assert sent("typing.Dict[np.integer[typing.Any], int]", "{np.int64(1): 2}") == '{"1":2}'
    function = define("def f(x: np.floating[typing.Any], y: np.integer[typing.Any]): pass\n")
    params = _schema.schema(Command("f", "command", function))["params"]
    assert [param["type"] for param in params] == [{"type": "number"}, {"type": "integer"}]


@pytest.mark.parametrize("text", ["[true, 2]", "[true, 2.5]", "[[1, 2], [3, false]]", "[true, 18446744073709551615]"])
def test_a_boolean_among_numbers_is_refused(text: str) -> None:
    import pypool

    module.typing, module.pypool = typing, pypool
    for elements in ("int64", "float64", "complex64", "bool_"):
        with pytest.raises(BindError, match="these are no numbers"):
            taken("np.ndarray[typing.Any, np.dtype[np.%s]]" % elements, text)
    for hint in ("np.ndarray", "pypool.Array"):
        with pytest.raises(BindError, match="these are no numbers"):
            taken(hint, text)
        assert taken(hint, "[[true], [false]]").tolist() == [[True], [False]]
        assert taken(hint, "[[1], [0]]").tolist() == [[1], [0]]


def test_a_list_for_bytes_or_an_array_is_an_array() -> None:
    got = taken("typing.Union[bytes, np.ndarray]", "[1, 2]")
    assert type(got) is np.ndarray and got.tolist() == [1, 2]


def test_what_numpy_makes_an_array_of_is_passed_as_it_came() -> None:
    import numpy.typing

    module.npt = numpy.typing
    for text in ("[1, 2, 3]", "[0.5]", "[[1, 2]]", "3", '"a"'):
        assert taken("npt.ArrayLike", text) == json.loads(text), text


def test_lists_become_arrays_without_numpy() -> None:
    import pypool

    module.pypool = pypool
    for text, dtype, wanted in (
        ("[1, -2]", "int64", [1, -2]),
        ("[[1, 2.5], [3, 4]]", "float64", [[1.0, 2.5], [3.0, 4.0]]),
        ("[true, false]", "bool", [True, False]),
        ("[18446744073709551615]", "uint64", [18446744073709551615]),
        ("[]", "float64", []),
        ("[[], []]", "float64", [[], []]),
    ):
        got = taken("pypool.Array", text)
        assert type(got) is Array and got.dtype == dtype and got.tolist() == wanted


def test_pandas() -> None:
    module.pd = pytest.importorskip("pandas", reason="not for every Python")
    assert taken("pd.Timestamp", '"2026-01-02T03:04:05.123456789Z"').isoformat() == "2026-01-02T03:04:05.123456789+00:00"
    for hint, text in (
        ("pd.Timestamp", '"now"'),
        ("pd.Timestamp", '"today"'),
        ("pd.Timestamp", '""'),
        ("pd.Timestamp", '"NaT"'),
        ("pd.Period", '"NaT"'),
        ("pd.Timedelta", "-9223372036854775808"),
    ):
        with pytest.raises(BindError):
            taken(hint, text)
