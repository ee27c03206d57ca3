"""Frames and JSON, without a process."""

from __future__ import annotations

import collections
import enum
import json
import os
import sys
from typing import Any, Callable, Dict, List

import pytest

from pypool import _fallback, _json, _results
from pypool._channel import Channel
from pypool._requests import parse_request, predict_next
from pypool._results import encode
from pypool._wire import MAX_ID, Control, RequestError, ResultError


def parse(line: str) -> Any:
    request = parse_request(line.encode())
    assert parse_request(line.encode()) == request  # by what is remembered of the first time
    return request


def test_canonical_request() -> None:
    wanted = (7, "f", {"a": [1]}, "s", 9, True, "t")
    assert parse('{"id":7,"command":"f","args":{"a":[1]},"session_id":"s","stream":true,"timeout_ms":9,"trace":"t"}') == wanted
    assert parse('{"id":7,"command":"f","args":{"a":[1]},"session_id":"s","timeout_ms":9,"stream":true,"trace":"t"}') == wanted
    assert parse('{"id":18446744073709551615,"command":"f"}') == (2**64 - 1, "f", None, None, None, False, None)


def parse_after(id: int, command: str, line: str) -> Any:
    """What the worker makes of a line when the call before it, and the one before that, were these."""
    parse_request(('{"id":1,"command":%s,"args":0}' % json.dumps(command)).encode())  # its spelling is remembered
    predict_next(id - 1, command)
    predict_next(id, command)
    return parse_request(line.encode())


@pytest.mark.parametrize("command", ["f", "f2", 'a","args":{"k":"b', "a\\", "\u00e9\u2028", "\ud800"])
@pytest.mark.parametrize("id", [9, 10, 11, MAX_ID - 1, MAX_ID])
@pytest.mark.parametrize("tail", ["", ',"session_id":"s","timeout_ms":9', ',"stream":true'])
def test_a_predicted_line_means_what_it_says(command: str, id: int, tail: str) -> None:
    args = {"id": 3, "args": [1]}
    line = '{"id":%d,"command":%s,"args":%s%s}' % (id, json.dumps(command), json.dumps(args), tail)
    for before in (id - 1, 41):  # as predicted, and not
        found = parse_after(before, command, line)
        assert found[:3] == (id, command, args)
        assert found == parse_after(before, "another", line)


def test_the_line_behind_a_predicted_one() -> None:
    assert parse_after(7, "f", '{"id":8,"command":"f"}')[:3] == (8, "f", None)
    assert parse_after(7, "f", '{"id":8,"command":"ff","args":1}')[:3] == (8, "ff", 1)
    assert parse_after(7, "f", '{"id":8,"command":"f", "args":1}')[:3] == (8, "f", 1)
    assert parse_after(7, "f", '{"id":80,"command":"f","args":1}')[:3] == (80, "f", 1)
    assert parse_after(MAX_ID, "f", '{"id":1,"command":"f","args":1}')[:3] == (1, "f", 1)


@pytest.mark.parametrize("rest", ["", "}", "1", "1,}", '1,"stream":2}', "{]}", '1,"args":2}', "[" * 100_000, '"x', "1} 2"])
def test_a_broken_line_is_refused_as_if_it_was_not_predicted(rest: str) -> None:
    line = '{"id":8,"command":"f","args":' + rest
    refusals = []
    for before in (7, 41):
        with pytest.raises(RequestError) as refused:
            parse_after(before, "f", line)
        refusals.append((refused.value.args, vars(refused.value)))
    assert refusals[0] == refusals[1]


@pytest.mark.parametrize(
    "line",
    [
        '{"command":"f","id":7,"args":null}',
        ' { "id" : 7 ,\t"command" : "f" } \r',
        '{"id":7,"command":"f"}\r',
        '{"id":7,"command":"f","stream":false}',
        '{"id":7,"command":"\\u0066"}',
    ],
)
def test_other_spellings(line: str) -> None:
    assert parse(line)[:2] == (7, "f")


@pytest.mark.parametrize(
    ("line", "kind", "id"),
    [
        (b"", "invalid_request", None),
        (b"null", "invalid_request", None),
        (b"[1]", "invalid_request", None),
        (b'"x"', "invalid_request", None),
        (b"{}", "invalid_request", None),
        (b"{", "invalid_request", None),
        (b'\xef\xbb\xbf{"id":1,"command":"f"}', "invalid_request", None),
        ('{"id":1,"command":"f"}'.encode("utf-16"), "invalid_request", None),
        ('{"id":1,"command":"f"}'.encode("utf-16-le"), "invalid_request", None),
        (b'{"id":-1,"command":"f"}', "invalid_request", None),
        (b'{"id":1.0,"command":"f"}', "invalid_request", None),
        (b'{"id":true,"command":"f"}', "invalid_request", None),
        (b'{"id":"1","command":"f"}', "invalid_request", None),
        (b'{"id":18446744073709551616,"command":"f"}', "invalid_request", None),
        (b'{"id":1}', "invalid_request", 1),
        (b'{"id":1,"id":2,"command":"f"}', "invalid_request", 1),
        (b'{"id":1,"command":3}', "invalid_request", 1),
        (b'{"id":1,"command":"f","session_id":null}', "invalid_request", 1),
        (b'{"id":1,"command":"f","timeout_ms":"9"}', "invalid_request", 1),
        (b'{"id":1,"command":"f","timeout_ms":true}', "invalid_request", 1),
        (b'{"id":1,"command":"f","Args":[]}', "invalid_request", 1),
        (b'{"id":1,"command":"f","cancel":true}', "invalid_request", 1),
        (b'{"id":1,"command":"f"}{}', "invalid_request", 1),
        (b'{"id":1,"command":"f"', "invalid_request", 1),
        (b'{"id":1,"command":"f","args":[1,2}', "invalid_arguments", 1),
        (b'{"id":1,"command":"f","args":["\xff"]}', "invalid_arguments", 1),
        (b'{"id":1,"command":"f","args":["\xed\xa0\x80"]}', "invalid_arguments", 1),
        (b'{"id":1,"command":"f","args":[Infinity]}', "invalid_arguments", 1),
        (b'{"id":1,"command":"f","args":[-1e999]}', "invalid_arguments", 1),
        (b'{"id":1,"command":"f","args":["\x01"]}', "invalid_arguments", 1),
        (b'{"id":1,"command":"f","args":[' + b"9" * 5000 + b"]}", "invalid_arguments", 1),
        (b'{"id":1,"command":"f","args":' + b"[" * 200_000 + b"}", "invalid_arguments", 1),
    ],
)
def test_refused_lines(line: bytes, kind: str, id: Any) -> None:
    with pytest.raises(RequestError) as caught:
        parse_request(line)
    assert (caught.value.kind, caught.value.id) == (kind, id)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("line", [b'{"id":7,"cancel":true}', b'{"id":7,"reply":{"a":1}}'])
def test_control_lines(line: bytes) -> None:
    with pytest.raises(Control):
        parse_request(line)


def test_integers_are_exact() -> None:
    digits = "9" * 4000
    assert parse('{"id":1,"command":"f","args":[%s,9007199254740993]}' % digits)[2] == [int(digits), 9007199254740993]


# ------------------------------------------------------------------------------------------------------------- channel


def feed(*chunks: bytes) -> List[Any]:
    """The lines of a channel that reads these chunks, one read each."""
    channel = Channel(-1, -1)
    for chunk in chunks:
        channel.take(chunk)
    lines = channel.lines[::-1]
    channel.lines.clear()
    return [*lines, b"".join(channel.parts)]


def test_lines_keep_their_order_and_bytes() -> None:
    assert feed(b"a\nb\n", b"c", b"d\ne", b"\n") == [b"a", b"b", b"cd", b"e", b""]
    text = "\u2028\u0085\x0b\r".encode()
    assert feed(text + b"\n" + text) == [text, text]
    assert feed(b"\n\n") == [b"", b"", b""]


def test_a_partial_line_is_never_dispatched() -> None:
    r, w = os.pipe()
    try:
        os.write(w, b'whole\n{"id":1,"command":"f"}')
        os.close(w)
        channel = Channel(r, -1, b"rest ")
        assert channel.next_line() == b"rest whole"
        assert channel.next_line() is None
    finally:
        os.close(r)


def test_short_writes_are_finished() -> None:
    r, w = os.pipe()
    os.set_blocking(r, False)
    channel = Channel(-1, w)
    written: List[int] = []
    real = os.write

    def few(fd: int, data: Any) -> int:
        written.append(real(fd, bytes(data)[:7]))
        return written[-1]

    os.write = few
    try:
        channel.write('{"id":1,"success":true,"result":null}\n')
        channel.write_success(2, '"x"')
    finally:
        os.write = real
    assert os.read(r, 1000) == b'{"id":1,"success":true,"result":null}\n{"id":2,"success":true,"result":"x"}\n'
    assert max(written) == 7
    os.close(r)
    os.close(w)


# ------------------------------------------------------------------------------------------------------------- results


class Level(enum.IntEnum):
    LOW = 1


class Point(tuple):  # type: ignore[type-arg]
    pass


Pair = collections.namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        ({"a": [1, 2.5, True, None, "\u2028\n\u00e9"]}, '{"a":[1,2.5,true,null,"\\u2028\\n\\u00e9"]}'),
        ((1, (2,)), "[1,[2]]"),
        (Pair(1, 2), "[1,2]"),
        (Level.LOW, "1"),
        ("\U0001f600", '"\\ud83d\\ude00"'),
        ({"x1": 1, "true": {"nu": 1}, "7": [{"0": 1}]}, '{"x1":1,"true":{"nu":1},"7":[{"0":1}]}'),
        ("\\ud800", '"\\\\ud800"'),
        (2**64, "18446744073709551616"),
        (1e300, "1e+300"),
        ([b"x\xff", bytearray(b""), memoryview(b"xyz")], '["eP8=","","eHl6"]'),
    ],
)
def test_encode(value: Any, text: str) -> None:
    assert encode(value) == text


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """As after some results: small dicts are made without the encoder again."""

    def try_again() -> None:
        for _ in range(100):
            encode({})

    monkeypatch.setattr(_results, "through_orjson", None)
    try_again()
    return try_again


TEXTS = ["x", "", '\u00e9\n"', "\U0001f600", "x" * 2000]


@pytest.mark.parametrize("last", [*TEXTS, 7, -(2**70), 0.1, 1e300, -0.0, None, True, False, [], {}, {"n": 1}])
def test_a_dict_of_a_few_members_is_what_json_says(again: Callable[[], None], last: Any) -> None:
    names = ["plain", "", 'quo"ted', "\u00e9", "\U0001f600", "n" * 2000, "true", "7"]
    for n in range(len(names) + 1):
        value: Dict[str, Any] = dict(zip(names, ["text", 1, 2.5, None, True, False, "\\"]))
        value[names[n - 1]] = last
        for _ in range(2):  # the second time the names are known
            again()
            assert encode(value) == json.dumps(value, separators=(",", ":"))


def test_small_dicts_are_what_json_says_whatever_came_before(again: Callable[[], None]) -> None:
    small: List[Any] = [{}, {"a": 1}, {"a": "x", "b": None}, {"\u00e9": 2.5, "c": "\u00e9"}]
    for other in ({"a": [1]}, {"a": {"b": 1}}, {"a": "\u00e9"}, {"a": "x" * 2000}):
        for value in [*small, other, *small * 40]:
            assert encode(value) == json.dumps(value, separators=(",", ":"))
        for refused in ({1: "x"}, {"a": float("nan")}, {"a": EvilInt(5), 2: 3}):
            with pytest.raises(ResultError):
                encode(refused)


def cycle() -> Any:
    value: List[Any] = [1]
    value.append({"again": value})
    return value


def deep(levels: int) -> Any:
    value: List[Any] = []
    for _ in range(levels):
        value = [value]
    return value


class EvilDict(dict):  # type: ignore[type-arg]
    def items(self) -> Any:
        raise RuntimeError("no items today")


class EvilInt(int):
    def __repr__(self) -> str:
        return '1,"injected":2'


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (float("nan"), "$"),
        ({"rows": [0, 1, 2, {"score": float("inf")}]}, "$.rows[3].score"),
        ({"a": {1: "x"}}, "$.a"),
        ({1: "x"}, "$"),
        ({None: "x"}, "$"),
        ({True: "x", "b": {}}, "$"),
        ([{"b": [{1.5: 2}]}], "$[0].b[0]"),
        ({"a": [{float("nan"): 1}]}, "$.a[0]"),
        ({"a": {(1, 2): 1}}, "$.a"),
        ({"a b": {"c\u00e9": object()}}, '$["a b"].c\u00e9'),
        ({"s": {1, 2}}, "$.s"),
        ({"s": ["ok", "\ud800"]}, "$.s[1]"),
        ({"\ud800": 1}, '$["\\ud800"]'),
        ([10**5000], "$[0]"),
        (cycle(), "$[1].again"),
        (deep(200_000), "$"),
        ([EvilDict(a=1)], "$"),
    ],
)
def test_refused_results(again: Callable[[], None], value: Any, path: str) -> None:
    with pytest.raises(ResultError) as caught:
        encode(value)
    assert caught.value.kind == "invalid_result"
    assert caught.value.fields["path"] == path
    assert caught.value.fields["message"]


@pytest.mark.parametrize("key", [True, False, None, 0, 7, 10, -1, 2.5])
def test_a_key_that_is_no_string_is_found_in_a_large_result(key: Any) -> None:
    rows: List[Any] = [{"name": "value", "features": n, "tree": ["true", "x7", None]} for n in range(2_000)]
    assert json.loads(encode(rows)) == rows
    rows[1_000]["tree"] = {key: 1}
    with pytest.raises(ResultError) as caught:
        encode(rows)
    assert caught.value.fields["path"] == "$[1000].tree"
    rows[1_000]["tree"] = {"true": 1, "false": 2, "null": 3, "7": 4}
    assert json.loads(encode(rows)) == rows


def test_subclasses_cannot_inject(again: Callable[[], None]) -> None:
    assert encode({"a": EvilInt(5)}) == '{"a":5}'


def test_deep_values_are_either_sent_whole_or_refused() -> None:
    for levels in (100, 500, 5_000, 9_990, 10_050):
        try:
            text = encode(deep(levels))
        except ResultError:
            assert levels > 300
        else:
            assert levels < 10_000 or sys.version_info >= (3, 14)  # the host refuses what it cannot read
            assert text == "[" * (levels + 1) + "]" * (levels + 1)


def test_fallback_gives_the_same() -> None:
    scan = _fallback.scanner(_json.strict_float, _json.refuse_constant)
    assert scan('{"a":[1,2.5]}', 0) == _json.scan('{"a":[1,2.5]}', 0)
    for bad in ("1e999", "NaN", "[1,"):
        with pytest.raises(ValueError):
            scan(bad, 0)
    dump = _fallback.encoder(str, True)
    value = {"a": [1, None, "\u00e9\n"], "b": 1.5}
    assert "".join(dump(value, 0)) == encode(value) == json.dumps(value, separators=(",", ":"))
