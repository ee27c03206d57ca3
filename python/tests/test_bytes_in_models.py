"""Bytes within classes that validate themselves: bytes at any depth, and all else by the library's rules for JSON."""

# The sources of the classes are long lines.
# ruff: noqa: E501

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

import pytest
from test_hints import arrives, define, module

from pypool import _bind, _blobs
from pypool._commands import Command
from pypool._results import encode
from pypool._wire import BindError, ResultError

ANY = "    a: Any = None\n    b: bytes = b''\n    l: List[Any] = []\n    d: Dict[str, Any] = {}\n    s: str = ''\n    day: datetime.date = None\n"
CLASSES = {
    "dataclass": "@dataclasses.dataclass\nclass M:\n" + ANY.replace(" = []", " = None").replace(" = {}", " = None"),
    "msgspec": "class M(msgspec.Struct):\n" + ANY,
    "pydantic": "class M(pydantic.BaseModel):\n" + ANY,
    "strict pydantic": "class M(pydantic.BaseModel):\n    model_config = {'strict': True}\n" + ANY,
}


def made(sort: str, text: str) -> Any:
    for name in ("msgspec", "pydantic"):
        if name in sort:
            setattr(module, name, pytest.importorskip(name, reason="not for every Python"))
    return arrives(define(CLASSES[sort] + "def f(x: M): return x\n"), text.replace("@", '"@/w=="'))


@pytest.mark.parametrize("sort", CLASSES)
def test_bytes_are_bytes_at_any_depth(sort: str) -> None:
    for text, wanted in (
        ('{"a":@}', (b"\xff", b"", None, None)),
        ('{"b":@}', (None, b"\xff", None, None)),
        ('{"a":{"k":[@,{"z":@}]}}', ({"k": [b"\xff", {"z": b"\xff"}]}, b"", None, None)),
        ('{"l":[@,1],"day":"2026-01-02"}', (None, b"", [b"\xff", 1], None)),
        ('{"d":{"k":@}}', (None, b"", None, {"k": b"\xff"})),
    ):
        got = made(sort, text)
        assert (got.a, got.b, got.l or None, got.d or None) == wanted, text
        assert got.day == (module.datetime.date(2026, 1, 2) if "day" in text else None)


@pytest.mark.parametrize("sort", ["msgspec", "pydantic", "strict pydantic"])
def test_no_text_is_made_of_them(sort: str) -> None:
    for text in ('{"s":@}', '{"s":@,"b":@}', '{"day":@}', '{"b":@,"day":"x"}', '{"b":@,"s":1}'):
        with pytest.raises(BindError, match="expected M"):
            made(sort, text)


def test_a_strict_model_stays_strict() -> None:
    source = CLASSES["strict pydantic"]
    CLASSES["ints"] = source + "    n: int = 0\n"
    module.pydantic = pytest.importorskip("pydantic", reason="not for every Python")
    try:
        assert made("ints", '{"b":@,"n":1,"day":"2026-01-02"}').n == 1
        with pytest.raises(BindError, match="n: Input should be a valid integer"):
            made("ints", '{"b":@,"n":"1","day":"2026-01-02"}')
    finally:
        del CLASSES["ints"]


STRUCTS = """
class SomeBytes(msgspec.Struct, tag='t'):
    b: bytes = b''
    a: Any = None
class SomeRaw(msgspec.Struct, tag='u'):
    d: Decimal = None
    r: msgspec.Raw = msgspec.Raw(b'null')
class Listed(msgspec.Struct, array_like=True, tag='row'):
    d: Decimal
    a: Any = None
@dataclasses.dataclass
class Within:
    d: Decimal
    b: bytes
    a: Any = None
class M(msgspec.Struct, rename='camel'):
    any_one: Any = None
    u: Union[SomeBytes, SomeRaw, None] = None
    row: Listed = None
    l: List[Union[int, Decimal]] = []
    f: float = 0
    within: Within = None
    pair: Tuple[Decimal, Any] = None
    by: Dict[int, Decimal] = {}
    o: Optional[Decimal] = None
    took: datetime.timedelta = None
    s: Set[int] = set()
    frozen: FrozenSet[bytes] = frozenset()
"""


def test_rules_of_msgspec_beside_bytes() -> None:
    module.msgspec = pytest.importorskip("msgspec", reason="not for every Python")
    for text, wanted in (
        ('{"anyOne":[@,1.10]}', "M(any_one=[b'\\xff', 1.1]"),
        ('{"u":{"type":"t","b":"aGk=","a":[@]}}', "u=SomeBytes(b=b'hi', a=[b'\\xff'])"),
        ('{"anyOne":@,"u":{"type":"u","d":100000000000000000.01}}', "u=SomeRaw(d=Decimal('100000000000000000.01'), "),
        ('{"row":["row",1.10,{"k":@}]}', "row=Listed(d=Decimal('1.10'), a={'k': b'\\xff'})"),
        ('{"anyOne":@,"l":[1,1.10,1e400],"f":1.10}', "l=[1, Decimal('1.10'), Decimal('1E+400')], f=1.1,"),
        ('{"within":{"d":1.10,"b":"aGk=","a":@}}', "Within(d=Decimal('1.10'), b=b'hi', a=b'\\xff')"),
        ('{"pair":[1.10,@]}', "pair=(Decimal('1.10'), b'\\xff')"),
        ('{"anyOne":@,"by":{"1":1.10},"o":1e400}', "by={1: Decimal('1.10')}, o=Decimal('1E+400')"),
        ('{"anyOne":@,"took":"PT1S","s":[1]}', "took=datetime.timedelta(seconds=1), s={1}"),
        ('{"frozen":[@]}', "frozen=frozenset({b'\\xff'})"),
    ):
        function = define(STRUCTS + "def f(x: M): return repr(x)\n")
        assert wanted in arrives(function, text.replace("@", '"@/w=="')), text
    for text in (
        '{"anyOne":@,"f":1e400}',
        '{"anyOne":[@,1e400]}',
        '{"u":{"type":"z","a":@}}',
        '{"s":[@]}',
        '{"within":{"d":1,"b":"?","a":@}}',
    ):
        with pytest.raises(BindError):
            arrives(define(STRUCTS + "def f(x: M): return x\n"), text.replace("@", '"@/w=="'))


def test_a_raw_is_json_both_ways() -> None:
    msgspec = module.msgspec = pytest.importorskip("msgspec", reason="not for every Python")
    function = define(STRUCTS + "def f(x: SomeRaw): return bytes(x.r)\n")
    assert arrives(function, '{"type":"u","r":{"k":["@/w==",1.10]}}') == b'{"k":["/w==",1.10]}'
    assert msgspec.json.decode(b'"/w=="', type=bytes) == b"\xff"  # by its rules bytes are that text in JSON
    value = [msgspec.Raw(b' {"a": [1, 2.5]} '), module.SomeRaw(r=msgspec.Raw(b"1"))]
    for text in (encode(value), _blobs.encode(value, 0)[0]):
        assert json.loads(text) == [{"a": [1, 2.5]}, {"type": "u", "d": None, "r": 1}]
    for data in (b"", b'{"a"', b"1 2", b"\xff"):
        with pytest.raises(ResultError) as refusal:
            encode([msgspec.Raw(data)])
        assert "this Raw is no JSON" in refusal.value.fields["message"] and refusal.value.fields["path"] == "$[0]"


def test_arrays_beside_decimals() -> None:
    np = pytest.importorskip("numpy", reason="not for every Python")
    module.pydantic, module.msgspec = pytest.importorskip("pydantic"), pytest.importorskip("msgspec")
    from pypool import _bind
    from pypool._commands import Command
    from pypool._forms import scan_exactly

    for head in ("class M(pydantic.BaseModel):", "class M(msgspec.Struct):"):
        entry = Command("f", "command", define(head + "\n    d: Decimal\n    a: Any\ndef f(x: M): return x\n"))
        args = scan_exactly('{"x":{"d":100000000000000000.01,"a":null}}', 0)[0]
        args["x"]["a"] = array = np.zeros(2)
        positional, keyword = _bind.bind(entry, args)
        got = [*positional, *keyword.values()][0]
        assert got.d == module.Decimal("100000000000000000.01") and got.a is array


#: How pydantic has a value in JSON, and only there.
ONLY_IN_JSON = "Mark = Annotated[int, pydantic.PlainSerializer(lambda n: '#%d' % n, when_used='json')]\n"
PARTS = """
class Part(pydantic.BaseModel):
    b: bytes = b'\\xff'
    n: Mark = 5
class Named(pydantic.BaseModel):
    model_config = {'serialize_by_alias': True}
    b: bytes = pydantic.Field(b'\\xff', serialization_alias='Bee')
    n: Mark = pydantic.Field(5, serialization_alias='En')
class Couple(NamedTuple):
    b: bytes
    n: Mark = 5
@dataclasses.dataclass
class Data:
    b: bytes
    n: Mark = 5
"""
PART = {"b": "/w==", "n": "#5"}


@pytest.mark.parametrize(
    ("hint", "value", "wanted"),
    [
        ("bytes", "b'\\xff'", "/w=="),
        ("Part", "Part()", PART),
        ("List[Named]", "[Named()] * 2", [{"Bee": "/w==", "En": "#5"}] * 2),
        ("Tuple[bytes, Mark]", "(b'\\xff', 5)", ["/w==", "#5"]),
        ("Couple", "Couple(b'\\xff')", ["/w==", "#5"]),
        ("Data", "Data(b'\\xff')", PART),
        ("collections.deque", "collections.deque([b'\\xff'])", ["/w=="]),
        ("FrozenSet[bytes]", "{b'\\xff'}", ["/w=="]),
        ("Dict[Tuple[int, int], Part]", "{(1, 2): Part()}", {"1,2": PART}),
        ("Dict[datetime.date, bytes]", "{datetime.date(2026, 1, 2): b'\\xff'}", {"2026-01-02": "/w=="}),
        ("Any", "[b'\\xff', {'k': Part()}, 1]", ["/w==", {"k": PART}, 1]),
    ],
)
@pytest.mark.parametrize("sort", ["class M(pydantic.BaseModel):", "@pydantic.dataclasses.dataclass\nclass M:"])
def test_bytes_change_nothing_else_in_a_model(sort: str, hint: str, value: str, wanted: Any) -> None:
    module.pydantic = pytest.importorskip("pydantic", minversion="2.11", reason="not for every Python")
    import pydantic.dataclasses  # noqa: F401

    fields = "    x: %s\n    n: Mark = 5\n    took: datetime.timedelta = datetime.timedelta(1)\n    day: datetime.date = datetime.date(2026, 1, 2)\n"
    source = "import collections\nfrom typing import *\n" + ONLY_IN_JSON + PARTS + sort + "\n" + fields % hint
    function = define(source + "def f(): return M(x=%s)\n" % value)
    assert json.loads(encode(function())) == {"x": wanted, "n": "#5", "took": "P1D", "day": "2026-01-02"}


def test_bytes_that_no_field_of_a_model_names() -> None:
    module.pydantic = pytest.importorskip("pydantic", minversion="2", reason="not for every Python")
    for body in (
        "    model_config = {'extra': 'allow'}\n",
        "    @pydantic.model_serializer\n    def form(self): return {'b': b'test', 'n': 1}\n",
        "    b: int = 0\n    n: int = 1\n    @pydantic.field_serializer('b')\n    def form(self, b): return b'test'\n",
    ):
        function = define("class M(pydantic.BaseModel):\n" + body + "def f(**more): return M(**more)\n")
        assert json.loads(encode(function(b=b"test", n=1) if "extra" in body else function())) == {"b": "dGVzdA==", "n": 1}


def test_what_pydantic_warns_of_is_told_once() -> None:
    module.pydantic = pytest.importorskip("pydantic", minversion="2", reason="not for every Python")
    function = define(
        "class M(pydantic.BaseModel):\n    b: bytes = b'\\xff'\n    n: int = 1\ndef f(): return M.model_construct(n='x')\n"
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert json.loads(encode(function())) == {"b": "/w==", "n": "x"}
    assert len(told) == 1


def test_a_model_with_another_form_in_json_around_its_bytes() -> None:
    module.pydantic = pytest.importorskip("pydantic", minversion="2", reason="not for every Python")
    head = "class M(pydantic.BaseModel):\n    b: bytes = b'test'\n    secret: str = 's'\n"
    for body in (
        "    def model_dump(self, **how): return super().model_dump(exclude={'secret'}, **how)\n",
        "    def model_dump(self, **how): return super().model_dump(**{'exclude': {'secret'}, **how})\n",
        "    @pydantic.model_serializer(mode='wrap')\n    def form(self, rest, info): return {'b': b'test'} if info.mode == 'python' else {'c': 1, 'd': 2}\n",
    ):
        assert json.loads(encode(define(head + body + "def f(): return M()\n")())) == {"b": "dGVzdA=="}


@pytest.mark.skipif(sys.version_info < (3, 9) or sys.version_info >= (3, 14), reason="pydantic.v1 is not for every Python")
def test_encoders_of_a_model_of_pydantic_1() -> None:
    module.v1 = pytest.importorskip("pydantic.v1", reason="not for every Python")
    function = define(
        "class M(v1.BaseModel):\n    class Config:\n        json_encoders = {datetime.date: lambda day: day.year, str: len}\n"
        "    day: datetime.date = datetime.date(2026, 1, 2)\n    days: List[datetime.date] = [day]\n    took: datetime.timedelta = datetime.timedelta(1)\n"
        "    word: v1.SecretStr = v1.SecretStr('x')\n    text: str = 'a'\n    b: bytes = b'\\xff'\n    price: Decimal = Decimal('0.10')\n"
        "def f(): return M()\n"
    )
    wanted = {"day": 2026, "days": [2026], "took": 86400.0, "word": "**********", "text": "a", "b": "/w==", "price": "0.10"}
    assert json.loads(encode(function())) == wanted


@pytest.mark.skipif(sys.version_info < (3, 9) or sys.version_info >= (3, 14), reason="pydantic.v1 is not for every Python")
def test_keys_in_a_model_of_pydantic_1_are_those_of_its_json() -> None:
    module.v1 = pytest.importorskip("pydantic.v1", reason="not for every Python")
    source = "from typing import *\nclass Nine(enum.IntEnum): IX = 9\nclass M(v1.BaseModel):\n    by: Dict[Any, Any]\ndef f(by): return [M(by=by)]\n"
    function = define(source)
    for by in ({1: 2.0}, {1.0: 1, -0.5: 2}, {True: 1}, {None: 1}, {module.Nine.IX: 1}, {"a": [{2: {3: 4}}]}):
        made = function(by)
        assert json.loads(encode(made)) == [json.loads(made[0].json())], by
    for key in (float("nan"), (1, 2), module.datetime.date(2026, 1, 2)):
        with pytest.raises(ResultError) as refusal:
            encode(function({key: 1}))
        assert refusal.value.fields["message"].startswith("key ")


def test_base64_of_pydantic_is_bytes_for_go() -> None:
    """A []byte for a Base64Bytes is those bytes, and the other way round; text is base64."""
    module.pydantic = pytest.importorskip("pydantic", minversion="2.10", reason="not for every Python")
    function = define(
        "from typing import *\nclass Part(pydantic.BaseModel):\n    x: pydantic.Base64Bytes\n    y: bytes = b''\n"
        "class M(pydantic.BaseModel):\n    parts: List[Union[Part, int]] = []\n    more: Dict[str, pydantic.Base64UrlBytes] = {}\n"
        "    one: Optional[pydantic.Base64Bytes] = None\n    pair: Tuple[bytes, pydantic.Base64Bytes] = (b'', b'')\n"
        "def f(x: M): return x\n"
    )
    text = '{"parts":[{"x":"@dGVzdA==","y":"@dGVzdA=="},{"x":"dGVzdA=="},7],"more":{"k":"@+/8="},"one":"@/w==","pair":["@dGVzdA==","@dGVzdA=="]}'
    got = arrives(function, text)
    assert [got.parts[0].x, got.parts[0].y, got.parts[1].x, got.parts[2]] == [b"test", b"test", b"test", 7]
    assert (got.more["k"], got.one, got.pair) == (b"\xfb\xff", b"\xff", (b"test", b"test"))
    assert json.loads(encode(got)) == {
        "parts": [{"x": "dGVzdA==", "y": "dGVzdA=="}, {"x": "dGVzdA==", "y": ""}, 7],
        "more": {"k": "+/8="},
        "one": "/w==",
        "pair": ["dGVzdA==", "dGVzdA=="],
    }
    many = arrives(function, '{"parts":[%s]}' % ",".join(['{"x":"@dGVzdA=="}'] * 300))
    assert {part.x for part in many.parts} == {b"test"}
    with pytest.raises(BindError, match="base64"):
        arrives(function, '{"one":"x"}')
    root = define("class R(pydantic.RootModel[List[pydantic.Base64Bytes]]): pass\ndef f(x: R): return x\n")
    assert json.loads(encode(arrives(root, '["@/w=="]'))) == ["/w=="]


def test_what_pydantic_has_no_json_for() -> None:
    np = module.np = pytest.importorskip("numpy", reason="not for every Python")
    module.pydantic = pytest.importorskip("pydantic", minversion="2", reason="not for every Python")
    pandas = pytest.importorskip("pandas", reason="not for every Python")
    function = define(
        "class M(pydantic.BaseModel):\n    model_config = {'arbitrary_types_allowed': True}\n    x: Any\n    took: datetime.timedelta = datetime.timedelta(1)\n"
        "def f(x): return [M(x=x)]\n"
    )
    for value, wanted in (
        (np.float32(1.5), 1.5),
        ([np.arange(2), {"k": np.bool_(True)}, 1], [[0, 1], {"k": True}, 1]),
        ({np.int8(2)}, [2]),
        (memoryview(b"\xff"), "/w=="),
        (float("inf"), None),
    ):
        assert json.loads(encode(function(value))) == [{"x": wanted, "took": "P1D"}]
    text, blobs, payloads = _blobs.encode(function({"k": np.arange(2.0)}), 0)
    assert json.loads(text) == [{"x": {"k": None}, "took": "P1D"}] and '"float64"' in blobs and len(payloads) == 1
    with pytest.raises(ResultError) as refusal:
        encode(function({"k": pandas.DataFrame()}))
    assert refusal.value.fields["path"] == "$[0].x.k" and "have Go ask for a pypoolarrow.Table" in refusal.value.fields["message"]


def test_what_tells_pydantic_how_it_looks() -> None:
    """A hint that pydantic converts is a result, too."""
    pydantic = module.pydantic = pytest.importorskip("pydantic", minversion="2", reason="not for every Python")
    own = (
        "class Own:\n    def __init__(self, n): self.n = n\n    @classmethod\n    def __get_pydantic_core_schema__(cls, source, handler):\n"
        "        from pydantic_core import core_schema as s\n"
        "        form = s.plain_serializer_function_ser_schema(lambda one: [one.n])\n"
        "        return s.no_info_plain_validator_function(lambda v: v if isinstance(v, cls) else cls(v[0]), serialization=%s)\n"
    )
    for hint, text in (("pydantic.HttpUrl", '"http://a.b/"'), ("pydantic.ByteSize", "5"), ("Own", "[7]")):
        function = define(own % "form" + "def f(x: %s): return x\n" % hint)
        got = arrives(function, text) if hint != "Own" else module.Own(7)
        assert encode([got]) == "[%s]" % text
    assert encode({"k": pydantic.SecretStr("x")}) == '{"k":"**********"}'
    define(own % "None" + "def f(): pass\n")
    with pytest.raises(ResultError) as refusal:
        encode([module.Own(1)])
    assert refusal.value.fields["path"] == "$[0]" and "Own" in refusal.value.fields["message"]
    function = define("def f() -> Dict[pydantic.HttpUrl, int]: return {pydantic.HttpUrl('http://a.b/'): 1}\n")
    entry = Command("f", "command", function)
    assert encode(_bind.outgoing(entry)(function())) == '{"http://a.b/":1}'
