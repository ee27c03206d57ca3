"""Decimals are exact where no float holds what was sent; what is no Decimal beside them is refused it."""

from __future__ import annotations

import json
from typing import Any, Dict

import pytest
from conftest import Start
from host import Host
from test_hints import arrives, define, module

from pypool import _bind, _schema
from pypool._commands import Command
from pypool._convert import key_text, without_nan
from pypool._forms import scan_exactly
from pypool._results import encode
from pypool._wire import BindError, ResultError


def got(hint: str, text: str, source: str = "") -> str:
    return repr(arrives(define(source + "def f(x: %s): return x\n" % hint), text))


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1E+999999", "1e-400", "100000000000000000.01"])
@pytest.mark.parametrize(
    ("hint", "text"),
    [
        ("Decimal", "%s"),
        ("Optional[Decimal]", "%s"),
        ("List[Decimal]", "[%s]"),
        ("Dict[str, Decimal]", '{"k":%s}'),
        ("Dict[Decimal, int]", '{"%s":1}'),
        ("Dict[Tuple[Decimal, int], int]", '{"[%s,1]":1}'),
        ("Tuple[float, Decimal]", "[1,%s]"),
        ("Tuple[Any, List[Decimal]]", '[{"a":[1.5]},[%s]]'),
        ("Union[int, Decimal]", "%s"),
        ("Page[Decimal]", '{"items":[%s]}'),
    ],
)
def test_every_digit_arrives(hint: str, text: str, number: str) -> None:
    assert repr(module.Decimal(number)) in got(hint, text % number)


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        ("Tuple[float, Decimal]", "[1e400,1]"),
        ("Tuple[int, Decimal]", "[1e400,1]"),
        ("Tuple[Any, Decimal]", '[{"a":[1e400]},1]'),
        ("Tuple[List[float], Decimal]", "[[1.5,-1e400],1]"),
        ("Tuple[Optional[float], Decimal]", "[1e400,1]"),
        ("Tuple[Union[int, List[Any]], Decimal]", "[[1e400],1]"),
        ("Tuple[Dict[str, Any], Decimal]", '[{"k":1e400},1]'),
        ("Tuple[Keys, Decimal]", '[{"known":1,"other":1e400},1]'),
        ("Tuple[Taking, Decimal]", '[{"other":1e400},1]'),
    ],
)
def test_what_is_no_decimal_is_refused_it(hint: str, text: str) -> None:
    with pytest.raises(BindError, match="expected numbers that a float holds, got an? .*1e400"):
        got(hint, text)


OTHERS = """
from typing import TypedDict
class Keys(TypedDict):
    known: int
@dataclasses.dataclass
class Taking:
    known: int = 0
    def __init__(self, **more): self.more = more
class Half(enum.Enum):
    HALF = 0.5
    ONE = 1
"""
# With a file's name, without which an __init__ is taken for one that dataclass has written
exec(compile(OTHERS, "others.py", "exec"), vars(module))


def test_what_is_no_decimal_is_a_float() -> None:
    for hint, text, wanted in (
        ("Tuple[Keys, Decimal]", '[{"other":[1.5]},1]', "({'other': [1.5]}, Decimal('1'))"),
        ("Tuple[Literal[Half.HALF, Half.ONE], Decimal]", "[0.5,1]", "(<Half.HALF: 0.5>, Decimal('1'))"),
        ("Tuple[Half, Decimal]", "[0.5,1]", "(<Half.HALF: 0.5>, Decimal('1'))"),
    ):
        assert got(hint, text) == wanted
    value = arrives(define("def f(x: Tuple[Keys, Taking, Decimal]): return x\n"), '[{"a":1.5},{"b":1.5},1]')
    assert (type(value[0]["a"]), type(value[1].more["b"])) == (float, float)
    with pytest.raises(BindError, match="expected one of 0.5, 1"):
        got("Tuple[Literal[Half.HALF, Half.ONE], Decimal]", "[1.0,1]")


def test_float_or_decimal() -> None:
    assert got("Union[float, Decimal]", "1e400") == got("Union[Decimal, float]", "1e400") == "Decimal('1E+400')"
    assert got("Union[float, Decimal]", "1.5") == "1.5"


@pytest.mark.parametrize("text", ["NaN", "sNaN", "-nan123", "Infinity", "-inf", " Infinity "])
def test_what_is_no_finite_number_is_no_decimal(text: str) -> None:
    for hint, args in (
        ("Decimal", '"%s"'),
        ("List[Decimal]", '["%s"]'),
        ("Dict[Decimal, int]", '{"%s":1}'),
        ("Union[int, Decimal]", '"%s"'),
    ):
        with pytest.raises(BindError, match="expected .*Decimal.*, got"):
            got(hint, args % text)
    for value, lacking in (
        (module.Decimal(text), None),
        ([module.Decimal(text)], [None]),
        ({"k": module.Decimal(text)}, {"k": None}),
    ):
        with pytest.raises(ResultError) as error:
            encode(value)
        assert "%s is not JSON: put None in its place, or use @command" % module.Decimal(text) in error.value.fields["message"]
        assert json.loads(encode(without_nan(value))) == lacking
    with pytest.raises(TypeError):  # as a float
        key_text(module.Decimal(text))


def test_a_finite_decimal_is_read_as_pydantic_does() -> None:
    assert got("Decimal", '" 1_0 "') == "Decimal('10')"


SCRIPT = """
    from decimal import Decimal
    from typing import Any, List
    @command
    def price(x: Decimal, y: Any = None): return [str(x), y]
    @command(max_batch_size=4)
    def prices(x: List[Decimal], y: List[float] = 0.0): return [str(one) for one in x]
    @command
    def plain(x): return x
    @program("price")
    def priced(x: Decimal): return str(x)
    @program("plain")
    def untyped(x=None): return x
"""


def raw(worker: Host, id: int, line: str) -> Dict[str, Any]:
    worker.write(line.encode() + b"\n")
    answer: Dict[str, Any] = worker.receive()
    assert answer["id"] == id, answer
    return answer


def test_in_lines_of_every_kind(start: Start) -> None:
    worker = start(SCRIPT)
    answer = raw(worker, 1, '{"id":1,"command":"price","args":{"x":1e400}}')
    assert answer["result"] == ["1E+400", None]
    answer = raw(worker, 2, '{"args":{"x":1e400},"command":"price","id":2}')  # in no host's order
    assert answer["result"] == ["1E+400", None]
    answer = raw(worker, 3, '{"id":3,"command":"price","args":{"x":1,"y":[1e400]}}')
    assert answer["error"]["kind"] == "invalid_arguments" and "1e400" in answer["error"]["message"]
    for line in ('{"id":4,"command":"plain","args":{"x":1e400}}', '{"args":{"x":1e400},"command":"plain","id":4}'):
        answer = raw(worker, 4, line)
        assert answer["error"] == {
            "kind": "invalid_arguments",
            "message": "the arguments cannot be read: number out of range: 1e400",
        }
    worker.write(b'{"packed":[5,{"x":1e400},6,{"x":2e400}],"command":"price"}\n')
    assert [worker.receive()["result"][0] for _ in range(2)] == ["1E+400", "2E+400"]
    answer = raw(worker, 7, '{"id":7,"command":"execute_program","args":{"program_id":"price","inputs":{"x":1e400}}}')
    assert answer["result"] == "1E+400"
    answer = raw(worker, 8, '{"id":8,"command":"execute_program","args":{"program_id":"plain","inputs":{"x":1e400}}}')
    assert answer["error"] == {
        "kind": "invalid_arguments",
        "message": "plain: the inputs cannot be read: number out of range: 1e400",
    }
    worker.write(
        b'{"batch":[{"id":9,"command":"prices","args":{"x":1e400}},{"id":10,"command":"prices","args":{"x":1,"y":1e400}}]}\n'
    )
    answers = {answer["id"]: answer for answer in (worker.receive(), worker.receive())}
    assert answers[9]["result"] == "1E+400" and answers[10]["error"]["kind"] == "invalid_arguments"
    assert worker.result("plain", {"x": 1.5}) == 1.5


PYDANTIC = (
    "class P(pydantic.BaseModel):\n    d: Decimal = None\n    f: float = 0\n    a: Any = None\n    s: str = ''\n"
    "    b: bytes = b''\n    l: List[Decimal] = []\n    u: Union[float, Decimal] = 0\n"
)


def test_models_of_pydantic() -> None:
    module.pydantic = pytest.importorskip("pydantic", reason="not for every Python")
    for text, wanted in (
        ('{"d":1e400,"f":1.5}', "d=Decimal('1E+400') f=1.5"),
        ('{"d":100000000000000000.01,"a":100000000000000000.01}', "d=Decimal('100000000000000000.01') f=0 a=1e+17"),
        ('{"l":[-1e400,2e400],"u":1e400}', "l=[Decimal('-1E+400'), Decimal('2E+400')] u=Decimal('1E+400')"),
        ('{"d":100000000000000000.01,"a":100000000000000000.01,"b":"@/w=="}', "Decimal('100000000000000000.01') f=0 a=1e+17"),
        ('{"d":1e400,"b":"@/w=="}', "d=Decimal('1E+400')"),
    ):
        assert wanted in str(arrives(define(PYDANTIC + "def f(x: P): return x\n"), text)), text
    for text in ('{"f":1e400}', '{"a":1e400}', '{"d":1,"s":1e400}', '{"f":1e400,"b":"@/w=="}', '{"s":100000000000000000.01}'):
        with pytest.raises(BindError):
            got("P", text, PYDANTIC)


_FIELDS = "    d: Decimal\n    raw: pydantic.Base64Bytes = b''\n"
_LATER = "class Later(pydantic.BaseModel):\n    n: Decimal = 1\n"
UNBUILT = {
    "forward": "class O(pydantic.BaseModel):\n    lines: List['Later'] = []\n" + _FIELDS + _LATER,
    "deferred": _LATER + "class O(pydantic.BaseModel, defer_build=True):\n    lines: List[Later] = []\n" + _FIELDS,
    "dataclass": "@pydantic.dataclasses.dataclass\nclass O:\n    lines: List['Later']\n" + _FIELDS + _LATER,
}


@pytest.mark.parametrize("sort", UNBUILT)
def test_models_that_pydantic_builds_upon_their_first_use(sort: str) -> None:
    module.pydantic = pytest.importorskip("pydantic", minversion="2.10", reason="not for every Python")
    import pydantic.dataclasses  # noqa: F401

    vars(module).pop("Later", None)
    function = define(UNBUILT[sort] + "def f(x: O): return x\n")
    schema = _schema.schema(Command("f", "command", function))["input_types"]
    assert schema["hinted.O"]["fields"][0]["type"] == {"type": "array", "of": [{"type": "ref", "name": "hinted.Later"}]}
    for digits, wanted in (("100000000000000000.01", "100000000000000000.01"), ("1e400", "1E+400")):
        vars(module).pop("Later", None)
        function = define(UNBUILT[sort] + "def f(x: O): return x\n")
        made = arrives(function, '{"lines":[{"n":%s}],"d":%s,"raw":"@dGVzdA=="}' % (digits, digits))
        assert (str(made.lines[0].n), str(made.d), made.raw) == (wanted, wanted, b"test")
        assert str(arrives(function, '{"lines":[],"d":%s}' % digits).d) == wanted


def test_a_model_whose_other_classes_come_with_its_first_call() -> None:
    module.pydantic = pytest.importorskip("pydantic", minversion="2.10", reason="not for every Python")
    vars(module).pop("Later", None)
    function = define(UNBUILT["forward"].partition("class Later")[0] + "def f(x: O): return x\n")
    entry = Command("f", "command", function)
    assert _bind.exact(entry)

    def call(args: Any) -> Any:
        positional, keyword = _bind.bind(entry, args)
        return function(*positional, **keyword)

    with pytest.raises(Exception, match="not fully defined"):
        call({"x": {"d": 1.5}})
    module.Later = int
    made = call(scan_exactly('{"x":{"lines":[1],"d":1e400}}', 0)[0])
    assert (made.lines, str(made.d)) == ([1], "1E+400")
    assert call({"x": {"d": 1, "raw": b"test"}}).raw == b"test"


def test_structs_of_msgspec() -> None:
    module.msgspec = pytest.importorskip("msgspec", reason="not for every Python")
    source = "class S(msgspec.Struct):\n    d: Decimal = None\n    f: float = 0\n    a: Any = None\n"
    assert got("S", '{"d":-1e400,"f":1}', source) == "S(d=Decimal('-1E+400'), f=1.0, a=None)"
    for text in ('{"f":1e400}', '{"a":1e400}'):
        with pytest.raises(BindError, match="out of range"):
            got("S", text, source)
