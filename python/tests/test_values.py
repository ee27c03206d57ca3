"""Values: what results become, the rules of JSON, and thousands of random values against an oracle of its own."""

# Tables and workers' scripts have long lines.
# ruff: noqa: E501

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import enum
import ipaddress
import json
import math
import pathlib
import random
import sys
import uuid
from collections import ChainMap, Counter, OrderedDict, UserDict, defaultdict, deque
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

import pytest
from conftest import Start

from pypool import _convert, _forms, _results
from pypool._requests import parse_request
from pypool._results import encode
from pypool._wire import Packed, RequestError, ResultError

TESTDATA = pathlib.Path(__file__).resolve().parents[2] / "testdata"
SEEDS = (1, 2, 20261126)


def refusal(value: Any) -> Tuple[str, str]:
    with pytest.raises(ResultError) as error:
        encode(value)
    return error.value.fields["message"], error.value.fields["path"]


# ------------------------------------------------------------------------------------------------------- JSON's rules

RULES: List[Dict[str, Any]] = json.loads((TESTDATA / "json_rules.json").read_text("utf-8"))


def data_of(rule: Dict[str, Any]) -> bytes:
    if "hex" in rule:
        return bytes.fromhex(str(rule["hex"]))
    return str(rule["text"]).encode("utf-8") * int(rule.get("repeat", 1))


@pytest.mark.parametrize("rule", RULES, ids=[r["name"] for r in RULES])
def test_rules_of_json(rule: Dict[str, Any]) -> None:
    """As arguments of a line in the host's order, of one in another order, and of a line of several requests."""
    data = data_of(rule)
    assert rule["json"] == "either" or rule["python"] == (rule["json"] == "yes")
    for line in (
        b'{"id":7,"command":"f","args":%s}',
        b'{ "command" : "f" , "args" : %s , "id" : 7 }',
        b'{"packed":[7,%s],"command":"f"}',
    ):
        try:
            value = parsed(line.replace(b"%s", data))
        except RequestError as error:
            assert not rule["python"], (rule, str(error))
            assert error.kind in ("invalid_arguments", "invalid_request")
            continue
        assert rule["python"], (rule, value)
        if rule["json"] == "yes":
            assert same(value, json.loads(data))


def parsed(line: bytes) -> Any:
    try:
        return parse_request(line)[2]
    except Packed as packed:
        (request,) = packed.requests
        return parse_request(request)[2] if isinstance(request, bytes) else request[2]


def same(a: Any, b: Any) -> bool:
    """Equal JSON values, of the same types, with the sign of zero."""
    if type(a) is not type(b):
        return False
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return a == b and (not isinstance(a, float) or math.copysign(1, a) == math.copysign(1, b))


def test_deep_arguments_are_read_or_refused() -> None:
    for depth in (100, 900, 100_000):
        line = b'{"id":7,"command":"f","args":' + b"[" * depth + b"]" * depth + b"}"
        try:
            value = parse_request(line)[2]
        except RequestError as error:
            assert error.kind == "invalid_arguments" and "nested too deeply" in str(error) and depth > 900
            continue
        for _ in range(depth - 1):
            (value,) = value
        assert value == []


# ---------------------------------------------------------------------------------------------------------------- bytes


@pytest.mark.parametrize("order", ['{"id":7,"command":"f","args":%s,"bytes":%s}', '{"bytes":%s,"args":%s,"command":"f","id":7}'])
def test_bytes_in_a_line(order: str) -> None:
    def read(args: str, paths: str) -> Any:
        return parse_request((order % ((args, paths) if order.startswith('{"id"') else (paths, args))).encode())[2]

    assert read('{"a":"aGk=","b":["aGk=",{"":"/w=="}]}', '[["a"],["b",1,""]]') == {"a": b"hi", "b": ["aGk=", {"": b"\xff"}]}
    assert read('["aGk="]', "[[0]]") == [b"hi"]
    assert read('{"a":1}', '[["left out"]]') == {"a": 1}  # omitempty
    for args, paths in (
        ('{"a":1}', '[["a"]]'),
        ('["aGk="]', "[[1]]"),
        ('["aGk="]', "[[]]"),
        ('["a"]', "[[0]]"),
        ("null", '[["a"]]'),
        ("[1]", "[0]"),
    ):
        with pytest.raises(RequestError, match="'bytes' does not fit|not JSON") as error:
            read(args, paths)
        assert (error.value.kind, error.value.id) == ("invalid_arguments", 7)  # a value's own MarshalJSON may be the cause


def test_bytes_of_every_kind_are_results(start: Start) -> None:
    worker = start(
        """
        @command
        def f(): return [b"hi", bytearray(b"\\xff"), memoryview(b"hi")[::-1], {"a": [b""]}]
        @command
        def g(*a, **k): return [type(x).__name__ for x in (*a, *k.values())]
        """
    )
    for _ in range(2):
        assert worker.result("f") == ["aGk=", "/w==", "aWg=", {"a": [""]}]
        assert worker.result("g", ["aGk=", 1], bytes=[[0]]) == ["bytes", "int"]
        assert worker.result("g", {"x": "aGk="}, bytes=[["x"]], session_id="s") == ["bytes"]


# -------------------------------------------------------------------------------------------------------------- results


class Color(enum.Enum):
    RED = "red"
    TUPLE = (1, 2)


class Level(enum.IntEnum):
    LOW = 1


class Pair(NamedTuple):
    a: Any
    b: Any


@dataclasses.dataclass
class Point:
    x: Any
    y: Any = None


UTC = datetime.timezone.utc
EAST = datetime.timezone(datetime.timedelta(hours=5, minutes=30))


def leaf(r: random.Random) -> Tuple[Any, Any]:
    """A value, and what it is in JSON: written by hand for each type."""
    n = r.choice([0, 1, -1, 7, 2**31, 2**53 + 1, -(2**63), 2**64, 10**30])
    text = "".join(r.choice('aZ "\\/\n\x00\x7f\u00e9\u2028\ud7ff\ue000\U0001f600') for _ in range(r.randrange(5)))
    f = r.choice([0.0, -0.0, 0.1, 1e300, 5e-324, 150.0, r.random() * 10 ** r.randrange(-20, 20)])
    data = bytes(r.randrange(256) for _ in range(r.randrange(5)))
    us = r.randrange(-(10**15), 10**15)
    choices: List[Tuple[Any, Any]] = [
        (None, None),
        (True, True),
        (False, False),
        (n, n),
        (text, text),
        (f, f),
        (data, base64.b64encode(data).decode()),
        (bytearray(data), base64.b64encode(data).decode()),
        (memoryview(data), base64.b64encode(data).decode()),
        (datetime.timedelta(microseconds=us), us * 1000),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (datetime.datetime(2026, 1, 2, 3, 4, 5, 6, UTC), "2026-01-02T03:04:05.000006+00:00"),
        (datetime.datetime(2026, 1, 2, 3, 4, 5, 0, EAST), "2026-01-02T03:04:05+05:30"),
        (datetime.datetime(1, 1, 1), "0001-01-01T00:00:00"),
        (datetime.time(3, 4, 5), "03:04:05"),
        (uuid.UUID(int=n % 2**128), str(uuid.UUID(int=n % 2**128))),
        (decimal.Decimal("1.10"), "1.10"),
        (decimal.Decimal("100000000000000000.01"), "100000000000000000.01"),
        (pathlib.PurePosixPath("/a/b"), "/a/b"),
        (ipaddress.ip_address("127.0.0.1"), "127.0.0.1"),
        (ipaddress.ip_network("::/64"), "::/64"),
        (Color.RED, "red"),
        (Color.TUPLE, [1, 2]),
        (Level.LOW, 1),
    ]
    return r.choice(choices)


def nested(r: random.Random, depth: int) -> Tuple[Any, Any]:
    if depth == 0 or r.random() < 0.3:
        return leaf(r)
    inside = [nested(r, depth - 1) for _ in range(r.randrange(4))]
    values, plain = [v for v, _ in inside], [p for _, p in inside]
    keys = ['k%d\u00e9"' % i for i in range(len(inside))]
    made: List[Tuple[Callable[[], Any], Any]] = [
        (lambda: values, plain),
        (lambda: tuple(values), plain),
        (lambda: deque(values), plain),
        (lambda: dict(zip(keys, values)), dict(zip(keys, plain))),
        (lambda: OrderedDict(zip(keys, values)), dict(zip(keys, plain))),
        (lambda: defaultdict(list, zip(keys, values)), dict(zip(keys, plain))),
        (lambda: UserDict(zip(keys, values)), dict(zip(keys, plain))),
        (lambda: ChainMap(dict(zip(keys, values))), dict(zip(keys, plain))),
        (lambda: Point(values), {"x": plain, "y": None}),
        (lambda: Pair(values, 1), [plain, 1]),
    ]
    make, shown = r.choice(made)
    return make(), shown


@pytest.mark.parametrize("seed", SEEDS)
def test_random_results(seed: int) -> None:
    """In the worker's two ways to encode, and as they come back through the parser of requests."""
    r = random.Random(seed)
    ways: List[Any] = [None]
    try:
        import orjson

        from pypool import _orjson

        ways.append(_orjson.encoder(orjson))
    except ImportError:
        pass  # not for every Python
    kept = _results.through_orjson
    try:
        for _ in range(2500):
            value, plain = nested(r, 4)
            for way in ways:
                _results.through_orjson = way
                text = encode(value)
                assert text.isascii()
                assert same(json.loads(text), plain), (seed, value)
                assert same(parsed(b'{"id":7,"command":"f","args":[%s]}' % text.encode()), [plain]), (seed, value)
                assert same(_convert.without_nan(plain), plain)
    finally:
        _results.through_orjson = kept


def test_numbers_keep_their_text_where_asked() -> None:
    value, end = _forms.scan_exactly('{"a":[1.10,2,1e5,-0.0]}', 0)
    assert end == 23 and [getattr(n, "text", None) for n in value["a"]] == ["1.10", None, "1e5", "-0.0"]
    assert value["a"] == [1.1, 2, 1e5, -0.0]


@pytest.mark.parametrize(
    "value, plain",
    [
        (range(3), [0, 1, 2]),
        (Counter("aab"), {"a": 2, "b": 1}),
        ({"d": datetime.timedelta(days=-1, microseconds=1)}, {"d": -86_399_999_999_000}),
        ({"d": datetime.timedelta.max}, {"d": 86_399_999_999_999_999_999_000}),
    ],
)
def test_results_of_the_standard_library(value: Any, plain: Any) -> None:
    assert json.loads(encode(value)) == plain


def test_keys_by_the_hint_of_the_result(start: Start) -> None:
    worker = start(
        """
        import dataclasses, datetime, enum, typing, uuid
        class Level(enum.IntEnum):
            LOW = 1
        @dataclasses.dataclass
        class Report:
            by: typing.Dict[int, float]
            name: str = "r"
        @command
        def ints() -> typing.Dict[int, typing.Dict[Level, str]]: return {1: {Level.LOW: "x"}, -2: {}}
        @command
        def days() -> typing.List[typing.Dict[datetime.date, int]]: return [{datetime.date(2026, 1, 2): 1}]
        @command
        def pairs() -> "typing.Dict[typing.Tuple[int, str], int]": return {(1, "a"): 1}
        @command
        def report() -> typing.Optional[Report]: return Report({1: 2.0})
        @command
        def reports() -> typing.Iterator[Report]: yield Report({1: 2.0})
        @command
        async def later() -> typing.Dict[int, int]: return {1: 1}
        @command
        def twice() -> typing.Dict[typing.Union[int, str], int]: return {1: 1, "1": 2}
        @command
        def wrong() -> typing.Dict[int, int]: return {None: 1}
        @command
        def unsaid(): return {1: 1}
        @program("p")
        def p() -> typing.Dict[uuid.UUID, int]: return {uuid.UUID(int=1): 1}
        """
    )
    for _ in range(2):
        assert worker.result("ints") == {"1": {"1": "x"}, "-2": {}}
        assert worker.result("days") == [{"2026-01-02": 1}]
        assert worker.result("pairs") == {'[1,"a"]': 1}
        assert worker.result("report") == {"by": {"1": 2.0}, "name": "r"}
        assert worker.stream("reports")[0]["item"] == {"by": {"1": 2.0}, "name": "r"}
        assert worker.result("later") == {"1": 1}
        assert worker.result("execute_program", {"program_id": "p"}) == {"00000000-0000-0000-0000-000000000001": 1}
        assert "two keys are '1'" in worker.error("twice")["message"]
        assert "key None is not a string" in worker.error("wrong")["message"]
        assert "key 1 is not a string" in worker.error("unsaid")["message"]


# ------------------------------------------------------------------------------------------------------------------ NaN

MISSING = """
    import dataclasses, decimal, math, typing
    @dataclasses.dataclass
    class Row:
        score: float
    NAN = float("nan")
    def values():
        return {"a": [NAN, float("inf"), -math.inf, 1.5, "nan", None], "row": Row(NAN), "d": decimal.Decimal("NaN"), "by": (NAN,)}
    NULLED = {"a": [None, None, None, 1.5, "nan", None], "row": {"score": None}, "d": None, "by": [None]}
    @command(nan="null")
    def nulled(): return values()
    @command
    def refused(): return values()
    @command(nan="null")
    def items():
        yield NAN
        yield [NAN]
    @command(nan="null")
    async def later() -> typing.Dict[int, float]: return {1: NAN}
    @program("p", nan="null")
    class Program:
        def __call__(self): return [NAN]
    @command(nan="null")
    def still_refused(): return {"a": NAN, "b": {"c": object()}}
    @command
    def wrong():
        try: command(nan="zero")
        except ValueError as error: return str(error)
"""


def test_a_dataclass_derived_from_one_of_pydantics_has_all_its_fields(start: Start) -> None:
    pytest.importorskip("pydantic", minversion="2")
    host = start(
        """
        import dataclasses, datetime, pydantic, pydantic.dataclasses
        from typing import Dict
        @pydantic.dataclasses.dataclass
        class A:
            x: int
        @dataclasses.dataclass
        class B(A):
            y: int = 2
            left: datetime.timedelta = datetime.timedelta(seconds=1)
            keys: Dict[tuple, int] = dataclasses.field(default_factory=dict)
        @pydantic.dataclasses.dataclass
        class C(B):
            z: int = 3
        class D(C): pass
        class M(pydantic.BaseModel):
            b: B
        @command
        def b(x: B = None) -> B: return x or B(x=1, y=5, keys={(1, 2): 3})
        @command
        def plain(): return [A(x=1), B(x=1, y=5), D(x=1), M(b=B(x=1, y=5))]
        @command
        def c(x: C) -> D: return x
        """
    )
    assert host.result("b") == {"x": 1, "y": 5, "left": 10**9, "keys": {"[1,2]": 3}}
    assert host.result("b", {"x": {"x": 1, "y": 7}}) == {"x": 1, "y": 7, "left": 10**9, "keys": {}}
    rest = {"left": "PT1S", "keys": {}}
    assert host.result("plain") == [
        {"x": 1},
        {"x": 1, "y": 5, "left": 10**9, "keys": {}},
        {"x": 1, "y": 2, "z": 3, **rest},
        {"b": {"x": 1, "y": 5, **rest}},
    ]
    assert host.result("c", [{"x": 1, "z": 4}]) == {"x": 1, "y": 2, "z": 4, **rest}
    told = {entry["name"]: entry["schema"] for entry in host.result("list_commands", {"schema": True})}
    fields = {field["name"]: field["type"]["type"] for field in told["b"]["output_types"]["worker.B"]["fields"]}
    assert fields == {"x": "integer", "y": "integer", "left": "duration", "keys": "map"}


def test_an_array_of_msgspec_has_each_field_in_its_place() -> None:
    """Whatever omit_defaults says, which is of objects; nothing stands for UNSET in an array."""
    msgspec = pytest.importorskip("msgspec", reason="not for every Python")
    space: Dict[str, Any] = {"msgspec": msgspec}
    exec(
        "class P(msgspec.Struct, array_like=True, omit_defaults=True):\n    a: int = 0\n    b: int = 0\n    c: list = []\n"
        "class T(P, tag='t', omit_defaults=True):\n    d: object = msgspec.UNSET\n"
        "class O(msgspec.Struct, omit_defaults=True):\n    a: int = 0\n    b: object = msgspec.UNSET\n    c: int = 0\n",
        space,
    )
    for made in ("P(b=5)", "P()", "T(1, 0, [2], 'x')", "T(d=None)", "O(c=5)", "O()"):
        value = eval(made, space)
        assert json.loads(encode(value)) == json.loads(msgspec.json.encode(value)), made
    for made in ("T()", "T(1, 2, [], msgspec.UNSET)"):
        with pytest.raises(TypeError, match="UnsetType"):
            msgspec.json.encode(eval(made, space))
        assert "UnsetType" in refusal(eval(made, space))[0]


def test_an_object_that_answers_to_any_name_is_a_value(start: Start) -> None:
    """Whether something is to be awaited, or gives items, its class says, as Python itself asks."""
    worker = start(
        """
        from pypool import health
        class dotdict(dict):
            __getattr__ = dict.get
        @setup
        def prepare(): return dotdict(a=1)
        @health
        def well(): return dotdict(a=1)
        @command
        def plain(): return dotdict(a=1)
        @command
        async def later(): return dotdict(a=1)
        @command
        def rows(): yield dotdict(a=1)
        @command(concurrency=2)
        async def beside(): return dotdict(a=1)
        @command(max_batch_size=2)
        def batch(x: list) -> list: return [dotdict(a=1) for _ in x]
        @program("run")
        def run(): return dotdict(a=1)
        class Answers(dotdict):
            __getattr__ = lambda self, name: len
        @command
        def called(): return Answers(a=1)
        """,
        capabilities=["stream", "log", "packed", "batch", "shared", "cancel"],
    )
    for _ in range(3):
        assert worker.result("ping")["status"] == "ok"
        for name in ("plain", "later", "beside", "called"):
            assert worker.result(name) == {"a": 1}, name
            assert [frame.get("item") for frame in worker.stream(name)] == [{"a": 1}, None]
        assert [frame.get("item") for frame in worker.stream("rows")] == [{"a": 1}, None]
        assert worker.result("batch", [1]) == {"a": 1}
        assert worker.result("execute_program", {"program_id": "run", "inputs": {}}) == {"a": 1}
        for more in ({}, {"stream": True}):
            request = worker.request("beside", **more)
            worker.send({"shared": request})
            if more:
                worker.send({"id": request["id"], "credit": 2})
            frame = worker.receive()
            assert frame.get("item", frame.get("result")) == {"a": 1}, frame
            if more:
                assert worker.receive()["success"]
        worker.send({"batch": [worker.request("batch", [one]) for one in (1, 2)]})
        assert [worker.receive()["result"] for _ in range(2)] == [{"a": 1}] * 2


def test_nan_is_refused_or_null(start: Start) -> None:
    worker = start(MISSING)
    wanted = {"a": [None, None, None, 1.5, "nan", None], "row": {"score": None}, "d": None, "by": [None]}
    for _ in range(2):
        assert worker.result("nulled") == wanted
        assert worker.error("refused")["path"] == "$.a[0]"
        assert [frame.get("item", "end") for frame in worker.stream("items")] == [None, [None], "end"]
        assert worker.result("later") == {"1": None}
        assert worker.result("execute_program", {"program_id": "p"}) == [None]
        assert worker.error("still_refused")["kind"] == "invalid_result"
    assert 'nan is "null", or left out' in worker.result("wrong")


# ------------------------------------------------------------------------------------------------------ numpy and pandas


def test_numpy_times() -> None:
    np: Any = pytest.importorskip("numpy", reason="not for every Python")
    for value, wanted in (
        (np.datetime64("2026-01-02T03:04:05.123456789", "ns"), "2026-01-02T03:04:05.123456789"),
        (np.datetime64("2026-01-02T03:04:05.123456", "us"), "2026-01-02T03:04:05.123456"),
        (np.datetime64("2026-01-02T03:04:05.123", "ms"), "2026-01-02T03:04:05.123"),
        (np.datetime64("2026-01-02T03:04:05", "s"), "2026-01-02T03:04:05"),
        (np.datetime64("2026-01-02T03:04", "m"), "2026-01-02T03:04:00"),
        (np.datetime64("2026-01-02T03", "h"), "2026-01-02T03:00:00"),
        (np.datetime64("2026-01-02", "D"), "2026-01-02"),
        (np.datetime64("2026-01-01", "W"), "2026-01-01"),
        (np.datetime64("2026-02", "M"), "2026-02-01"),
        (np.datetime64("2026", "Y"), "2026-01-01"),
        (np.datetime64("1970-01-02T03:04:05.123456789012", "ps"), "1970-01-02T03:04:05.123456789012"),
        (
            np.array(["2026-01-02", "1969-12-31"], "datetime64[ns]"),
            ["2026-01-02T00:00:00.000000000", "1969-12-31T00:00:00.000000000"],
        ),
        (np.array([["2026"]], "datetime64[Y]"), [["2026-01-01"]]),
        (np.array([], "datetime64[D]"), []),
        (np.timedelta64(5, "ns"), 5),
        (np.timedelta64(-3, "us"), -3000),
        (np.timedelta64(2, "W"), 2 * 7 * 86400 * 10**9),
        (np.timedelta64(10**12, "D"), 10**12 * 86400 * 10**9),
        (np.timedelta64(7000, "ps"), 7),
        (np.array([[1, 2]], "timedelta64[s]"), [[10**9, 2 * 10**9]]),
        (np.float32(1.5), 1.5),
        (np.float64(-0.0), -0.0),
        (np.bool_(True), True),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (np.str_("a"), "a"),
        (np.bytes_(b"hi"), "aGk="),
        (np.array([b"hi"]), ["aGk="]),
        (np.array(7), 7),
        (np.array([1, None, "x", np.float32(1.5), datetime.date(2026, 1, 2)], object), [1, None, "x", 1.5, "2026-01-02"]),
    ):
        assert same(json.loads(encode([value])), [wanted]), value
        assert same(json.loads(encode(Point(value))), {"x": wanted, "y": None}), value
    for value, words in (
        (np.datetime64("NaT", "s"), 'NaT is not JSON: put None in its place, or use @command(nan="null")'),
        (np.timedelta64("NaT", "s"), "NaT is not JSON"),
        (np.array(["2026-01-02", "NaT"], "datetime64[D]"), "NaT is not JSON"),
        (np.array([np.timedelta64(1, "s"), np.timedelta64("NaT", "s")]), "NaT is not JSON"),
        (np.timedelta64(1, "Y"), "in units of years has no length"),
        (np.timedelta64(1, "M"), "in units of months has no length"),
        (np.timedelta64(1, "ps"), "has parts of a nanosecond"),
        (np.complex128(1j), "[z.real, z.imag]"),
        (np.array([1.0, np.nan]), "nan is not JSON"),
        (np.float32("nan"), "nan is not JSON"),
    ):
        assert words in refusal({"a": value})[0], value
    assert _convert.without_nan(
        [np.datetime64("NaT", "s"), np.array([np.nan, 1.0]), np.array(["NaT"], "datetime64[D]"), np.float32("inf")]
    ) == [
        None,
        [None, 1.0],
        [None],
        None,
    ]


def test_a_structure_of_numpys_is_a_list_of_its_fields_each_by_its_own_rule() -> None:
    np: Any = pytest.importorskip("numpy", reason="not for every Python")
    at = np.datetime64("2026-01-02T03:04:05", "ns")
    inner = [("at", "M8[s]"), ("took", "m8[ms]")]
    kinds = [("at", "M8[ns]"), ("took", "m8[us]", (2,)), ("in", inner), ("data", "S2"), ("any", object), ("x", "f4")]
    some = np.array([(at, (1, 2), ("2026-01-02", 3), b"hi", at, 1.5)] * 2, kinds)
    text = "2026-01-02T03:04:05.000000000"
    held = np.empty(1, object)
    held[0] = some[0]
    row = [text, [1000, 2000], ["2026-01-02T00:00:00", 3_000_000], "aGk=", text, 1.5]
    for value, wanted in (
        (some, [row, row]),
        (some[0], row),
        (some.reshape(2, 1), [[row], [row]]),
        (some[:1].reshape(()), row),
        (some[:0], []),
        (some.view(np.recarray), [row, row]),
        (some.view(np.recarray)[0], row),
        (some["in"], [row[2], row[2]]),
        (np.ma.array(some, mask=[(False,) * 6, (True,) * 6])[["at", "x"]], [[text, 1.5], [None, None]]),
        (np.ma.array(some, mask=[(True,) * 6, (False,) * 6])[["at", "x"]][0], [None, None]),
        (held, [row]),
        (np.void(b"hi"), "aGk="),
    ):
        assert same(json.loads(encode([value])), [wanted]), value
    for kind, value, words in (
        ("M8[ns]", "NaT", "NaT is not JSON: put None in its place"),
        ("m8[s]", "NaT", "NaT is not JSON"),
        ("m8[ps]", 3, "has parts of a nanosecond"),
        ("m8[Y]", 5, "in units of years has no length"),
        ("f8", "nan", "nan is not JSON"),
        ("O", math.nan, "nan is not JSON"),
        ("c16", 1j, "[z.real, z.imag]"),
    ):
        nested = np.array([((value,),)], [("a", [("b", kind)])])
        several = np.array([([value],)], [("a", kind, (1,))])
        for one in (np.array([(value,)], [("a", kind)]), nested, several):
            assert words in refusal(one)[0] and words in refusal(one[0])[0], one
        if value in ("NaT", "nan"):
            assert _convert.without_nan([nested, several[0]]) == [[[[None]]], [[None]]]


def test_pandas_values() -> None:
    pd: Any = pytest.importorskip("pandas", reason="not for every Python")
    for value, wanted in (
        (pd.Timestamp("2026-01-02T03:04:05.123456789Z"), "2026-01-02T03:04:05.123456789+00:00"),
        (pd.Timestamp("2026-01-02"), "2026-01-02T00:00:00"),
        (pd.Timestamp("2026-07-02", tz="Europe/Berlin"), "2026-07-02T00:00:00+02:00"),
        (pd.Timedelta(5, unit="ns"), 5),
        (pd.Timedelta(-1, unit="D") + pd.Timedelta(1, unit="us"), -86_399_999_999_000),
        (pd.Period("2026-01"), "2026-01"),
        (pd.Period("2026Q1"), "2026Q1"),
        (pd.DataFrame({"a": [1, 2]}).to_dict("records"), [{"a": 1}, {"a": 2}]),
        (pd.Series(["2026-01-02"], dtype="datetime64[ns]").tolist(), ["2026-01-02T00:00:00"]),
        (
            pd.DataFrame({"t": pd.to_datetime(["2026-01-02"]).astype("M8[ns]")}).to_records(),
            [[0, "2026-01-02T00:00:00.000000000"]],
        ),
    ):
        assert same(json.loads(encode([value])), [wanted]), value
    for value in (pd.NaT, pd.NA):
        message, path = refusal({"rows": [{"at": value}]})
        assert 'put None in its place, or use @command(nan="null")' in message and path == "$.rows[0].at"
    rows = pd.DataFrame({"a": [1.0, None], "t": pd.to_datetime(["2026-01-02", None])}).to_dict("records")
    rows.append({"a": pd.NA, "t": pd.NaT})
    assert _convert.without_nan(rows) == [{"a": 1.0, "t": "2026-01-02T00:00:00"}, {"a": None, "t": None}, {"a": None, "t": None}]
    for value, words in (
        (
            pd.DataFrame(),
            'DataFrame is not JSON: return df.to_dict("records"), or df.to_dict("list") by columns, '
            'or df.to_dict("split") where the columns have no text for names; or have Go ask for a pypoolarrow.Table',
        ),
        (pd.Series([1]), "Series is not JSON: return series.tolist()"),
        (pd.Index([1]), "return index.tolist()"),
        (pd.date_range("2026-01-02", periods=2), "return index.tolist()"),
        (pd.Categorical(["a"]), "return categorical.tolist()"),
        (pd.Interval(0, 1), "[interval.left, interval.right]"),
    ):
        assert words in refusal(value)[0]


def test_advice_for_what_is_not_json() -> None:
    class Fake:
        pass

    Fake.__module__ = "torch"
    Fake.__name__ = Fake.__qualname__ = "Tensor"
    assert refusal(Fake())[0] == "Tensor is not JSON: return tensor.tolist()"  # torch is too large for a test
    Fake.__module__, Fake.__name__ = "polars.dataframe.frame", "DataFrame"
    assert "return df.to_dicts()" in refusal(Fake())[0]
    import re
    from types import SimpleNamespace

    for value, words in (
        ({1}, "set is not JSON: return sorted(...) or list(...)"),
        (frozenset(), "return sorted(...) or list(...)"),
        (1j, "return [z.real, z.imag]"),
        ({}.keys(), "return list(...)"),
        (re.compile("x"), "return pattern.pattern"),
        (SimpleNamespace(a=1), "return vars(value)"),
        (iter([]), "make the command itself a generator, or return list(...)"),
        (len, "call it, and return what it gives"),
        (Point, "return its __name__"),
        (type("Mine", (), {})(), "make its class a dataclass, or return a dict of what is needed"),
    ):
        message, _ = refusal([value])
        assert words in message, message


def test_python_to_go_to_python_through_a_worker(start: Start) -> None:
    """What a command returned, given to it again as arguments with the same hints, is what it was."""
    worker = start(
        """
        import dataclasses, datetime, decimal, enum, random, typing, uuid
        class Color(enum.Enum):
            RED = "red"
        @dataclasses.dataclass
        class Row:
            at: datetime.datetime
            took: datetime.timedelta
            price: decimal.Decimal
            score: float
            color: Color
            by: typing.Dict[int, typing.Optional[float]]
            inner: typing.List["Row"]
        def some(r, depth):
            return Row(datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc) + datetime.timedelta(microseconds=r.randrange(10**15)),
                datetime.timedelta(microseconds=r.randrange(-10**15, 10**15)), decimal.Decimal(r.randrange(10**30)).scaleb(-r.randrange(25)),
                r.choice([0.0, -0.0, 5.0, r.random(), 1e300]), Color.RED,
                {r.randrange(-9, 9): r.choice([None, 1.0, r.random()]) for _ in range(3)}, [some(r, depth - 1) for _ in range(r.randrange(3) if depth else 0)])
        @command
        def make(seed: int) -> typing.List[Row]:
            r = random.Random(seed)
            return [some(r, 3) for _ in range(100)]
        @command
        def check(seed: int, rows: typing.List[Row]) -> typing.List[Row]:
            r = random.Random(seed)
            wanted = [some(r, 3) for _ in range(100)]
            assert repr(rows) == repr(wanted)
            return rows
        """
    )
    for seed in SEEDS:
        rows = worker.result("make", [seed])
        assert worker.result("check", {"seed": seed, "rows": rows}) == rows


@pytest.mark.skipif(sys.version_info < (3, 9), reason="zoneinfo is new in Python 3.9")
def test_time_zones() -> None:
    zoneinfo: Any = pytest.importorskip("zoneinfo")
    try:
        zone = zoneinfo.ZoneInfo("Europe/Berlin")
    except zoneinfo.ZoneInfoNotFoundError:
        zone = zoneinfo.ZoneInfo("UTC")
    assert json.loads(encode([zone])) == [str(zone)]
