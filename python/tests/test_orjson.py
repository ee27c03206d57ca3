"""A worker that has imported orjson gives the results that one without it gives."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import random
import uuid
from collections import OrderedDict, namedtuple
from typing import Any, Tuple

import pytest
from conftest import Start

from pypool import _orjson, _results
from pypool._wire import ResultError

orjson = pytest.importorskip("orjson")  # the runtime needs none, and not every Python has one

Pair = namedtuple("Pair", "a b")


class Color(enum.Enum):
    RED = "red"
    NAN = float("nan")
    MANY = (1, float("inf"))


class Level(enum.IntEnum):
    LOW = 1


class Titled(str, enum.Enum):
    A = ("short", "long label")

    def __new__(cls, value: str, label: str) -> Titled:
        self = str.__new__(cls, value)
        self._value_ = label
        return self


class Loud(str):
    def __str__(self) -> str:
        return "loud"


@dataclasses.dataclass
class Point:
    x: float
    y: Any = None


LEAVES: Tuple[Any, ...] = (
    None, True, False, 0, -1, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**400,
    0.0, -0.0, 0.1, 1e16, 1e-7, 5e-324, 1.7976931348623157e308, float("nan"), float("inf"), float("-inf"),
    "", "plain", "null", '"\\\n\x00\x7f', "é", "\u2028", "\U0001f600", "\ud800", "a\udfffb", Loud("quiet"),
    b"bytes", {1, 2}, 1j, object, decimal.Decimal("1.10"), datetime.date(2024, 2, 29), datetime.time(1, 2, 3),
    datetime.datetime(2024, 2, 29, 1, 2, 3, 4), datetime.datetime(1, 1, 1, tzinfo=datetime.timezone.utc), datetime.timedelta(1),
    uuid.UUID(int=7), Color.RED, Color.NAN, Color.MANY, Level.LOW, Titled.A, Pair(1, None), Point(1.5), Point(float("nan")),
)  # fmt: skip


def some(random: random.Random, depth: int) -> Any:
    kind = random.randrange(8) if depth else 7
    if kind > 4:
        return random.choice(LEAVES[: len(LEAVES) if random.random() < 0.3 else 22])
    many = [some(random, depth - 1) for _ in range(random.randrange(5))]
    if kind == 0:
        return tuple(many)
    if kind < 3:
        return many
    names = ("a", "b", "null", "é", "1", Loud("k")) if random.random() < 0.8 else (1, None, True, 1.5, "1", "null")
    pairs = [(random.choice(names), value) for value in many]
    return OrderedDict(pairs) if random.random() < 0.1 else dict(pairs)


def outcome(value: Any) -> Any:
    try:
        text = _results.encode(value)
    except ResultError as error:
        return error.kind, error.fields
    assert text.isascii()
    return repr(json.loads(text))


def both(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_results, "through_orjson", None)
    without = outcome(value)
    monkeypatch.setattr(_results, "through_orjson", _orjson.encoder(orjson))
    assert outcome(value) == without, value


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: ascii(leaf)[:30])
def test_each_kind_of_value(leaf: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (leaf, [leaf], {"k": leaf}, [None, {"k": (leaf,)}], ["null", leaf]):
        both(value, monkeypatch)


@pytest.mark.skipif(not hasattr(orjson, "Fragment"), reason="an older orjson")
@pytest.mark.parametrize("text", [b'{\n "a":1}', b"NaN", b'1}\n{"id":1,"success":true,"result":2'])
def test_fragments_of_json_are_refused(text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    both([orjson.Fragment(text)], monkeypatch)


def test_values_made_at_random(monkeypatch: pytest.MonkeyPatch) -> None:
    source = random.Random(20)
    for _ in range(4000):
        both(some(source, 4), monkeypatch)


def test_deep_and_endless(monkeypatch: pytest.MonkeyPatch) -> None:
    for depth in (200, 253, 254, 255, 300, 900):
        value: Any = None
        for _ in range(depth):
            value = [value]
        both(value, monkeypatch)
    endless: Any = []
    endless.append(endless)
    both(endless, monkeypatch)


def test_it_is_in_use(monkeypatch: pytest.MonkeyPatch, start: Start) -> None:
    fast = _orjson.encoder(orjson)
    assert fast({"a": [1, 2.5, "x", None]}) == '{"a":[1,2.5,"x",null]}'
    assert fast([float("nan")]) is None
    assert fast(["é"]) is None
    host = start(
        """
        import sys
        @command
        def used(): return sys.modules["pypool._results"].through_orjson is not None
        @command
        def later():
            import orjson
            return used()
        """
    )
    host.result("used")
    assert host.result("later") is True, "also when a handler imports it"
    assert host.result("used") is True
