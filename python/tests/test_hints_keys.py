"""Keys that are no text, in results: what goes out comes in again by the same hint, or is refused."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from conftest import Start
from test_hints import arrives, define, module, same

from pypool import _bind, _schema
from pypool._commands import Command
from pypool._results import encode
from pypool._wire import ResultError


def sent(hint: str, value: str) -> str:
    function = define("def f(x) -> %s: return x\n" % hint)
    change: Any = _bind.outgoing(Command("f", "command", function)) or (lambda value: value)
    return encode(change(eval(value, vars(module))))


def returned(hint: str, text: str) -> Any:
    """What a handler gets."""
    return arrives(define("def f(x: %s): return x\n" % hint), text)


STANDARD = [
    ("int", "1, -2"),
    ("float", "1.5, -0.5, 1e300"),
    ("float", "1"),
    ("bool", "True, False"),
    ("Decimal", "Decimal('1.10'), Decimal('1E+400')"),
    ("Level", "Level.LOW"),
    ("Color", "Color.RED"),
    ("datetime.date", "datetime.date(2026, 1, 2)"),
    ("datetime.datetime", "datetime.datetime(2026, 1, 2)"),
    ("datetime.timedelta", "datetime.timedelta(seconds=1)"),
    ("uuid.UUID", "uuid.UUID(int=7)"),
    ("Literal[1, 2]", "1"),
    ("Union[int, float]", "1, 1.5"),
    ("Union[int, bool]", "False, 1"),
    ("Union[int, datetime.date]", "1, datetime.date(2026, 1, 2)"),
    ("Union[int, str]", "'1', 'a'"),
    ("Tuple[int, datetime.date]", "(1, datetime.date(2026, 1, 2))"),
    ("Tuple[Decimal, int]", "(Decimal('100000000000000000.01'), 1)"),
    ("tuple", "(1, ('a', (2.5, None)))"),
    ("Pair", "Pair(datetime.date(2026, 1, 2), 1.5)"),
]
NUMPY = [
    ("np.int64", "np.int64(-1)"),
    ("np.int8", "np.int8(127)"),
    ("np.uint64", "np.uint64(2**64 - 1)"),
    ("np.integer", "np.int64(1)"),
    ("np.float64", "np.float64(0.1)"),
    ("np.float32", "np.float32(0.1)"),
    ("np.bool_", "np.bool_(True)"),
    ("np.datetime64", "np.datetime64('2026-01-02')"),
    ("np.timedelta64", "np.timedelta64(5, 'ns')"),
    ("np.int64", "5"),
    ("int", "np.int64(5)"),
]


def back(hint: str, keys: str) -> None:
    value = "{key: i for i, key in enumerate([%s])}" % keys
    whole = "Dict[%s, int]" % hint
    wanted = eval(value, vars(module))
    got = returned(whole, sent(whole, value))
    assert got == wanted and list(map(str, got.values())) == list(map(str, wanted.values()))
    if "np" in hint:
        assert all(type(key).__module__ == "numpy" for key in got)


@pytest.mark.parametrize(("hint", "keys"), STANDARD)
def test_what_goes_out_comes_in_again(hint: str, keys: str) -> None:
    back(hint, keys)


@pytest.mark.parametrize(("hint", "keys"), NUMPY)
def test_keys_of_numpy(hint: str, keys: str) -> None:
    module.np = pytest.importorskip("numpy", reason="not for every Python")
    back(hint, keys)


def test_numbers_of_numpy_that_do_not_fit() -> None:
    module.np = pytest.importorskip("numpy", reason="not for every Python")
    for hint, key in (("np.int8", "128"), ("np.int64", "1.0"), ("np.int64", "x"), ("np.float32", "16777217"), ("np.bool_", "1")):
        with pytest.raises(Exception, match="expected "):
            returned("Dict[%s, int]" % hint, '{"%s": 1}' % key)


def test_a_decimal_in_a_key_is_exact() -> None:
    for number in ("100000000000000000.01", '"100000000000000000.01"'):
        text = json.dumps({"[%s]" % number: 1})
        wanted = {(module.Decimal(json.loads(number, parse_float=str)),): 1}
        assert same(returned("Dict[Tuple[Decimal], int]", text), wanted)


@pytest.mark.parametrize(
    ("hint", "key"),
    [
        ("int", "True"),
        ("int", "1.0"),
        ("int", "1.5"),
        ("int", "'x'"),
        ("int", "datetime.date(2026, 1, 2)"),
        ("float", "True"),
        ("float", "2**53 + 1"),
        ("bool", "1"),
        ("Level", "7"),
        ("Literal[1, 2]", "True"),
        ("Literal[1, 2]", "3"),
        ("datetime.date", "datetime.datetime(2026, 1, 2)"),
        ("datetime.datetime", "datetime.date(2026, 1, 2)"),
        ("uuid.UUID", "1"),
        ("Union[int, str]", "1"),
        ("Union[datetime.date, str]", "datetime.date(2026, 1, 2)"),
        ("Tuple[int, int]", "(1,)"),
        ("Tuple[int, datetime.date]", "(1, 2)"),
        ("Point", "1"),
    ],
)
def test_what_would_not_come_back_is_refused(hint: str, key: str) -> None:
    for holder, path in (("%s", "$"), ("List[%s]", "$[0]"), ("Dict[str, %s]", "$.k")):
        value = {"$": "{%s: 1}", "$[0]": "[{%s: 1}]", "$.k": '{"k": {%s: 1}}'}[path] % key
        with pytest.raises(ResultError) as refusal:
            sent(holder % ("Dict[%s, int]" % hint), value)
        fields = refusal.value.fields
        assert fields["path"] == path
        assert fields["message"].startswith("key ") and "as text it would " in fields["message"], fields


DERIVED = """
KeyVar = TypeVar("KeyVar")
ItemVar = TypeVar("ItemVar")
class Scores(Dict[KeyVar, ItemVar]): pass
class Named(Scores[str, ItemVar]): pass
class Days(Scores[datetime.date, List[Dict[int, ItemVar]]], Generic[ItemVar]): pass
class Ints(Dict[int, float]): pass
class Grouped(DefaultDict[int, ItemVar]): pass
class Swapped(Dict[ItemVar, KeyVar], Generic[KeyVar, ItemVar]): pass
"""
BOX = """
class Box(TypedDict, Generic[KeyVar, ItemVar]):
    x: ItemVar
    by: Dict[KeyVar, ItemVar]
"""
HEAD = "from typing import *\nimport collections\n"


def test_a_class_derived_from_dict_has_the_keys_of_its_base() -> None:
    define(HEAD + DERIVED + "def f(): pass\n")
    for hint, value, wanted, told in (
        ("Named[int]", "Named(a=1)", '{"a":1}', {"of": [{"type": "integer"}]}),
        ("Days[str]", "Days({datetime.date(2026, 1, 2): [{1: 'a'}]})", '{"2026-01-02":[{"1":"a"}]}', None),
        ("Ints", "Ints({1: 2.0})", '{"1":2.0}', {"key": {"type": "integer"}, "of": [{"type": "number"}]}),
        ("Grouped[str]", "Grouped(list, {1: 'a'})", '{"1":"a"}', {"key": {"type": "integer"}, "of": [{"type": "string"}]}),
        ("Swapped[str, int]", "Swapped({1: 'a'})", '{"1":"a"}', {"key": {"type": "integer"}, "of": [{"type": "string"}]}),
        ("Union[Named[int], Ints]", "Ints({1: 2.0})", '{"1":2.0}', None),
        ("Union[Ints, Named[str]]", "Named(a='b')", '{"a":"b"}', None),
    ):
        assert sent(hint, value) == wanted, hint
        found = _schema.schema(Command("f", "command", define("def f() -> %s: pass\n" % hint)))["returns"]
        assert told is None or found == {"type": "map", **told}, hint


@pytest.mark.skipif(sys.version_info < (3, 11), reason="generic ones are new in Python 3.11")
def test_a_generic_typed_dict_is_no_map() -> None:
    define(HEAD + DERIVED + BOX + "def f(): pass\n")
    assert sent("Box[int, float]", "{'x': 1.5, 'by': {2: 0.5}}") == '{"x":1.5,"by":{"2":0.5}}'
    assert sent("List[Box[str, int]]", "[{'x': 1, 'by': {'a': 2}}]") == '[{"x":1,"by":{"a":2}}]'
    assert sent("Union[Dict[int, int], Box[str, int]]", "{'x': 1, 'by': {'a': 2}}") == '{"x":1,"by":{"a":2}}'


@pytest.mark.parametrize("hint", ["Deque", "Sequence", "Collection", "List", "Iterable", "Reversible"])
def test_keys_in_whatever_becomes_an_array(hint: str) -> None:
    define(HEAD + "def f(): pass\n")
    for value in ("[%s]", "(%s,)", "collections.deque([%s])", "collections.UserList([%s])"):
        assert sent("%s[Dict[int, float]]" % hint, value % "{1: 2.0}") == '[{"1":2.0}]'
        assert sent("Tuple[Dict[int, float], ...]", value % "{1: 2.0}") == '[{"1":2.0}]'
        with pytest.raises(ResultError) as refusal:
            sent("%s[Dict[int, float]]" % hint, value % "{True: 2.0}")
        assert refusal.value.fields["path"] == "$[0]"


def test_text_is_sent_where_the_hint_can_read_it() -> None:
    assert sent("Dict[int, int]", "{1: 1, '2': 2}") == '{"1":1,"2":2}'
    assert sent("Dict[Color, int]", "{'red': 1}") == '{"red":1}'


def test_the_refusal_through_a_worker(start: Start) -> None:
    worker = start(
        """
        import typing
        @command
        def counts(x) -> typing.Dict[int, int]: return {eval(x): 1}
        @command(nan="null")
        def nulled() -> typing.List[typing.Dict[int, float]]: return [{1: 1.0}, {True: float("nan")}]
        @command
        def twice() -> typing.List[typing.Dict[int, float]]: return [{}, {1: 1.0, "1": 2.0}]
        """
    )
    for _ in range(2):
        assert worker.result("counts", ["1"]) == {"1": 1}
        error = worker.error("counts", ["True"])
        assert error["kind"] == "invalid_result" and error["message"].startswith(
            "key True of type bool is not for the result's hint"
        )
        error = worker.error("nulled")
        assert error["path"] == "$[1]" and error["message"].startswith("key True of type bool is not for the result's hint")
        assert worker.error("twice") == {"kind": "invalid_result", "message": "two keys are '1' as text", "path": "$[1]"}


def test_a_union_whose_other_member_fits() -> None:
    for hint, value, wanted in (
        ("Union[Dict[int, float], Dict[str, str]]", "{'error': 'no data'}", '{"error":"no data"}'),
        ("Union[Dict[int, float], Dict[str, str]]", "{1: 2.0}", '{"1":2.0}'),
        ("Union[Dict[str, str], Dict[int, float]]", "{1: 2.0}", '{"1":2.0}'),
        ("Union[Dict[int, float], Dict[datetime.date, str]]", "{datetime.date(2026, 1, 2): 'a'}", '{"2026-01-02":"a"}'),
        ("Union[Dict[datetime.date, str], Dict[int, float]]", "{1: 2.0}", '{"1":2.0}'),
        ("Union[str, List[Dict[int, float]], Dict[str, int]]", "[{1: 2.0}]", '[{"1":2.0}]'),
        ("Union[Page[Dict[int, float]], Dict[str, int]]", "Page([{1: 2.0}])", '{"items":[{"1":2.0}]}'),
        ("Union[List[Dict[int, int]], List[Dict[datetime.date, int]]]", "[{datetime.date(2026, 1, 2): 1}]", '[{"2026-01-02":1}]'),
        ("Optional[Dict[int, float]]", "None", "null"),
        ("Union[Dict[int, float], Dict[str, datetime.date]]", "{'a': datetime.date(2026, 1, 2)}", '{"a":"2026-01-02"}'),
        ("Union[List[Dict[int, float]], List[Dict[str, str]]]", "[{'a': 'b'}]", '[{"a":"b"}]'),
        ("Union[Dict[int, float], Any]", "{1: 2.0}", '{"1":2.0}'),
    ):
        assert sent(hint, value) == wanted, (hint, value)
    for hint in ("Union[Dict[int, float], str]", "Union[Dict[int, float], Dict[datetime.date, str]]"):
        with pytest.raises(ResultError) as refusal:
            sent(hint, "{1.5: 2.0}")
        assert refusal.value.fields["message"].startswith("key 1.5 of type float is not for the result's hint")


def test_keys_in_a_dataclass_of_pydantics_are_those_of_its_json() -> None:
    module.pydantic = pytest.importorskip("pydantic", minversion="2", reason="not for every Python")
    import pydantic.dataclasses  # noqa: F401

    for hint, value, wanted in (
        ("Tuple[int, int]", "{(1, 2): 0.5}", {"1,2": 0.5}),
        ("datetime.timedelta", "{datetime.timedelta(1): 0.5}", {"P1D": 0.5}),
        ("bytes", "{b'a': 0.5}", {"a": 0.5}),
        ("int", "{1: 0.5}", {"1": 0.5}),
    ):
        for head in ("@pydantic.dataclasses.dataclass\nclass D:", "class D(pydantic.BaseModel):"):
            define("from typing import *\n%s\n    by: Dict[%s, float]\ndef f(): pass\n" % (head, hint))
            assert json.loads(sent("List[D]", "[D(by=%s)]" % value)) == [{"by": wanted}], (head, hint)
            assert json.loads(sent("Dict[int, D]", "{1: D(by=%s)}" % value)) == {"1": {"by": wanted}}, (head, hint)
