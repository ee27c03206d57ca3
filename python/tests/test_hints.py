"""Every hint in every place: what arrives, what goes back, what is refused, and that the schema says the same.

The rows are testdata/hints.json, from which the Go tests of pypoolgen take the Go types. In "json", a text that begins with @ is
bytes in base64; a "back" that begins with ! is the beginning of a refusal.
"""
# The sources of the classes are long lines.
# ruff: noqa: E501

from __future__ import annotations

import base64
import datetime
import json
import os
import sys
import types
from pathlib import Path
from typing import Any, Callable, Dict, List, NewType, Tuple, TypeVar, Union

import pytest
from conftest import Start

from pypool import _bind, _schema
from pypool._commands import Command
from pypool._forms import scan_exactly
from pypool._json import scan
from pypool._results import encode
from pypool._wire import BindError, ResultError

TABLE = json.loads((Path(__file__).resolve().parents[2] / "testdata" / "hints.json").read_text("utf-8"))
ROWS: List[Dict[str, Any]] = TABLE["rows"]

module: Any = types.ModuleType("hinted")
sys.modules["hinted"] = module
exec(TABLE["source"], vars(module))


def define(source: str) -> Callable[..., Any]:
    space: Dict[str, Any] = vars(module)
    exec(source, space)
    function: Callable[..., Any] = space.pop("f")
    return function


def marked(value: Any) -> Any:
    """What the wire has of bytes: `@` and base64 in the table."""
    if isinstance(value, str) and value.startswith("@"):
        return base64.b64decode(value[1:])
    if isinstance(value, list):
        return [marked(item) for item in value]
    return {key: marked(item) for key, item in value.items()} if isinstance(value, dict) else value


def arrives(function: Any, text: str, name: str = "x") -> Any:
    """What the handler gets for JSON as its argument, by name and by position, as the command's first call and later."""
    entry = Command("f", "command", function)
    read = scan_exactly if _bind.exact(entry) else scan
    values = []
    for form in ('{"%s":%s}' % (name, text), "[%s]" % text):
        args = marked(read(form, 0)[0])
        positional, keyword = _bind.bind(entry, args)
        values.append(function(*positional, **keyword))
        if entry.direct is not None:
            args = marked(read(form, 0)[0])
            values.append(entry.direct(**args) if isinstance(args, dict) else entry.direct(*args))
    for value in values[1:]:
        assert same(value, values[0]), (value, values[0])
    return values[0]


def same(a: Any, b: Any) -> bool:
    """Equal, and of the same types at any depth."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)) or type(a).__name__ == "deque":
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(x, y) and same(a[x], b[y]) for x, y in zip(a, b))
    if isinstance(a, (set, frozenset)):
        return a == b and {type(x) for x in a} == {type(x) for x in b}
    if hasattr(a, "__dataclass_fields__"):
        return all(same(getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__)
    return str(a) == str(b) if isinstance(a, float) else bool(a == b)


def of(kind: str, *inner: Any) -> Dict[str, Any]:
    return {"type": kind, "of": list(inner)}


def optional(inner: Any) -> Any:
    return inner if inner["type"] in ("optional", "any") else of("optional", inner)


#: A place for a hint: the hint there, how its JSON and its value stand there, and its type.
PLACES: List[Tuple[str, str, str, Callable[[Any], Any], Callable[[Any], Any]]] = [
    ("by itself", "%s", "%s", lambda v: v, lambda t: t),
    ("Optional", "Optional[%s]", "%s", lambda v: v, optional),
    ("List", "List[%s]", "[%s,%s]", lambda v: [v, v], lambda t: of("array", t)),
    ("Dict", "Dict[str, %s]", '{"k":%s}', lambda v: {"k": v}, lambda t: of("map", t)),
    ("Tuple", "Tuple[%s, ...]", "[%s]", lambda v: (v,), lambda t: of("array", t)),
    ("fixed Tuple", "Tuple[int, %s]", "[1,%s]", lambda v: (1, v), lambda t: of("tuple", {"type": "integer"}, t)),
    ("List of Dict", "List[Dict[str, %s]]", '[{"k":%s}]', lambda v: [{"k": v}], lambda t: of("array", of("map", t))),
    ("Generic", "Page[%s]", '{"items":[%s]}', lambda v: module.Page([v]), lambda t: {"type": "ref"}),
]


def hint_in(place: str, hint: str) -> str:
    return place.replace("%s", hint)


@pytest.mark.parametrize("place", PLACES, ids=[p[0] for p in PLACES])
@pytest.mark.parametrize("row", ROWS, ids=["%s %s" % (r["hint"], r["json"]) for r in ROWS])
def test_product(row: Dict[str, Any], place: Any) -> None:
    _, hint, text, value, kind = place
    function = define("def f(x: %s) -> %s:\n    return x\n" % ((hint_in(hint, row["hint"]),) * 2))
    if row["json"] == "null" and place[0] == "Optional":
        assert arrives(function, "null") is None
        return
    wanted = value(eval(row["python"], vars(module)))
    got = arrives(function, text.replace("%s", row["json"]))
    assert same(got, wanted), (got, wanted)

    entry = Command("f", "command", function)
    change = _bind.outgoing(entry)
    back = row.get("back", row["json"])
    if back.startswith("!"):
        with pytest.raises(ResultError) as refusal:
            encode(change(got) if change else got)
        assert refusal.value.fields["message"].startswith(back[1:])
    else:
        assert json.loads(encode(change(got) if change else got)) == json.loads(text.replace("%s", back))

    schema = _schema.schema(entry)
    found, expected = schema["params"][0]["type"], kind(row["type"])
    assert {"type": found["type"]} == expected if expected == {"type": "ref"} else found == expected
    if place[0] == "by itself":
        assert schema["returns"] == row.get("result", row["type"])

    for bad in row.get("refused", ()):
        if bad == "null" and place[0] == "Optional":
            continue
        with pytest.raises(BindError) as error:
            arrives(function, text.replace("%s", bad))
        assert "expected " in str(error.value) and "signature: f(x: " in str(error.value)


HOLDERS = {
    "dataclass": "@dataclasses.dataclass\nclass H:\n    x: %s\n",
    "dataclass, quoted": "@dataclasses.dataclass\nclass H:\n    x: %r\n",
    "InitVar": "@dataclasses.dataclass\nclass H:\n    x: dataclasses.InitVar[%s]\n    def __post_init__(self, x): self.x = x\n",
    "NamedTuple": "class H(NamedTuple):\n    x: %s\n",
    "TypedDict": "class H(TypedDict):\n    x: %s\n",
}


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("row", ROWS, ids=["%s %s" % (r["hint"], r["json"]) for r in ROWS])
def test_fields(row: Dict[str, Any], holder: str) -> None:
    function = define(HOLDERS[holder] % row["hint"] + "def f(x: H): return x\n")
    made = arrives(function, '{"x":%s}' % row["json"])
    got = made["x"] if isinstance(made, dict) else made.x
    assert same(got, eval(row["python"], vars(module)))
    fields = _schema.schema(Command("f", "command", function))["input_types"]["hinted.H"]["fields"]
    assert [field["type"] for field in fields] == [row["type"]]


def test_parameters_of_every_kind() -> None:
    function = define(
        "def f(a: float, /, b: float = 1, *c: float, d: float = None, **e: datetime.date):\n    return [a, b, c, d, e]\n"
    )
    entry = Command("f", "command", function)
    positional, keyword = _bind.bind(entry, [1, 2, 3, 4])
    assert entry.direct is not None
    for result in (function(*positional, **keyword), entry.direct(1, 2, 3, 4)):
        assert repr(result) == "[1.0, 2.0, (3.0, 4.0), None, {}]"
    function = define("def f(b: float = 1, *, d: float = None, **e: datetime.date): return [b, d, e]\n")
    entry = Command("f", "command", function)
    for _ in range(2):
        positional, keyword = _bind.bind(entry, {"b": 1, "d": None, "x": "2026-01-02"})
        assert repr(function(*positional, **keyword)) == "[1.0, None, {'x': datetime.date(2026, 1, 2)}]"
        assert entry.direct is not None
        assert repr(entry.direct(b=1, d=2, x="2026-01-02")) == "[1.0, 2.0, {'x': datetime.date(2026, 1, 2)}]"
    assert entry.direct is not None
    with pytest.raises(BindError, match="'x': expected date"):
        entry.direct(x="?")


def test_plain_hints_are_not_looked_at() -> None:
    function = define("def f(x: int, y: 'Optional[str]' = None, z: Any = 1): return [x, y, z]\n")
    entry = Command("f", "command", function)
    assert _bind.bind(entry, {"x": "not an int"}) == ((), {"x": "not an int"})
    assert entry.direct is function and entry.adapt is None


def test_negative_zero_is_a_float(start: Start) -> None:
    worker = start("@command\ndef f(x: float): return str(x)\n")
    assert worker.result("f", [-0.0]) == "-0.0"


def test_integers_that_stand_for_floats() -> None:
    function = define("def f(x: float): return x\n")
    for number in (2.0**53, 2.0**64, 1.2345678901234567e20, 9.007199254740993e17, 1e20, 123456789012345680000.0, -(2.0**63)):
        for text in (
            repr(number),
            "%d" % number,
            "%d" % int(module.Decimal(repr(number))),
        ):  # the last is what Go writes below 1e21
            assert arrives(function, text) == number
    for text in (str(2**53 + 1), str(2**63 - 1), "1" + "0" * 400):
        with pytest.raises(BindError, match="a float would round it"):
            arrives(function, text)


# ------------------------------------------------------------------------------------------------------------- classes


def test_one_unresolvable_hint_does_not_spoil_a_class() -> None:
    function = define(
        "@dataclasses.dataclass\nclass Holder:\n    a: 'Nowhere'\n    b: 'datetime.date'\n"
        "    c: 'List[Nowhere]' = None\n    d: 'float' = 1\n"
        "def f(x: Holder, y: 'Nowhere' = 1): return [x.a, x.b, x.c, x.d, y]\n"
    )
    got = arrives(function, '{"a":1,"b":"2026-01-02","c":[2],"d":3}')
    assert got == [1, module.datetime.date(2026, 1, 2), [2], 3.0, 1] and type(got[3]) is float


FIELD_NAMED_LIKE_ITS_TYPE = {
    "NamedTuple": "class E(NamedTuple):\n    name: str\n    date: date\n",
    "TypedDict": "class E(TypedDict):\n    date: date\n",
    "dataclass": "@dataclasses.dataclass\nclass E:\n    date: date\n",
    "dataclass, default": "@dataclasses.dataclass\nclass E:\n    date: Optional[date] = None\n",
    "dataclass, base": "@dataclasses.dataclass\nclass B:\n    date: Optional[date] = None\n"
    "@dataclasses.dataclass\nclass E(B):\n    other: Optional[date] = None\n",
    "dataclass, slots": "@dataclasses.dataclass(slots=True)\nclass E:\n    date: Optional[date] = None\n",
    "attrs": "import attrs\n@attrs.define\nclass E:\n    date: date\n",
    "attrs, default": "import attrs\n@attrs.define\nclass E:\n    date: Optional[date] = None\n",
    "method": "@dataclasses.dataclass\nclass E:\n    when: date\n    @property\n    def date(self): return self.when\n",
    "module": "class E(NamedTuple):\n    datetime: int\n    date: datetime.date\n",
}
TEXTS = {
    "method": '{"when":"2026-01-02"}',
    "NamedTuple": '{"name":"a","date":"2026-01-02"}',
    "module": '{"datetime":1,"date":"2026-01-02"}',
}


@pytest.mark.parametrize("holder", FIELD_NAMED_LIKE_ITS_TYPE)
def test_a_field_named_like_its_type(holder: str) -> None:
    """Under `from __future__ import annotations` a class's own names would be found before those that its hints mean."""
    if "slots" in holder and sys.version_info < (3, 10):
        pytest.skip("slots are new in Python 3.10")
    if "attrs" in holder:
        pytest.importorskip("attrs", reason="not for every Python")
    function = define(
        "from __future__ import annotations\nfrom datetime import date\nimport dataclasses, datetime\n"
        + FIELD_NAMED_LIKE_ITS_TYPE[holder]
        + "def f(x: E): return x\n"
    )
    made = arrives(function, TEXTS.get(holder, '{"date":"2026-01-02"}'))
    got = made["date"] if isinstance(made, dict) else made.date
    assert type(got) is module.datetime.date
    fields = _schema.schema(Command("f", "command", function))["input_types"]["hinted.E"]["fields"]
    kind = next(field["type"] for field in fields if field["name"] in ("date", "when"))
    assert kind in ({"type": "date"}, of("optional", {"type": "date"}))


def test_final_in_text() -> None:
    function = define(
        "from __future__ import annotations\nimport dataclasses, typing\nfrom datetime import date\n"
        "from typing import Final, List, NamedTuple, Optional\n"
        "@dataclasses.dataclass\nclass E:\n    d: Final[date]\n    e: typing.Final[List[float]]\n    g: Final = 3\n"
        "def f(x: E, y: Optional[E] = None): return x\n"
    )
    made = arrives(function, '{"d":"2026-01-02","e":[1],"g":[4]}')
    assert same([made.d, made.e, made.g], [module.datetime.date(2026, 1, 2), [1.0], [4]])


NAMED_LIKE_BUILTINS = {
    "method": "@dataclasses.dataclass\nclass E:\n    x: List[float]\n    def float(self): return 1\n",
    "method, list": "@dataclasses.dataclass\nclass E:\n    x: list[float]\n    def list(self): return 1\n",
    "field": "@dataclasses.dataclass\nclass E:\n    float: float = 0.0\n    x: Optional[List[float]] = None\n",
    "slots": "@dataclasses.dataclass\nclass E:\n    __slots__ = ('float', 'x')\n    float: float\n    x: List[float]\n",
    "NamedTuple": "class E(NamedTuple):\n    float: float\n    x: List[float]\n",
}


@pytest.mark.parametrize("name", NAMED_LIKE_BUILTINS)
def test_a_field_or_method_named_like_a_builtin(name: str) -> None:
    """Under `from __future__ import annotations`, see above."""
    if "list" in name and sys.version_info < (3, 9):
        pytest.skip("list[float] is new in Python 3.9")
    source = "from __future__ import annotations\nimport dataclasses\nfrom typing import List, NamedTuple, Optional\n"
    function = define(source + NAMED_LIKE_BUILTINS[name] + "def f(x: E): return x\n")
    more = ',"float":1' if "float: float" in NAMED_LIKE_BUILTINS[name] else ""
    made = arrives(function, '{"x":[1]%s}' % more)
    assert same([made.x, made.float if more else 1.0], [[1.0], 1.0])
    fields = _schema.schema(Command("f", "command", function))["input_types"]["hinted.E"]["fields"]
    kinds = [field["type"] for field in fields if field["name"] == "x"]
    assert kinds in ([of("array", {"type": "number"})], [of("optional", of("array", {"type": "number"}))])


def test_a_hint_that_means_a_name_of_its_class() -> None:
    function = define(
        "Inner = int\n@dataclasses.dataclass\nclass E:\n    class Inner(str, enum.Enum):\n        A = 'a'\n"
        "    one: 'Inner'\n    Many = List[Inner]\n    many: 'Many' = None\ndef f(x: E): return [x.one, x.many]\n"
    )
    assert arrives(function, '{"one":"a","many":["a"]}') == [module.E.Inner.A, [module.E.Inner.A]]


LATE = """
import dataclasses, datetime, enum, functools, typing
from datetime import date
from typing import Dict, Generic, Iterator, List, NamedTuple, Optional, TypedDict, TypeVar
if typing.TYPE_CHECKING:
    import models
    from models import User
@command
def greet(name: str, user: User = None, day: date = None) -> str: return name + type(day).__name__
@command
def attribute(user: models.User, other: datetime.User, day: date): return type(day).__name__
@command
def inner(users: List[User], day: Optional[date] = None, other: "User | None" = None, union: User | None = None):
    return type(day).__name__
@dataclasses.dataclass
class Data:
    owner: User
    day: date
    users: List[User] = dataclasses.field(default_factory=list)
@dataclasses.dataclass(slots=True)
class Slots:
    owner: User
    day: date
    odd: datetime.Missing = None
class Tuple(NamedTuple):
    owner: User
    day: date
class Dictionary(TypedDict):
    owner: User
    day: date
T = TypeVar("T")
@dataclasses.dataclass
class Held(Generic[T]):
    owner: User
    day: T
@command
def data(x: Data): return type(x.day).__name__
@command
def slots(x: Slots): return type(x.day).__name__
@command
def tuples(x: Tuple): return type(x.day).__name__
@command
def dictionary(x: Dictionary): return type(x["day"]).__name__
@command
def held(x: Held[date]): return type(x.day).__name__
@command
def keys(user: User = None) -> Dict[int, float]: return {1: 2.0}
@command
def rows(user: User = None) -> Iterator[Dict[int, float]]: yield {1: 2.0}
@command
def result(day: date) -> List[User]: return [type(day).__name__]
def plain(f):
    @functools.wraps(f)
    def wrapper(*args, **kwargs): return f(*args, **kwargs)
    return wrapper
@command
@plain
def wrapped(day: date, user: User = None) -> User: return type(day).__name__
@command(max_batch_size=2)
def batch(day: List[date], user: List[User] = None) -> List[User]: return [type(one).__name__ for one in day]
class Called:
    def __call__(self, day: date, user: User = None): return type(day).__name__
command(name="called")(Called())
@command
def odd(day: date, user: List[User[int]] = None, other: int | "User" = None): return type(day).__name__
class Made:
    def __init__(self, day: date, user: User = None): self.day = day
@command
def init(x: Made, day: date): return type(day).__name__
"""


@pytest.mark.skipif(sys.version_info < (3, 14), reason="annotations are evaluated when they are asked for since Python 3.14")
def test_names_that_do_not_exist_spoil_no_others(start: Start) -> None:
    worker = start(LATE)
    assert worker.result("greet", {"name": "a"}) == "aNoneType"
    assert worker.result("greet", {"name": "a", "user": {}, "day": "2026-01-02"}) == "adate"
    assert worker.result("attribute", {"user": 1, "other": 2, "day": "2026-01-02"}) == "date"
    assert worker.result("inner", {"users": [1], "day": "2026-01-02"}) == "date"
    for name in ("data", "slots", "tuples", "dictionary", "held"):
        assert worker.result(name, {"x": {"owner": 1, "day": "2026-01-02"}}) == "date", name
    for name, wanted in (("result", ["date"]), ("wrapped", "date"), ("batch", "date"), ("called", "date"), ("odd", "date")):
        for _ in range(2):
            assert worker.result(name, {"day": "2026-01-02"}) == wanted, name
    assert worker.result("keys") == {"1": 2.0}
    assert worker.stream("rows")[0]["item"] == {"1": 2.0}
    assert worker.result("init", {"x": 1, "day": "2026-01-02"}) == "date"
    error = worker.error("greet", {"nam": 1})
    assert "greet(name: str, user: User = None, day: date = None) -> str" in error["message"]
    listed = {entry["name"]: entry for entry in worker.result("list_commands", {"schema": True})}
    assert listed["inner"]["signature"].startswith("(users: List[User], day: ")
    assert "ForwardRef" not in str(listed) and " at 0x" not in str(listed)
    assert listed["odd"]["signature"] == "(day: date, user: List[User[int]] = None, other: int | 'User' = None)"
    assert listed["batch"]["signature"] == "(day: date, user: User = None) -> User"
    shown = {name: {p["name"]: p["type"] for p in entry["schema"]["params"]} for name, entry in listed.items()}
    unknown = {"type": "unknown", "text": "User"}
    assert shown["greet"] == {"name": {"type": "string"}, "user": unknown, "day": {"type": "date"}}
    fields = {f["name"]: f["type"] for f in listed["data"]["schema"]["input_types"]["worker.Data"]["fields"]}
    assert (fields["owner"], fields["day"]) == (unknown, {"type": "date"})
    assert listed["keys"]["schema"]["returns"] == of("map", {"type": "number"}) | {"key": {"type": "integer"}}
    assert worker.result("greet", {"name": "a"}) == "aNoneType"


def test_what_a_class_raises_is_told_as_what_it_is(start: Start) -> None:
    worker = start(
        """
        import dataclasses, datetime
        @dataclasses.dataclass
        class Checked:
            what: str
            when: dataclasses.InitVar[datetime.date] = None
            def __post_init__(self, when):
                if self.what == "value": raise ValueError("not this one")
                if self.what == "assert": assert False, "nor this"
                if self.what == "file": open("/nonexistent")
                if self.what == "type": len(1)
                if self.what == "exit": raise SystemExit(3)
                self.year = when and when.year
        @command
        def f(x: Checked): return x.year
        @command
        def g(x: Checked):
            yield x.year
        """
    )
    for _ in range(2):  # the first call, and later ones
        calls: List[Callable[[str], Any]] = [
            lambda what: worker.error("f", [{"what": what}]),
            lambda what: worker.stream("g", [{"what": what}])[-1]["error"],
        ]
        for call in calls:
            assert "Checked (an object), got an object: ValueError: not this one" in call("value")["message"]
            assert "AssertionError: nor this" in call("assert")["message"]
            error = call("file")
            assert (error["kind"], error["type"]) == ("python_exception", "FileNotFoundError")
            assert "in __post_init__" in error["traceback"] and "pypool" not in error["traceback"]
            assert (call("type")["kind"], call("type")["type"]) == ("python_exception", "TypeError")
            assert call("exit")["type"] == "SystemExit"
        assert "unexpected keyword argument 'wat', did you mean 'what'?" in worker.error("f", [{"wat": "x"}])["message"]
        assert worker.result("f", [{"what": "", "when": "2026-01-02"}]) == 2026


def test_a_union_says_what_each_member_lacked() -> None:
    function = define("def f(x: Union[Cat, Dog]): return x\n")
    with pytest.raises(BindError) as error:
        arrives(function, '{"kind":"cow","name":"a"}')
    assert "expected Cat or Dog, got an object" in str(error.value)
    assert "Cat: kind: expected 'cat', got a string 'cow'; Dog: kind: expected 'dog', got a string 'cow'" in str(error.value)
    # Without a tag the class that knows most of the keys is meant, and the first of equals.
    function = define(
        "@dataclasses.dataclass\nclass A:\n    x: int = 0\n@dataclasses.dataclass\nclass B:\n    x: int = 0\n    y: int = 0\n"
        "class C(TypedDict, total=False):\n    z: datetime.date\n"
        "def f(x: Union[A, B, C]): return type(x).__name__\n"
    )
    assert [arrives(function, text) for text in ('{"x":1}', '{"x":1,"y":2}', '{"z":"2026-01-02"}')] == ["A", "B", "dict"]


def test_a_literal_in_a_union_stays_what_it_is() -> None:
    for hint, text, wanted in (
        ("Union[pathlib.Path, Literal['-']]", '"-"', "'-'"),
        ("Union[Literal['-'], pathlib.Path]", '"-"', "'-'"),
        ("Union[pathlib.Path, Literal['-']]", '"/tmp"', "pathlib.Path('/tmp')"),
        ("Optional[Union[pathlib.Path, Literal['-', 1]]]", "1", "1"),
        ("List[Union[pathlib.Path, Literal['-']]]", '["-","a"]', "['-', pathlib.Path('a')]"),
        ("Dict[Union[datetime.date, Literal['-']], int]", '{"-":1,"2026-01-02":2}', "{'-': 1, datetime.date(2026, 1, 2): 2}"),
        ("Dict[Union[pathlib.Path, Literal['-']], int]", '{"-":1,"a":2}', "{'-': 1, pathlib.Path('a'): 2}"),
        ("Union[pathlib.Path, Literal[Color.RED]]", '"red"', "pathlib.Path('red')"),
        ("Union[Literal[Color.RED], pathlib.Path]", '"red"', "Color.RED"),
        ("Union[float, Literal[1]]", "1", "1"),
        ("Union[float, Literal[1]]", "2", "2.0"),
        ("Union[Decimal, Literal[1]]", "1", "1"),
    ):
        assert same(arrives(define("def f(x: %s): return x\n" % hint), text), eval(wanted, vars(module))), hint


def test_a_literal_of_an_enums_member_takes_what_that_is_sent_as() -> None:
    function = define(
        "class Col(enum.Enum):\n    R = (1, 2)\n    D = datetime.date(2026, 1, 2)\n    F = 1.0\n    S = 'x'\n    N = 7\n    T = '2026-01-02'\n"
        "def f(x: Literal[Col.R, Col.D, Col.F, Col.S, Col.N] = None, y: Literal['a', Col.T] = 'a', "
        "z: Optional[Dict[Literal[Col.R, Col.D, Col.N], float]] = None, one: Literal[Col.R] = None): return x or y or z or one\n"
    )
    col = module.Col
    sent = {"[1,2]": col.R, '"2026-01-02"': col.D, "1": col.F, "1.0": col.F, '"x"': col.S, "7": col.N}
    for text, member in sent.items():
        assert arrives(function, text) is member
    for text in ("[1,3]", "[1.0,2]", "true", "7.0", '"7"', '"2026-01-03"', "{}"):
        with pytest.raises(BindError):
            arrives(function, text)
    entry = Command("f", "command", function)
    assert _bind.bind(entry, {"y": "2026-01-02"})[1]["y"] is col.T
    bound = _bind.bind(entry, {"z": {"[1,2]": 1, "2026-01-02": 2, "7": 3}})[1]["z"]
    assert bound == {col.R: 1.0, col.D: 2.0, col.N: 3.0}
    with pytest.raises(BindError, match=r"expected \(1, 2\), got an array"):
        _bind.bind(entry, {"one": [2, 1]})


def test_numbers_in_a_list_are_bytes_where_nothing_else_takes_them() -> None:
    """Whether a float has a fraction does not decide what a list becomes."""
    for hint, text, wanted in (
        ("Union[bytes, List[float]]", "[1,2,3]", "[1.0, 2.0, 3.0]"),
        ("Union[bytes, List[float]]", "[1.5,2]", "[1.5, 2.0]"),
        ("Union[None, bytearray, Sequence[float]]", "[1]", "[1.0]"),
        ("Union[bytes, Sequence[float]]", "[]", "[]"),
        ("Union[memoryview, Set[int]]", "[1]", "{1}"),
        ("Union[bytes, Tuple[int, int, int]]", "[1,2,3]", "(1, 2, 3)"),
        ("Union[bytes, Tuple[int, int, int]]", "[1,2]", "b'\\x01\\x02'"),
        ("Union[bytes, str, List[datetime.date]]", "[1,2]", "b'\\x01\\x02'"),
        ("Union[bytearray, bytes]", "[1,2]", "bytearray(b'\\x01\\x02')"),
        ("Union[bytes, Sequence[float]]", "null", "b''"),
    ):
        assert same(arrives(define("def f(x: %s): return x\n" % hint), text), eval(wanted, vars(module))), hint


def test_what_is_a_list_or_a_dict_by_an_abstract_hint_stays_so_in_a_union() -> None:
    for hint in ("Sequence", "MutableSequence", "Iterable", "Collection", "Container", "Reversible", "List"):
        for args in ("", "[int]", "[Any]", "[Mapping[str, Any]]"):
            function = define("def f(x: Union[%s%s, datetime.datetime]): return x\n" % (hint, args))
            given = '[{"a":1}]' if "Mapping" in args else "[1,2]"
            assert arrives(function, given) == json.loads(given), hint + args
            with pytest.raises(BindError):
                arrives(function, '"no time"')
    for hint in ("Mapping", "MutableMapping", "Dict"):
        for args in ("", "[str, int]", "[str, Any]"):
            function = define("def f(x: Union[datetime.datetime, None, %s%s]): return x\n" % (hint, args))
            assert arrives(function, '{"a":1}') == {"a": 1}, hint + args
    function = define("def f(x: Union[Sequence[str], Sequence[datetime.date]]): return x\n")
    assert arrives(function, '["2026-01-02"]') == ["2026-01-02"]
    function = define("def f(x: Union[Sequence[int], Sequence[datetime.date]]): return x\n")
    assert arrives(function, '["2026-01-02"]') == [datetime.date(2026, 1, 2)]


def test_a_union_takes_what_one_of_its_members_takes() -> None:
    exec("class Never(enum.Enum): A = 'never'", vars(module))
    exec("@dataclasses.dataclass\nclass Held:\n    a: int\n    b: Sequence[str] = ()", vars(module))
    exec("class Told(TypedDict):\n    at: Mapping[str, Sequence[int]]", vars(module))
    for hint, text in (
        ("str", '"a"'), ("int", "1"), ("float", "1"), ("float", "1.5"), ("bool", "true"), ("bytes", '"@YQ=="'), ("None", "null"),
        ("list", "[1]"), ("dict", '{"a":1}'), ("tuple", "[1]"), ("set", "[1]"), ("Any", "[{}]"), ("object", "{}"), ("complex", "1"),
        ("List[float]", "[1]"), ("List[List[float]]", "[[1],[1.5]]"), ("Sequence[Sequence[int]]", "[[1]]"), ("Tuple[int, ...]", "[1]"),
        ("Tuple[str, datetime.date]", '["a","2026-01-02"]'), ("Iterable[Mapping[str, Any]]", '[{"a":[]}]'), ("FrozenSet[str]", '["a"]'),
        ("AbstractSet[int]", "[1]"), ("Deque[int]", "[1]"), ("Mapping[str, Sequence[str]]", '{"a":["b"]}'),
        ("Mapping[int, str]", '{"1":"b"}'), ("Dict[datetime.date, float]", '{"2026-01-02":1}'), ("OrderedDict[str, int]", '{"a":1}'),
        ("DefaultDict[str, int]", '{"a":1}'), ("Counter[str]", '{"a":1}'), ("datetime.timedelta", "1"), ("decimal.Decimal", "1.50"),
        ("uuid.UUID", '"12345678123456781234567812345678"'), ("Path", '"a"'), ("Literal[1, 'b']", '"b"'), ("Held", '{"a":1,"b":["c"]}'),
        ("Told", '{"at":{"a":[1]}}'), ("Optional[Sequence[int]]", "[1]"), ("Optional[Sequence[int]]", "null"), ("Callable[[], int]", "[1]"),
        ("Annotated[Sequence[int], 'few']", "[1]"), ("List[Union[Sequence[int], str]]", '[[1],"a"]'), ("Held", '{"a":1}'),
    ):  # fmt: skip
        alone = arrives(define("def f(x: %s): return x\n" % hint), text)
        for union in ("Union[%s, Never]", "Union[Never, %s]", "Union[Never, %s, datetime.time]"):
            found = arrives(define("def f(x: %s): return x\n" % (union % hint)), text)
            assert type(found) is type(alone), (union % hint, text)
            assert found == alone, (union % hint, text)


def test_a_union_within_a_union_is_its_members() -> None:
    module.Blob = TypeVar("Blob", bytes, str)
    module.Numbers = NewType("Numbers", Union[bytes, List[float]])
    texts = ["x: Union[Blob, List[float]]", "x: Union[datetime.date, Blob, List[float]]", "x: Union[Numbers, str]"]
    if sys.version_info >= (3, 12):
        exec("type Mine = bytes | str | list[Mine]\ntype Itself = bytes | list[float] | Itself | str", vars(module))
        texts += ["x: datetime.date | Mine | list[float]", "x: Itself", "x: Itself | None"]
    for text in texts:
        function = define("def f(%s): return x\n" % text)
        assert arrives(function, "[1,2]") == [1, 2], text
        assert arrives(function, '"2026-01-02"') == "2026-01-02", text


def test_what_no_member_takes_is_for_the_one_that_is_not_known() -> None:
    """A class of one's own is not checked by itself, nor is it in a Union."""
    exec("class Mine: pass\nclass Held(TypedDict):\n    name: str\n", vars(module))
    when = "datetime.datetime(2026, 1, 2, tzinfo=UTC)"
    for hint, text, wanted in (
        ("Union[Mine, datetime.datetime]", '{"a":1}', "{'a': 1}"),
        ("Union[Mine, datetime.datetime]", '"2026-01-02T00:00:00Z"', when),
        ("Union[Callable[..., int], datetime.datetime, None]", "[1.5]", "[1.5]"),
        ("Union[Mine, Point]", '{"x":1}', "Point(1.0)"),
        ("Union[Mine, Point]", '{"y":1}', "{'y': 1}"),
        ("Union[Mine, Decimal]", "[1.5]", "[1.5]"),
        ("Union[bytes, Mine]", "[1,2]", "[1, 2]"),
        ("Union[bytes, Mine]", "null", "b''"),  # Go's nil slice
        ("Union[bytes, Mine]", '"a"', "'a'"),
    ):
        assert same(arrives(define("def f(x: %s): return x\n" % hint), text), eval(wanted, vars(module))), hint
    for hint in ("Union[Held, datetime.date]", "Union[str, bool, None, datetime.date]"):
        with pytest.raises(BindError):
            arrives(define("def f(x: %s): return x\n" % hint), "1")


def test_a_class_that_is_generic_twice() -> None:
    function = define(
        "K = TypeVar('K')\n@dataclasses.dataclass\nclass Base(Generic[T]):\n    a: T\n"
        "@dataclasses.dataclass\nclass Middle(Base[datetime.date], Generic[K, T]):\n    b: K\n    c: List[T]\n"
        "def f(x: Middle[float, uuid.UUID]): return [type(x.a).__name__, x.b, type(x.c[0]).__name__]\n"
    )
    text = '{"a":"2026-01-02","b":1,"c":["0f9ef81c-6c1e-4d3a-9f2e-6b1d9c6f5a11"]}'
    assert str(arrives(function, text)) == "['date', 1.0, 'UUID']"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="type statements are new in Python 3.12")
def test_type_statements(start: Start) -> None:
    worker = start(
        """
        import datetime, dataclasses
        type Days = list[datetime.date]
        type Box[T] = dict[str, T]
        type Tree = dict[str, Tree] | float
        @dataclasses.dataclass
        class Held[T]:
            x: T
            y: "T"
        @command
        def f(a: Days, b: Box[float], c: Tree, d: Held[datetime.date]):
            return [a[0].year, str(b["k"]), str(c["k"]["l"]), d.x.year, d.y.year]
        @command
        def g[T: datetime.date](x: T, y: "T"): return [x.year, y.year]
        """
    )
    day = "2026-01-02"
    args = {"a": [day], "b": {"k": 1}, "c": {"k": {"l": 2}}, "d": {"x": day, "y": day}}
    assert worker.result("f", args) == [2026, "1.0", "2.0", 2026, 2026]
    assert worker.result("g", [day, day]) == [2026, 2026]
    schema = {entry["name"]: entry["schema"] for entry in worker.result("list_commands", {"schema": True})}
    assert schema["f"]["params"][0]["type"] == {"type": "array", "of": [{"type": "date"}]}


QUOTED = """
Q = TypeVar("Q", bound="QItem")
R = TypeVar("R", "QItem", "QOther")
S = TypeVar("S", bound="Nowhere")
Deep = TypeVar("Deep", bound="Union[float, List[Deep]]")
@dataclasses.dataclass
class QHolder(Generic[Q]):
    q: Q
    more: "List[Q]"
    deep: Deep = 0.0
@dataclasses.dataclass
class QItem:
    d: datetime.date
@dataclasses.dataclass
class QOther:
    e: float
def f(x: Q, y: R = None, z: S = None, h: QHolder = None): return [x, y, z, h]
"""


def test_a_bound_in_quotes() -> None:
    function = define(QUOTED)
    day, text = module.datetime.date(2026, 1, 2), '{"d":"2026-01-02"}'
    assert arrives(function, text)[0] == module.QItem(day)
    entry = Command("f", "command", function)
    args = {
        "x": {"d": "2026-01-02"},
        "y": {"e": 1},
        "z": [1],
        "h": {"q": {"d": "2026-01-02"}, "more": [{"d": "2026-01-02"}], "deep": [1]},
    }
    positional, keyword = _bind.bind(entry, args)
    x, y, z, h = function(*positional, **keyword)
    assert (x, y, z) == (module.QItem(day), module.QOther(1.0), [1])
    assert (h.q, h.more) == (module.QItem(day), [module.QItem(day)]) and same(h.deep, [1.0])
    with pytest.raises(BindError, match="date"):
        _bind.bind(entry, {"x": {"d": 1}})
    found = _schema.schema(Command("f", "command", function))
    assert found["params"][0]["type"] == {"type": "ref", "name": "hinted.QItem"}


def test_a_type_variables_default() -> None:
    extensions: Any = sys.modules["typing"] if sys.version_info >= (3, 13) else pytest.importorskip("typing_extensions")
    module.WithDefault = extensions.TypeVar
    function = define(
        "D = WithDefault('D', default=datetime.date)\nW = WithDefault('W', default='QLater')\n"
        "N = WithDefault('N', default=None, bound=object)\n"
        "@dataclasses.dataclass\nclass Box(Generic[D]):\n    x: D\n    y: List[D]\n"
        "@dataclasses.dataclass\nclass Sub(Box): pass\n"
        "@dataclasses.dataclass\nclass QLater:\n    e: float\n"
        "@dataclasses.dataclass\nclass All:\n    a: Box\n    b: Box[float]\n    c: W\n    d: Sub\n    e: N\n"
        "def f(x: All): return x\n"
    )
    day = '{"x":"2026-01-02","y":["2026-01-02"]}'
    made = arrives(function, '{"a":%s,"b":{"x":1,"y":[1]},"c":{"e":1},"d":%s,"e":null}' % (day, day))
    wanted = module.datetime.date(2026, 1, 2)
    assert same([made.a.x, made.a.y, made.b.x, made.b.y], [wanted, [wanted], 1.0, [1.0]])
    assert same([made.c.e, made.d.x, made.d.y, made.e], [1.0, wanted, [wanted], None])


@pytest.mark.skipif(sys.version_info < (3, 13), reason="defaults are new in Python 3.13")
def test_bounds_and_defaults_of_type_statements(start: Start) -> None:
    worker = start(
        """
        import dataclasses, datetime
        type Al[T = datetime.date, U = list[T]] = dict[str, tuple[T, U]]
        type Quoted[T = "Item"] = list[T]
        @dataclasses.dataclass
        class L[T: "Item"]:
            x: T
        @dataclasses.dataclass
        class P[T, U = list[T]]:
            t: T
            u: U
        @dataclasses.dataclass
        class Many[*Ts = *tuple[datetime.date, float]]:
            x: tuple[*Ts]
        @dataclasses.dataclass
        class Item:
            d: datetime.date
        @command
        def f(a: Al, b: Al[float], c: Quoted, d: L, e: P[datetime.date], g: Many):
            return [repr(one) for one in (a, b, c, d, e, g)]
        @command
        def h[T: "Item"](x: T): return repr(x)
        """
    )
    day = "2026-01-02"
    args = {"a": {"k": [day, [day]]}, "b": {"k": [1, [1]]}, "c": [{"d": day}], "d": {"x": {"d": day}}}
    got = worker.result("f", {**args, "e": {"t": day, "u": [day]}, "g": {"x": [day, 1]}})
    date, item = "datetime.date(2026, 1, 2)", "Item(d=datetime.date(2026, 1, 2))"
    assert got[:4] == ["{'k': (%s, [%s])}" % (date, date), "{'k': (1.0, [1.0])}", "[%s]" % item, "L(x=%s)" % item]
    assert got[4:] == ["P(t=%s, u=[%s])" % (date, date), "Many(x=(%s, 1.0))" % date]
    assert worker.result("h", [{"d": day}]) == item


@pytest.mark.skipif(sys.version_info < (3, 10), reason="X | Y is new in Python 3.10")
def test_new_unions() -> None:
    function = define("def f(x: 'float | datetime.date | None'): return x\n")
    assert [arrives(function, text) for text in ("1", '"2026-01-02"', "null")] == [1.0, module.datetime.date(2026, 1, 2), None]


def test_annotated_and_required() -> None:
    typing = pytest.importorskip(
        "typing_extensions" if sys.version_info < (3, 11) else "typing", reason="this Python has no Required"
    )
    module.Annotated, module.Required, module.NotRequired = typing.Annotated, typing.Required, typing.NotRequired
    module.Typed = typing.TypedDict
    function = define(
        "class H(Typed, total=False):\n    a: Required[Annotated[datetime.date, 'x']]\n    b: NotRequired[float]\n"
        "def f(x: Annotated[H, 1]): return [x['a'].year, str(x['b'])]\n"
    )
    assert arrives(function, '{"a":"2026-01-02","b":1}') == [2026, "1.0"]


# ------------------------------------------------------------------------------------------------------------ defaults


@pytest.mark.skipif(sys.version_info < (3, 9), reason="zoneinfo is new in Python 3.9")
@pytest.mark.parametrize("name", ["Europe", "x" * 300, "", "Nowhere", "../etc"])
def test_what_is_no_time_zone_is_refused(name: str) -> None:
    with pytest.raises(BindError, match="expected ZoneInfo"):
        arrives(define("import zoneinfo\ndef f(x: zoneinfo.ZoneInfo): return x\n"), json.dumps(name))


def test_a_default_whose_repr_raises(start: Start) -> None:
    worker = start(
        """
        class Bad:
            def __repr__(self): raise BaseException("no")
            __str__ = __repr__
        class Worse:
            def __repr__(self): return 7
        @command
        def g(x, bad=Bad(), worse: Worse() = Worse(), long="x" * 10_000): return x
        @command
        def fine(): return 1
        """
    )
    error = worker.error("g", {"y": 1})
    assert error["kind"] == "invalid_arguments" and "bad=\u2026" in error["message"] and len(error["message"]) < 1000
    for options in ({}, {"schema": True}):
        assert [entry["name"] for entry in worker.result("list_commands", options)] == ["g", "fine"]


def test_names_in_another_unicode_form(start: Start) -> None:
    worker = start("@command\ndef f(gr\u00f6\u00dfe: int): return gr\u00f6\u00dfe\n")
    assert worker.result("f", {"gr\u00f6\u00dfe": 1}) == 1
    assert "in another Unicode form" in worker.error("f", {"gro\u0308\u00dfe": 1})["message"]


# ----------------------------------------------------------------------------------------------------------- libraries


@pytest.mark.skipif(sys.version_info < (3, 9), reason="built-in generics")
def test_pydantic_by_its_rules_for_json() -> None:
    pydantic: Any = pytest.importorskip("pydantic", minversion="2", reason="not for every Python")
    module.pydantic = pydantic
    function = define(
        "class M(pydantic.BaseModel):\n    model_config = pydantic.ConfigDict(strict=True)\n    id: uuid.UUID\n    at: datetime.datetime\n"
        "    color: Color\n    tags: Set[str]\n    price: Decimal = Decimal(0)\n    took: datetime.timedelta = None\n    by: Dict[int, float] = {}\n"
        "def f(x: M): return x\n"
    )
    text = '{"id":"0f9ef81c-6c1e-4d3a-9f2e-6b1d9c6f5a11","at":"2026-01-02T03:04:05Z","color":"red","tags":["a"],'
    text += '"price":100000000000000000.01,"took":"PT1S","by":{"1":2}}'
    model = arrives(function, text)
    assert (model.color, model.tags, model.by) == (module.Color.RED, {"a"}, {1: 2.0})
    assert model.price == module.Decimal("100000000000000000.01")
    back = json.loads(encode(model))
    assert back["took"] == "PT1S" and back["by"] == {"1": 2.0}
    with pytest.raises(BindError, match="price"):
        arrives(function, text.replace('"PT1S"', '"PT1S"').replace("100000000000000000.01", "true"))

    function = define(
        "class B(pydantic.BaseModel):\n    data: bytes\n    any: Any = None\ndef f(x: List[B]) -> List[B]: return x\n"
    )
    assert arrives(function, '[{"data":"@/w=="}]')[0].data == b"\xff"
    assert json.loads(encode(arrives(function, '[{"data":"@/w==","any":{"x":"@/w=="}}]'))) == [
        {"data": "/w==", "any": {"x": "/w=="}}
    ]
    function = define(
        "from pydantic.dataclasses import dataclass as checked\n@checked\nclass D:\n    day: datetime.date\n    took: datetime.timedelta\n"
        "def f(x: D): return x\n"
    )
    made = arrives(function, '{"day":"2026-01-02","took":"PT1S"}')
    assert made.day.year == 2026 and json.loads(encode(made)) == {"day": "2026-01-02", "took": "PT1S"}
    with pytest.raises(BindError, match="day"):
        arrives(function, '{"day":"x"}')


@pytest.mark.skipif(sys.version_info < (3, 9) or sys.version_info >= (3, 14), reason="pydantic.v1 is not for every Python")
def test_pydantic_v1() -> None:
    module.v1 = pytest.importorskip("pydantic.v1", reason="not for every Python")
    function = define(
        "class Old(v1.BaseModel):\n    id: uuid.UUID\n    day: datetime.date\n    took: datetime.timedelta = None\n    tags: Set[str] = set()\n"
        "def f(x: Old, y: Optional[Old] = None): return x\n"
    )
    made = arrives(function, '{"id":"0f9ef81c-6c1e-4d3a-9f2e-6b1d9c6f5a11","day":"2026-01-02","took":1.5,"tags":["a"]}')
    assert made.day.year == 2026
    assert json.loads(encode(made)) == {"id": str(made.id), "day": "2026-01-02", "took": 1.5, "tags": ["a"]}
    with pytest.raises(BindError, match="'x': expected Old"):
        arrives(function, '{"id":"x"}')
    schema = _schema.schema(Command("f", "command", function))
    assert [field["type"]["type"] for field in schema["input_types"]["hinted.Old"]["fields"][:2]] == ["uuid", "date"]


def test_attrs() -> None:
    module.attrs = pytest.importorskip("attrs", reason="not for every Python")
    function = define(
        "@attrs.define\nclass A:\n    day: datetime.date\n    _private: float = 1\n    n: int = attrs.field(default=0, converter=int)\n"
        "    hidden: int = attrs.field(init=False, default=7)\n    tags: List[str] = attrs.Factory(list)\n"
        "def f(x: A) -> A: return x\n"
    )
    made = arrives(function, '{"day":"2026-01-02","private":2,"n":"3","tags":null}')
    assert str([made.day.year, made._private, made.n, made.tags]) == "[2026, 2.0, 3, []]"
    assert json.loads(encode(made)) == {"day": "2026-01-02", "_private": 2.0, "n": 3, "hidden": 7, "tags": []}
    with pytest.raises(BindError, match="missing 1 required positional argument: 'day'"):
        arrives(function, "{}")
    schema = _schema.schema(Command("f", "command", function))
    assert [field["name"] for field in schema["input_types"]["hinted.A"]["fields"]] == ["day", "_private", "n", "tags"]
    assert [field["name"] for field in schema["output_types"]["hinted.A"]["fields"]] == ["day", "_private", "n", "hidden", "tags"]


MADE = {
    "dataclass": "@dataclasses.dataclass\nclass Made:\n    x: int\n    twice: int = dataclasses.field(init=False)\n"
    "    other: Any = dataclasses.field(init=False, default=None)\n    def __post_init__(self): self.twice = 2 * self.x\n",
    "attrs": "@attrs.define\nclass Made:\n    x: int\n    twice: int = attrs.field(init=False)\n"
    "    other: Any = attrs.field(init=False, default=None)\n    def __attrs_post_init__(self): self.twice = 2 * self.x\n",
    "pydantic": "@pydantic.dataclasses.dataclass\nclass Made:\n    x: int\n    twice: int = dataclasses.field(init=False)\n"
    "    other: Any = dataclasses.field(init=False, default=None)\n    def __post_init__(self): self.twice = 2 * self.x\n",
}


@pytest.mark.parametrize("sort", MADE)
def test_a_field_that_the_class_itself_sets_comes_back(sort: str) -> None:
    """As pydantic does, what came for it is passed over."""
    if sort != "dataclass":
        vars(module)[sort] = pytest.importorskip(sort, reason="not for every Python")
    if sort == "pydantic":
        pytest.importorskip("pydantic", minversion="2")
        import pydantic.dataclasses  # noqa: F401
    function = define(MADE[sort] + "def f(x: Made) -> Made: return x\n")
    made = arrives(function, '{"x":2}')
    sent = json.loads(encode(made))
    assert sent["x"] == 2 and sent.get("twice") == (None if sort == "pydantic" else 4)
    assert arrives(function, encode(made)) == made
    assert arrives(function, '{"x":2,"twice":"no number","other":{}}') == made
    assert arrives(define("def f(x: Union[Made, Point]): return x\n"), encode(made)) == made
    if sort != "pydantic":
        with pytest.raises(BindError, match="got an unexpected keyword argument 'twic'"):
            arrives(function, '{"x":2,"twic":4}')
        schema = _schema.schema(Command("f", "command", function))
        assert [field["name"] for field in schema["input_types"]["hinted.Made"]["fields"]] == ["x"]


def test_a_class_is_known_by_the_fields_that_it_sets_itself() -> None:
    define(MADE["dataclass"] + "@dataclasses.dataclass\nclass Bare:\n    x: int\n    twice: int = 0\ndef f(): pass\n")
    for hint, wanted in (("Union[Made, Bare]", "Made"), ("Union[Bare, Made]", "Bare")):
        assert type(arrives(define("def f(x: %s): return x\n" % hint), '{"x":2,"twice":4}')).__name__ == wanted


def test_what_an_init_of_ones_own_takes_is_its_affair() -> None:
    function = define(
        "@dataclasses.dataclass(init=False)\nclass Own:\n    x: int\n    y: int = dataclasses.field(init=False)\n"
        "    def __init__(self, x, y): self.x, self.y = x, y\ndef f(x: Own): return x\n"
    )
    assert arrives(function, '{"x":1,"y":2}').y == 2


def test_msgspec() -> None:
    module.msgspec = pytest.importorskip("msgspec", reason="not for every Python")
    function = define(
        "class S(msgspec.Struct, tag='s', rename='camel'):\n    first_day: datetime.date\n    price: Decimal\n    data: bytes = b''\n"
        "    took: datetime.timedelta = None\n    by: Dict[int, float] = {}\n"
        "class R(msgspec.Struct, tag='r'):\n    n: int\n"
        "def f(x: Union[S, R]): return x\n"
    )
    text = '{"type":"s","firstDay":"2026-01-02","price":100000000000000000.01,"data":"@/w==","took":"PT1S","by":{"1":2}}'
    made = arrives(function, text)
    assert (made.first_day.year, made.price, made.data, made.by) == (
        2026,
        module.Decimal("100000000000000000.01"),
        b"\xff",
        {1: 2.0},
    )
    assert json.loads(encode(made)) == json.loads(
        text.replace("100000000000000000.01", '"100000000000000000.01"').replace("@", "")
    )
    assert arrives(function, '{"type":"r","n":1}').n == 1
    with pytest.raises(BindError, match="S: .*R: "):
        arrives(function, '{"type":"t"}')


@pytest.mark.skipif(sys.version_info < (3, 9), reason="built-in generics")
@pytest.mark.parametrize("library", ["msgspec", "pydantic"])
def test_generic_classes_that_validate_themselves(library: str) -> None:
    setattr(module, library, pytest.importorskip(library, reason="not for every Python"))
    if library == "pydantic":
        pytest.importorskip("pydantic", minversion="2.10", reason="not for every Python")
    page = {
        "msgspec": "class Box(msgspec.Struct, Generic[T]):\n",
        "pydantic": "from pydantic.dataclasses import dataclass as checked\n@checked\nclass Box(Generic[T]):\n",
    }[library]
    function = define(
        "@dataclasses.dataclass\nclass Inside:\n    day: datetime.date\n    n: Decimal = 0\n"
        + page
        + "    items: List[T]\n    data: bytes = b''\ndef f(x: Box[Inside]): return x\n"
    )
    for more in ("", ',"data":"@/w=="'):
        made = arrives(function, '{"items":[{"day":"2026-01-02","n":100000000000000000.01}]%s}' % more)
        assert type(made) is module.Box and type(made.items[0]) is module.Inside, made
        assert (made.items[0].day.year, str(made.items[0].n)) == (2026, "100000000000000000.01")
        with pytest.raises(BindError, match="expected Box"):
            arrives(function, '{"items":[7]%s}' % more)
    assert arrives(define("def f(x: Box): return x\n"), '{"items":[7]}').items == [7]
    assert arrives(define("def f(x: List[Optional[Box[float]]]): return x\n"), '[null,{"items":[7]}]')[1].items == [7.0]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="generic TypedDicts are new in Python 3.11")
def test_a_generic_dict_in_a_union() -> None:
    function = define("class Box(TypedDict, Generic[T]):\n    x: T\ndef f(x: Union[str, List[Box[datetime.date]]]): return x\n")
    assert arrives(function, '[{"x":"2026-01-02"}]') == [{"x": module.datetime.date(2026, 1, 2)}]


def test_numpy_and_pandas_scalars() -> None:
    module.np = pytest.importorskip("numpy", reason="not for every Python")
    module.pd = pytest.importorskip("pandas", reason="not for every Python")
    for hint, text, wanted in (
        ("np.float64", "1", "np.float64(1)"),
        ("np.int16", "-7", "np.int16(-7)"),
        ("np.bool_", "true", "np.bool_(True)"),
        ("np.datetime64", '"2026-01-02T03:04:05.123456789Z"', "np.datetime64('2026-01-02T03:04:05.123456789')"),
        ("np.datetime64", '"2026-01-02T03:04:05+01:30"', "np.datetime64('2026-01-02T01:34:05')"),
        ("np.timedelta64", "5", "np.timedelta64(5, 'ns')"),
        ("pd.Timestamp", '"2026-01-02T03:04:05.123456789Z"', "pd.Timestamp('2026-01-02T03:04:05.123456789Z')"),
        ("pd.Timedelta", "1", "pd.Timedelta(1, unit='ns')"),
        ("pd.Period", '"2026-01"', "pd.Period('2026-01')"),
    ):
        got, expected = arrives(define("def f(x: %s): return x\n" % hint), text), eval(wanted, vars(module))
        assert type(got) is type(expected) and got == expected, hint
    for hint, text in (
        ("np.int8", "300"),
        ("np.int8", "1.5"),
        ("np.datetime64", '"x"'),
        ("pd.Timestamp", '"x"'),
        ("pd.Timedelta", '"1s"'),
    ):
        with pytest.raises(BindError):
            arrives(define("def f(x: %s): return x\n" % hint), text)


def test_the_libraries_are_here() -> None:
    """On the Pythons that have them, the tests above are played with the real libraries: a run that skipped them proves nothing."""
    if os.environ.get("PYPOOL_TEST_LIBRARIES") != "1" or not (3, 11) <= sys.version_info < (3, 14):
        pytest.skip("for make test-python, and for the Pythons that all of them support")
    for name in ("numpy", "pandas", "pydantic", "attrs", "msgspec", "orjson"):
        __import__(name)


# ------------------------------------------------------------------------------------------------------- the command line


def test_the_command_line(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(
        "import datetime, typing\nfrom decimal import Decimal\nfrom pypool import command\n"
        "class Own: pass\n"
        "@command\ndef f(data: bytes, price: Decimal, day: datetime.date) -> typing.Dict[int, str]: return {len(data): str(price)}\n"
        "@command\ndef g(x: Own, y: 'Nowhere' = None): return [b'hi']\n",
        "utf-8",
    )

    def run(*args: str) -> Tuple[int, str, str]:
        import subprocess

        done = subprocess.run(
            [sys.executable, "-m", "pypool", *args],
            capture_output=True,
            text=True,
            cwd=Path(__file__).resolve().parents[1],
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    assert run(str(script), "call", "f", '{"data":"aGk=","price":100000000000000000.01,"day":"2026-01-02"}')[:2] == (
        0,
        '{\n  "2": "100000000000000000.01"\n}\n',
    )
    assert "expected bytes (as base64)" in run(str(script), "call", "f", '{"data":"x","price":1,"day":"2026-01-02"}')[2]
    status, out, _ = run("check", str(script))
    assert status == 0 and "the handler gets what it says, or the call is refused" in out
    assert "g: passed as it comes, not converted: Own" in out
    assert (
        "g: not converted, because it names what does not exist at run time: y: NameError: name 'Nowhere' is not defined" in out
    )
