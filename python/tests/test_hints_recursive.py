"""Hints that mention themselves: what is inside is converted as what is outside."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import pytest
from test_hints import arrives, define, module
from test_hints_keys import sent

from pypool._hints import Plan
from pypool._wire import BindError

SOURCE = """
import datetime
from typing import Dict, List, Tuple, Union, Optional
OwnJSON = Union[None, bool, int, float, str, List["OwnJSON"], Dict[str, "OwnJSON"]]
OwnNested = List[Union[int, "OwnNested"]]
OwnDates = Union[datetime.date, List["OwnDates"], Dict[str, "OwnDates"]]
"""


def seen(hint: str, text: str) -> Any:
    exec(SOURCE, vars(module))
    module.seen = []
    arrives(define("def f(x: %s):\n    seen.append(x)\n" % hint), text)
    return module.seen[0]


@pytest.mark.parametrize("quoted", [False, True])
def test_names_that_mention_themselves(quoted: bool) -> None:
    def name(hint: str) -> str:
        return repr(hint) if quoted else hint

    import datetime

    for text, wanted in (('{"a": [1]}', {"a": [1]}), ('[1, [null, {"b": [1.5]}]]', [1, [None, {"b": [1.5]}]]), ("3", 3)):
        assert seen(name("OwnJSON"), text) == wanted
    assert seen(name("OwnNested"), "[1, [2, [3]]]") == [1, [2, [3]]]
    day = datetime.date(2026, 11, 27)
    assert seen(name("OwnDates"), '["2026-11-27", ["2026-11-27", {"k": ["2026-11-27"]}]]') == [day, [day, {"k": [day]}]]
    for hint, text in (
        ("OwnNested", '[1, ["x"]]'),
        ("OwnNested", "[1, [[[1.5]]]]"),
        ("OwnDates", '[["no date"]]'),
        ("OwnDates", '{"a": {"b": 1}}'),
    ):
        with pytest.raises(BindError):
            seen(name(hint), text)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="a type statement is of Python 3.12")
def test_type_statements_that_mention_themselves() -> None:
    import datetime

    exec("import datetime\ntype OwnDJ = datetime.date | list[OwnDJ] | dict[str, OwnDJ]", vars(module))
    day = datetime.date(2026, 11, 27)
    assert seen("OwnDJ", '["2026-11-27", ["2026-11-27", {"k": ["2026-11-27"]}]]') == [day, [day, {"k": [day]}]]
    with pytest.raises(BindError):
        seen("OwnDJ", '[["no date"]]')


def test_what_is_named_twice_is_the_same_twice() -> None:
    """Also where there is nothing to convert: a Union goes on to its next member."""
    import datetime

    exec(
        "class Told(TypedDict):\n    name: str\nclass Node(TypedDict):\n    to: 'List[Union[Node, datetime.date]]'\n",
        vars(module),
    )
    day = datetime.date(2026, 1, 2)
    assert seen("Tuple[List[Told], Union[Told, datetime.date]]", '[[], "2026-01-02"]') == ([], day)
    nodes = seen("Tuple[Union[Node, datetime.date], Union[Node, datetime.date]]", '[{"to": ["2026-01-02"]}, "2026-01-02"]')
    assert nodes == ({"to": [day]}, day)
    assert sent("Tuple[Told, Union[Told, Dict[int, float]]]", "({'name': 'a'}, {'name': 'b'})") == '[{"name":"a"},{"name":"b"}]'


@pytest.mark.skipif(sys.version_info < (3, 12), reason="a type statement is of Python 3.12")
def test_aliases_that_are_used_twice() -> None:
    import datetime

    exec("type Key = int\ntype Anything = Any\ntype Missing = NotThere", vars(module))
    day = datetime.date(2026, 1, 2)
    assert seen("tuple[Key | datetime.date, Key | datetime.date]", '["2026-01-02", "2026-01-02"]') == (day, day)
    found = seen("Tuple[Anything, Anything, Decimal]", "[1.5, 1.5, 1.5]")
    assert list(map(type, found)) == [float, float, module.Decimal]
    function = define("def f(a: Missing, b: Missing | datetime.date): pass\n")
    reason = ": NameError: name 'NotThere' is not defined"
    assert Plan(function, inspect.signature(function)).unresolved == ["a" + reason, "b" + reason]


def test_keys_that_no_text_stands_for() -> None:
    for hint in ("Dict[FrozenSet[int], int]", "Dict[frozenset, int]", "Dict[bytes, int]"):
        exec("from typing import Dict, FrozenSet", vars(module))
        with pytest.raises(BindError, match="a key in JSON is text"):
            seen(hint, '{"1": 1}')
        assert seen(hint, "{}") == {}
