"""Tuples of every shape: with a star in them, empty ones, and those that stand for *args."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from test_hints import arrives, define

from pypool import _bind, _schema
from pypool._commands import Command
from pypool._results import encode
from pypool._wire import BindError

starred = pytest.mark.skipif(sys.version_info < (3, 11), reason="a star in a hint is new in Python 3.11")
DAY, DAYS = '"2026-01-02"', '"2026-01-02","2026-01-03"'


def shown(value: Any) -> str:
    return repr(value).replace("datetime.date(2026, 1, ", "day(")


@starred
@pytest.mark.parametrize(
    ("hint", "text", "wanted"),
    [
        ("tuple[int, *tuple[datetime.date, ...]]", "[1,%s]" % DAYS, "(1, day(2), day(3))"),
        ("tuple[int, *tuple[datetime.date, ...]]", "[1]", "(1,)"),
        ("Tuple[int, Unpack[Tuple[datetime.date, ...]]]", "[1,%s]" % DAYS, "(1, day(2), day(3))"),
        ("Tuple[datetime.date, Unpack[Tuple[int, ...]], float]", "[%s,1,2,3]" % DAY, "(day(2), 1, 2, 3.0)"),
        ("Tuple[Unpack[Tuple[datetime.date, ...]], float]", "[%s,3]" % DAYS, "(day(2), day(3), 3.0)"),
        ("tuple[*tuple[datetime.date, ...]]", "[%s]" % DAYS, "(day(2), day(3))"),
        ("tuple[*tuple[datetime.date, ...]]", "null", "()"),
        ("tuple[int, *tuple[datetime.date, float]]", "[1,%s,2]" % DAY, "(1, day(2), 2.0)"),
        (
            "tuple[int, *tuple[float, *tuple[datetime.date, ...], float], float]",
            "[1,2,%s,3,4]" % DAY,
            "(1, 2.0, day(2), 3.0, 4.0)",
        ),
        ("Tuple[int, Unpack[tuple]]", "[1,%s]" % DAY, "(1, '2026-01-02')"),
        ("Optional[Tuple[int, Unpack[Tuple[datetime.date, ...]]]]", "[1,%s]" % DAY, "(1, day(2))"),
        ("Dict[Tuple[int, Unpack[Tuple[datetime.date, ...]]], int]", '{"[1,\\"2026-01-02\\"]":1}', "{(1, day(2)): 1}"),
    ],
)
def test_a_star_stands_for_elements(hint: str, text: str, wanted: str) -> None:
    assert shown(arrives(define("def f(x: %s): return x\n" % hint), text)) == wanted


@starred
@pytest.mark.parametrize(
    ("hint", "text"),
    [
        ("tuple[int, *tuple[datetime.date, ...]]", "[]"),
        ("tuple[int, *tuple[datetime.date, ...]]", "null"),
        ("tuple[int, *tuple[datetime.date, ...]]", "[1,2]"),
        ("tuple[int, *tuple[datetime.date, float]]", "[1,%s]" % DAY),
        ("tuple[int, *tuple[datetime.date, ...], float]", "[1,%s]" % DAY),
    ],
)
def test_what_does_not_fit_a_star_is_refused(hint: str, text: str) -> None:
    with pytest.raises(BindError, match="expected "):
        arrives(define("def f(x: %s): return x\n" % hint), text)


@starred
def test_a_class_that_is_generic_in_a_tuple() -> None:
    function = define(
        "K = TypeVar('K')\nTs = TypeVarTuple('Ts')\n@dataclasses.dataclass\nclass Cells(Generic[K, Unpack[Ts]]):\n"
        "    key: K\n    cells: Tuple[Unpack[Ts]]\n"
        "@dataclasses.dataclass\nclass Days(Cells[float, datetime.date, datetime.date]):\n    pass\n"
        "def f(x: Cells[float, int, datetime.date], y: Days, z: Cells): return [(c.key, c.cells) for c in (x, y, z)]\n"
    )
    args = '{"x":{"key":1,"cells":[2,%s]},"y":{"key":1,"cells":[%s]},"z":{"key":1,"cells":[2,3]}}' % (DAY, DAYS)
    positional, keyword = _bind.bind(Command("f", "command", function), json.loads(args))
    assert shown(function(*positional, **keyword)) == "[(1.0, (2, day(2))), (1.0, (day(2), day(3))), (1, (2, 3))]"


@starred
@pytest.mark.parametrize(
    ("hint", "text", "wanted"),
    [
        ("*tuple[int, *tuple[datetime.date, ...]]", "[0,1,%s]" % DAYS, "(1, day(2), day(3))"),
        ("Unpack[Tuple[int, datetime.date]]", "[0,1,%s]" % DAY, "(1, day(2))"),
    ],
)
def test_a_star_in_the_rest(hint: str, text: str, wanted: str) -> None:
    function = define("def f(a: int, *x: %s): return x\n" % hint)
    entry = Command("f", "command", function)
    positional, _ = _bind.bind(entry, json.loads(text))
    assert entry.direct is not None
    assert shown(function(*positional)) == shown(entry.direct(*json.loads(text))) == wanted
    with pytest.raises(BindError, match="'x"):
        entry.direct(0, 1, 2)


@starred
def test_results_and_schemas_know_stars() -> None:
    entry = Command("f", "command", define("def f(x) -> tuple[int, *tuple[Dict[int, float], ...]]: return x\n"))
    change: Any = _bind.outgoing(entry)
    assert encode(change((1, {2: 0.5}, {3: 0.5}))) == '[1,{"2":0.5},{"3":0.5}]'
    cell = {"type": "map", "of": [{"type": "number"}], "key": {"type": "integer"}}
    assert _schema.schema(entry)["returns"] == {"type": "array", "of": [{"type": "union", "of": [{"type": "integer"}, cell]}]}
    for hint, kind in (("tuple[int, *tuple[int, int]]", "tuple"), ("tuple[int, *tuple[int, ...]]", "array")):
        found = _schema.schema(Command("f", "command", define("def f(x: %s): return x\n" % hint)))["params"][0]["type"]
        assert found == {"type": kind, "of": [{"type": "integer"}] * (3 if kind == "tuple" else 1)}


@pytest.mark.parametrize("hint", ["Tuple[()]", "tuple[()]"][: 2 if sys.version_info >= (3, 9) else 1])
def test_an_empty_tuple_is_empty(hint: str) -> None:
    function = define("def f(x: %s): return x\n" % hint)
    assert arrives(function, "[]") == arrives(function, "null") == ()
    for text in ("[1]", "[null]", "{}"):
        with pytest.raises(BindError, match="expected an array of 0, got an"):
            arrives(function, text)
    for bare in ("tuple", "Tuple"):
        assert arrives(define("def f(x: %s): return x\n" % bare), "[1]") == (1,)


def test_what_stands_before_the_rest_is_not_the_rest() -> None:
    entry = Command("f", "command", define("def f(a: int, *x: datetime.date): return a, x\n"))
    for _ in range(2):
        positional, _ = _bind.bind(entry, [1, "2026-01-02"])
        assert shown(entry.func(*positional)) == "(1, (day(2),))"
        assert entry.direct is not None
        assert shown(entry.direct(1, "2026-01-02")) == "(1, (day(2),))"
        with pytest.raises(BindError, match=r"'x\[0\]'"):
            entry.direct(1, 1)
