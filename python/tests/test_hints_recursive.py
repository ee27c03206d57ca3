"""Hints that mention themselves: what is inside is converted as what is outside."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from test_hints import arrives, define, module

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


def test_keys_that_no_text_stands_for() -> None:
    for hint in ("Dict[FrozenSet[int], int]", "Dict[frozenset, int]", "Dict[bytes, int]"):
        exec("from typing import Dict, FrozenSet", vars(module))
        with pytest.raises(BindError, match="a key in JSON is text"):
            seen(hint, '{"1": 1}')
        assert seen(hint, "{}") == {}
