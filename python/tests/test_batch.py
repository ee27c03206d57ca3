"""Batch commands: what their handlers get and give, one call alone, and what cannot be one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, List, Tuple

import pytest
from host import PACKAGE, Host

Start = Callable[..., Host]
CAPABILITIES = ["stream", "log", "packed", "batch"]
#: Handlers of one batch each; the name is what a test calls.
SCRIPT = """
import asyncio, collections, dataclasses, datetime, decimal, functools, types
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple
from pypool import current_calls, program
@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.5
@command(max_batch_size=8)
def add(a: List[int], b: List[int] = 10) -> List[int]:
    return [x + y for x, y in zip(a, b)]
@command(max_batch_size=8)
def points(p: List[Point], at: Sequence[datetime.date]) -> List[Point]:
    assert all(type(one) is Point for one in p) and all(type(one) is datetime.date for one in at)
    return [Point(one.x * 2) for one in p]
@command(max_batch_size=8)
def exactly(d: List[decimal.Decimal]) -> List[str]: return [str(one) for one in d]
@command(max_batch_size=8)
def raw(data: List[bytes]) -> List[int]: return [len(one) for one in data]
@command(max_batch_size=8)
def bare(a, b=None): return [[x, y, len(a)] for x, y in zip(a, b)]
@command(max_batch_size=8)
def only(a: List[int], /, *, b: List[int]) -> Tuple[int, ...]: return tuple(x - y for x, y in zip(a, b))
@command(max_batch_size=8, max_wait_ms=1.5)
async def later(x: List[int]) -> List[int]:
    await asyncio.sleep(0)
    return [one + len(current_calls()) for one in x]
def twice(func):
    @functools.wraps(func)
    def wrapper(*args, **kwargs): return [2 * one for one in func(*args, **kwargs)]
    return wrapper
@command(max_batch_size=8)
@twice
def wrapped(x: List[int]) -> List[int]: return x
@command(max_batch_size=8, nan="null")
def lacking(x: List[float]) -> List[Optional[float]]: return [one if one > 0 else float("nan") for one in x]
class OwnList:
    def __init__(self, x): self.x = x
    def __len__(self): return len(self.x)
    def __getitem__(self, at): return self.x[at]
@command(max_batch_size=8)
def sort(x: List[str]) -> List[Any]:
    return {
        "dict": {}, "text": "abc", "set": {1}, "generator": (i for i in x), "none": None, "tuple": tuple(x),
        "mapping": collections.UserDict.fromkeys(x), "proxy": types.MappingProxyType(dict.fromkeys(x)),
        "own": OwnList(x),
    }[x[0]]
@command(max_batch_size=8)
def fail(x: List[int]) -> List[int]:
    if x[0] == 0: raise SystemExit(3)
    return [KeyError(one) if one % 2 else one for one in x]
@command(max_batch_size=8)
def count() -> List[int]: return [call.id for call in current_calls()]
@program("half", max_batch_size=2)
class Half:
    def __call__(self, x: List[decimal.Decimal]) -> List[str]: return [str(one / 2) for one in x]
@program("plus", max_batch_size=2)
def plus(x: List[float]) -> List[float]: return [one + 1 for one in x]
@command
def plain(): return [call.id for call in current_calls()]
"""


@pytest.fixture
def host(start: Start) -> Host:
    return start(SCRIPT, capabilities=CAPABILITIES)


def batch(host: Host, command: str, *args: Any, **more: Any) -> List[Any]:
    """What a batch gives: a result, or the error object."""
    requests = [host.request(command, one, **more) for one in args]
    host.send({"batch": requests})
    answers = [host.receive() for _ in requests]
    assert [one["id"] for one in answers] == [one["id"] for one in requests]
    return [one["result"] if one["success"] else one["error"] for one in answers]


CASES: List[Tuple[str, List[Any], List[Any]]] = [
    ("add", [[1], [2, 3], {"a": 4}, {"b": 5, "a": 6}], [11, 5, 14, 11]),
    (
        "points",
        [[{"x": 1}, "2026-01-02"], {"p": {"x": 2, "y": 3}, "at": "2026-01-02"}],
        [{"x": 2.0, "y": 0.5}, {"x": 4.0, "y": 0.5}],
    ),
    ("bare", [["a"], {"a": 1, "b": 2}], [["a", None, 2], [1, 2, 2]]),
    ("later", [[1], [2], [3]], [4, 5, 6]),
    ("wrapped", [[1], {"x": 2}], [2, 4]),
    ("lacking", [[1.5], [-1]], [1.5, None]),
    ("sort", [["tuple"], ["b"]], ["tuple", "b"]),
]


@pytest.mark.parametrize("command, args, wanted", CASES, ids=[case[0] for case in CASES])
def test_a_batch(host: Host, command: str, args: List[Any], wanted: List[Any]) -> None:
    for _ in range(2):
        assert batch(host, command, *args) == wanted


@pytest.mark.parametrize("command, args, wanted", CASES, ids=[case[0] for case in CASES])
def test_a_call_alone(host: Host, command: str, args: List[Any], wanted: List[Any]) -> None:
    """Again and again: the first call of a command goes another way than the later ones."""
    change = {"bare": ["a", None, 1], "later": 2, "sort": "tuple"}
    for _ in range(3):
        assert host.result(command, args[0]) == change.get(command, wanted[0])


def test_numbers_with_their_digits_and_bytes(host: Host) -> None:
    host.write(b'{"batch":[{"id":1,"command":"exactly","args":[0.10]},{"id":2,"command":"exactly","args":{"d":1e300}}]}\n')
    assert [host.receive()["result"] for _ in range(2)] == ["0.10", "1E+300"]
    host.write(
        b'{"batch":[{"id":3,"command":"raw","args":["aGk="],"bytes":[[0]]},'
        b'{"id":4,"command":"raw","args":{"data":""},"bytes":[["data"]]}]}\n'
    )
    assert [host.receive()["result"] for _ in range(2)] == [2, 0]
    host.write(b'{"batch":[{"id":5,"command":"execute_program","args":{"program_id":"half","inputs":[1.0]}}]}\n')
    assert host.receive()["result"] == "0.5"
    host.write(b'{"batch":[{"id":6,"command":"execute_program","args":{"program_id":"plus","inputs":{"x":1.5}}}]}\n')
    assert host.receive()["result"] == 2.5


def test_arguments_by_position_alone_and_by_name_alone(host: Host) -> None:
    assert "missing argument 'b'" in batch(host, "only", [1], [2])[0]["message"]
    assert "positional only" in batch(host, "only", {"a": 1, "b": 2})[0]["message"]
    assert "positional only" in host.error("only", {"a": 1, "b": 2})["message"]


@pytest.mark.parametrize("alone", [False, True])
def test_bad_arguments_refuse_their_own_call(host: Host, alone: bool) -> None:
    for args, words, kind in (
        ([1, 2, 3], "takes at most 2 arguments, got 3", "too_many"),
        ({"c": 1, "a": 1}, "unknown argument 'c'", "unknown"),
        ({}, "missing argument 'a' (int)", "missing"),
        (None, "missing argument 'a' (int)", "missing"),
        ("x", "args must be an object", "arguments"),
    ):
        for _ in range(2):
            error = host.error("add", args) if alone else batch(host, "add", [1], args, [2])[1]
            assert error["kind"] == "invalid_arguments" and words in error["message"], error
            assert error["errors"][0]["type"] == kind
    error = host.error("points", [{"x": "no"}, "2026-01-02"]) if alone else batch(host, "points", [{"x": "no"}, "2026-01-02"])[0]
    assert error["errors"][0]["loc"] == ["p", "x"]
    assert "signature: points(p: Point, at: date) -> Point" in error["message"]


def test_the_handler_sees_those_that_fit_alone(host: Host) -> None:
    assert [answer if type(answer) is list else answer["kind"] for answer in batch(host, "bare", [1], [], [2], {"q": 1})] == [
        [1, None, 2],
        "invalid_arguments",
        [2, None, 2],
        "invalid_arguments",
    ]
    assert {error["kind"] for error in batch(host, "bare", [], [])} == {"invalid_arguments"}


@pytest.mark.parametrize(
    "sort, words",
    [
        ("dict", "a batch of 2 calls takes a list of as many results, not an object"),
        ("text", "a batch of 2 calls takes a list of as many results, not a string"),
        ("set", "a batch of 2 calls takes a list of as many results, not set"),
        ("generator", "a batch of 2 calls takes a list of as many results, not a generator"),
        ("none", "a batch of 2 calls takes a list of as many results, not null"),
        ("mapping", "a batch of 2 calls takes a list of as many results, not UserDict"),
        ("proxy", "a batch of 2 calls takes a list of as many results, not mappingproxy"),
    ],
)
def test_what_is_no_list_of_results(host: Host, sort: str, words: str) -> None:
    for error in batch(host, "sort", [sort], ["x"]):
        assert error == {"kind": "invalid_result", "path": "$", "message": words}
    assert host.error("sort", [sort])["message"] == words.replace("2 calls", "1 call")
    assert host.error("sort", [sort])["message"] == words.replace("2 calls", "1 call"), "by the quick way, too"


def test_what_is_as_a_list_is_one(host: Host) -> None:
    assert batch(host, "sort", ["own"], ["b"]) == ["own", "b"]


#: By library: what makes tables of x, and what makes lists.
TABLES = {
    "pandas": (
        ["DataFrame({'a': x})", "DataFrame({one: [1] for one in x})"],
        ["Series(x)", "Series(x, [7] * len(x))", "Index(x)"],
    ),
    "polars": (["DataFrame({str(one): [1] for one in x})"], ["Series(x)"]),
    "pyarrow": (["table({str(one): [1] for one in x})", "record_batch({'a': x})"], []),
    "numpy": ([], ["array(x)"]),
}


@pytest.mark.parametrize("library", TABLES)
def test_a_table_is_no_list(start: Start, library: str) -> None:
    """What one goes through in a table are the names of its columns."""
    pytest.importorskip(library, reason="not for every Python")
    head = "import %s\nfrom typing import List\n" % library
    maker = "@command(max_batch_size=8)\ndef f%d(x: List[int]) -> List[int]: return %s.%s\n"
    for refused, makers in zip((True, False), TABLES[library]):
        script = head + "".join(maker % (i, library, made) for i, made in enumerate(makers))
        host = start(script, capabilities=CAPABILITIES)
        for name in ["f%d" % i for i in range(len(makers))]:
            answers = [*batch(host, name, [3]), *batch(host, name, [3], [4]), host.call(name, [3]), host.call(name, [3])]
            if refused:
                assert all("takes a list of as many results, not " in str(one) for one in answers), answers
            else:
                assert [one["result"] if type(one) is dict else one for one in answers] == [3, 3, 4, 3, 3]


def test_exceptions_as_entries_and_raised(host: Host) -> None:
    first, second, third = batch(host, "fail", [2], [3], [5])
    assert (first, second["type"], third["message"]) == (2, "KeyError", "5")
    assert second["traceback"] == "KeyError: 3\n"
    assert {error["type"] for error in batch(host, "fail", [0], [1])} == {"SystemExit"}
    for _ in range(3):
        assert host.error("fail", [3])["type"] == "KeyError"
        assert host.error("fail", [0])["type"] == "SystemExit"


def test_the_calls_of_a_batch(host: Host) -> None:
    assert batch(host, "count", None, [], {}) == [[host._id - 2, host._id - 1, host._id][i] for i in range(3)]
    assert host.result("count") == host._id
    assert host.result("plain") == [host._id], "after a batch each call is its own again"


def test_lines_that_are_no_batch(host: Host) -> None:
    for line in (
        b'{"batch":[]}',
        b'{"batch":[7]}',
        b'{"batch":[{"id":1,"command":"add","args":[1]}',
        b'{"batch":[{"id":0,"command":"add"}]}',
    ):
        host.write(line + b"\n")
        answer = host.receive()
        assert answer["error"]["kind"] == "invalid_request", line
        host.result("add", [1])


def test_a_member_that_cannot_be_read_is_refused_alone(host: Host) -> None:
    deep = b"[" * 200_000 + b"]" * 200_000
    host.write(
        b'{"batch":[{"id":1,"command":"bare","args":[1]},{"id":2,"command":"bare","args":[%s]},'
        b'{"id":3,"command":"bare","args":[3]}]}\n' % deep
    )
    assert host.receive() == {"id": 1, "success": True, "result": [1, None, 2]}
    answer = host.receive()
    assert (answer["id"], answer["error"]["kind"]) == (2, "invalid_arguments")
    assert host.receive() == {"id": 3, "success": True, "result": [3, None, 2]}


def test_a_batch_of_what_takes_none_is_served_one_by_one(host: Host) -> None:
    ids = [one[0] for one in batch(host, "plain", None, None)]
    assert ids == [host._id - 1, host._id]
    assert {error["kind"] for error in batch(host, "nobody", None, None)} == {"unknown_command"}
    host.result("add", [1])


def test_hello_tells_the_batches_to_who_knows_them(start: Start) -> None:
    host = start(SCRIPT, capabilities=CAPABILITIES)
    told = {one.get("command") or one["program"]: one for one in host.hello["result"]["batches"]}
    assert told["later"] == {"command": "later", "max_batch_size": 8, "max_wait_ms": 1.5}
    assert told["half"] == {"program": "half", "max_batch_size": 2, "max_wait_ms": 0}
    assert "plain" not in told
    old = start(SCRIPT, capabilities=["stream", "log", "packed"])
    assert "batches" not in old.hello["result"]
    assert old.result("add", [1]) == 11
    assert "batches" not in start("@command\ndef f(): pass", capabilities=CAPABILITIES).hello["result"]


def test_commands_are_described_as_they_are_called(host: Host) -> None:
    found = {one["name"]: one for one in host.result("list_commands", {"schema": True})}
    assert found["points"]["signature"] == "(p: Point, at: date) -> Point"
    assert found["points"]["max_batch_size"] == 8
    assert "max_batch_size" not in found["plain"]
    assert found["add"]["params"] == [
        {"name": "a", "type": "int", "required": True},
        {"name": "b", "type": "int", "required": False, "default": 10},
    ]
    schema = found["points"]["schema"]
    assert [one["type"] for one in schema["params"]] == [{"type": "ref", "name": "worker.Point"}, {"type": "date"}]
    assert schema["returns"] == {"type": "ref", "name": "worker.Point"} and not schema["stream"]
    assert found["later"]["returns"] == "int" and found["half"]["kind"] == "program"


@pytest.mark.parametrize(
    "script, words",
    [
        (
            "@command(max_batch_size=2)\ndef f(x: int): pass",
            "command 'f': it gets 'x' as a list with one entry for each call, so that hint must be list[...], not int",
        ),
        ("@command(max_batch_size=2)\ndef f(x: 'dict'): pass", "must be list[...], not dict"),
        ("@command(max_batch_size=2)\ndef f(*x): pass", "each parameter of a batch command needs a name, *x has none"),
        ("@command(max_batch_size=2)\ndef f(**x): pass", "each parameter of a batch command needs a name, *x has none"),
        (
            "@command(max_batch_size=2)\ndef f(x): yield x",
            "max_batch_size goes on a function that returns a list: command 'f' is a generator",
        ),
        ("@command(max_batch_size=2)\nasync def f(x): yield x", "command 'f' is a generator"),
        ("@command(max_batch_size=0)\ndef f(x): pass", "max_batch_size is a number from 1 to 65536: got 0"),
        ("@command(max_batch_size=True)\ndef f(x): pass", "max_batch_size is a number from 1 to 65536: got True"),
        (
            "@command(max_batch_size=2, max_wait_ms=-1)\ndef f(x): pass",
            "max_wait_ms is a number of milliseconds from 0 to 60000: got -1",
        ),
        ("@command(max_batch_size=2, max_wait_ms=float('nan'))\ndef f(x): pass", "max_wait_ms is a number of milliseconds"),
        ("@command(max_batch_size=2, max_wait_ms=float('inf'))\ndef f(x): pass", "from 0 to 60000: got inf"),
        ("@command(max_batch_size=2, max_wait_ms=10 ** 5000)\ndef f(x): pass", "from 0 to 60000: got "),
        ("@command(max_batch_size=10 ** 30)\ndef f(x): pass", "max_batch_size is a number from 1 to 65536: got 1000000"),
        ("@command(max_batch_size=10 ** 5000)\ndef f(x): pass", "max_batch_size is a number from 1 to 65536: got "),
        ("@command(max_wait_ms=5)\ndef f(x): pass", "max_wait_ms goes with max_batch_size: got max_wait_ms=5 alone"),
        ("command(name='f', max_batch_size=2)(dict)", "command 'f': its parameters cannot be known, so it has no batches"),
        (
            "import pypool\n@pypool.program('p', max_batch_size=2)\nclass P:\n    def __call__(self, x: str): pass",
            "program 'p': it gets 'x' as a list",
        ),
    ],
)
def test_what_cannot_be_a_batch_command(start: Start, script: str, words: str) -> None:
    error = start(script, capabilities=CAPABILITIES).hello["error"]
    assert error["kind"] == "start_failed" and words in error["message"], error["message"]


def test_hints_that_cannot_be_resolved(start: Start) -> None:
    script = "@command(max_batch_size=2)\ndef f(x: 'list[Missing]', y: 'Missing' = None) -> 'list[Missing]': return x"
    host = start(script, capabilities=CAPABILITIES)
    assert batch(host, "f", [1], [2, 3]) == [1, 2]
    assert host.result("list_commands")[0]["signature"] == "(x: Missing, y=None) -> Missing"


def test_what_is_printed_in_a_batch_is_nobodys_alone(start: Start) -> None:
    host = start(
        """
        import logging, threading
        @command(max_batch_size=8)
        def speak(x):
            print("hello")
            logging.warning("careful")
            thread = threading.Thread(target=print, args=("from a thread\\n",), kwargs={"end": ""})
            thread.start()
            thread.join()
            return x
        @command(max_batch_size=8)
        async def aspeak(x):
            print("async hello\\n", end="")
            return x
        """,
        capabilities=CAPABILITIES,
    )
    batch(host, "speak", [1], [2], session_id="s")
    batch(host, "aspeak", [1], [2], session_id="s")
    host.wait_stderr("async hello")
    assert {(line["text"], line.get("call"), line["command"], line.get("session")) for line in host.printed()} == {
        ("hello", None, "speak", None),
        ("from a thread", None, "speak", None),
        ("async hello", None, "aspeak", None),
    }
    assert [(one["message"], one["command"], one.get("call")) for one in host.records()] == [("careful", "speak", None)]


def test_context_variables_do_not_outlive_a_batch(start: Start) -> None:
    host = start(
        """
        from contextvars import ContextVar
        seen = ContextVar("seen", default=0)
        @command(max_batch_size=8)
        def bump(x):
            seen.set(seen.get() + 1)
            return [seen.get()] * len(x)
        """,
        capabilities=CAPABILITIES,
    )
    assert [batch(host, "bump", [1], [2]) for _ in range(2)] == [[1, 1], [1, 1]]


def test_a_result_that_is_refused_behind_a_context_variable(start: Start) -> None:
    host = start(
        """
        from contextvars import ContextVar
        seen = ContextVar("seen")
        @command(max_batch_size=8)
        def none(x):
            seen.set(object())
            return []
        """,
        capabilities=CAPABILITIES,
    )
    for _ in range(3):
        error = host.error("none", [1])
        assert (error["kind"], error["message"]) == ("invalid_result", "the list has 0 results, for a batch of 1 call"), error


def test_a_signal_handler_that_raises_in_a_batch(start: Start) -> None:
    host = start(
        """
        import signal, time
        def strike(*_): raise RuntimeError("struck")
        signal.signal(signal.SIGUSR2, strike)
        @command(max_batch_size=8)
        def sit(x):
            print("sitting")
            time.sleep(20)
        """,
        capabilities=CAPABILITIES,
    )
    host.send({"batch": [host.request("sit", [1]), host.request("sit", [2])]})
    host.wait_stderr("sitting")
    os.kill(host.pid, signal.SIGUSR2)
    assert [host.receive()["error"]["message"] for _ in range(2)] == ["struck", "struck"]


def test_results_of_all_sizes_come_in_order(start: Start) -> None:
    host = start(
        "@command(max_batch_size=8)\ndef grow(n): return ['x' * one for one in n]",
        capabilities=CAPABILITIES,
        max_message_bytes=1_000_000,
    )
    sizes = [1, 70_000, 2, 2_000_000, 40_000, 40_000, 300_000, 3]
    answers = batch(host, "grow", *[[n] for n in sizes])
    assert [len(one) if type(one) is str else one["kind"] for one in answers] == [
        1,
        70_000,
        2,
        "message_too_large",
        40_000,
        40_000,
        300_000,
        3,
    ]


def test_the_function_itself_stays_as_it_is() -> None:
    code = (
        "import sys; sys.path.insert(0, %r)\nfrom pypool import command\n@command(max_batch_size=4)\n"
        "def f(x): return [2 * one for one in x]\n"
        "assert f([1, 2]) == [2, 4]\n" % str(PACKAGE.parent)
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_by_hand(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(
        "from typing import List\nfrom pypool import command\n@command(max_batch_size=4)\n"
        "def f(x: List[int]) -> List[int]: return [one + 1 for one in x]\n"
    )
    env = dict(os.environ, PYTHONPATH=str(PACKAGE.parent))

    def run(*args: str) -> Any:
        done = subprocess.run([sys.executable, "-m", "pypool", str(script), *args], env=env, capture_output=True, check=False)
        return done.returncode, done.stdout.decode()

    assert run() == (0, "f(x: int) -> int  [batches of up to 4]\n")
    assert run("call", "f", json.dumps([4])) == (0, "5\n")
    assert run("call", "f", json.dumps({"y": 4}))[0] == 1
