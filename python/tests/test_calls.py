"""Commands of every kind, their arguments, and their failures."""

from __future__ import annotations

import os
import time
from typing import Any, List, Tuple

import pytest
from conftest import Start
from host import Host

BINDING = """
    import functools
    def logged(func):
        @functools.wraps(func)
        def wrapper(*args, **kwargs):
            return func(*args, **kwargs)
        return wrapper
    @command
    def plain(text: str, limit: int = 100): return [text, limit]
    @command
    def many(first, *rest, key=None, **more): return [first, rest, key, more]
    @command
    def strict(a, b=2, /, *, c): return [a, b, c]
    @command
    @logged
    def wrapped(a, b=2): return [a, b]
    @command(name="partial")
    def _partial(a): return a
    bound = functools.partial(lambda a, b: [a, b], 1)
    command(bound, name="half")
    command(max, name="max")
    class Adder:
        def __init__(self, by): self.by = by
        def __call__(self, x: int): return x + self.by
        def method(self, x): return x - self.by
    command(Adder(5), name="adder")
    command(Adder(5).method, name="method")
    @command
    def inner_type_error(x): return plain()
"""


def test_binding(start: Start) -> None:
    host = start(BINDING)
    for _ in range(2):  # the first call goes another way than the later ones
        assert host.result("plain", {"text": "a"}) == ["a", 100]
        assert host.result("plain", ["a", 5]) == ["a", 5]
        assert host.result("many", {"first": 1, "other": 2, "key": 3}) == [1, [], 3, {"other": 2}]
        assert host.result("many", [1, 2, 3]) == [1, [2, 3], None, {}]
        assert host.result("wrapped", [1]) == [1, 2]
        assert host.result("half", {"b": 2}) == [1, 2]
        assert host.result("max", [[3, 9, 4]]) == 9
        assert host.result("adder", {"x": 1}) == 6
        assert host.result("method", [1]) == -4


@pytest.mark.parametrize(
    ("command", "args", "words"),
    [
        ("plain", {"texd": "a"}, "plain: unknown argument 'texd', did you mean 'text'?; signature: plain(text: str, limit: int"),
        ("plain", None, "plain: missing argument 'text' (str); signature: plain(text: str, limit: int = 100)"),
        ("plain", ["a", 1, 2], "plain: takes at most 2 arguments, got 3"),
        ("plain", 7, "plain: args must be an object"),
        ("plain", "text", "a string"),
        ("many", {}, "many: missing argument 'first'; signature: many(first, *rest, key=None, **more)"),
        ("strict", [1], "strict: missing argument 'c'"),
        ("strict", {"a": 1, "c": 2}, "unknown argument 'a'"),
        ("wrapped", {"z": 1}, "wrapped: unknown argument 'z'; signature: wrapped(a, b=2)"),
        ("half", {"b": 2, "c": 3}, "half: unknown argument 'c'"),
        ("adder", {}, "adder: missing argument 'x' (int); signature: adder(x: int)"),
        ("method", [1, 2], "method: takes at most 1 argument, got 2"),
        ("plain", {"self": 1, "__class__": 2}, "unknown argument 'self'"),
    ],
)
def test_mismatch(start: Start, command: str, args: Any, words: str) -> None:
    host = start(BINDING)
    for _ in range(2):
        error = host.error(command, args)
        assert error["kind"] == "invalid_arguments"
        assert words in error["message"]


def test_type_error_inside_the_handler_is_an_exception(start: Start) -> None:
    host = start(BINDING)
    for _ in range(2):
        error = host.error("inner_type_error", [1])
        assert (error["kind"], error["type"]) == ("python_exception", "TypeError")
        assert "inner_type_error" in error["traceback"]


def test_hints_convert(start: Start) -> None:
    host = start(
        """
        import dataclasses, datetime, decimal, enum, pathlib, typing, uuid
        class Color(enum.Enum):
            RED = "red"
        @dataclasses.dataclass
        class Node:
            id: uuid.UUID
            at: datetime.datetime
            kids: "typing.List[Node]" = dataclasses.field(default_factory=list)
        class Shape(typing.NamedTuple):
            color: Color
            size: int = 1
        class Row(typing.TypedDict, total=False):
            day: datetime.date
            n: int
        @command
        def node(node: Node, more: "typing.Dict[str, Node]" = None) -> Node:
            assert type(node) is Node and type(node.at) is datetime.datetime
            return {"node": node, "more": more}
        @command
        def row(row: Row, *shapes: Shape): return [str(row["day"].year), [type(s.color).__name__ for s in shapes]]
        @command
        def union(x: typing.Union[int, Color, datetime.date, None]): return type(x).__name__
        @command
        def scalars(p: pathlib.Path, d: decimal.Decimal, t: datetime.time, s: set, f: typing.Tuple[Color, int]):
            return [p.name, str(d + 1), t.isoformat(), sorted(s), [f[0].name, f[1]]]
        @command
        def plain(n: int, any: typing.Any, literal: typing.Literal["a"] = "a"): return [n, any]
        """
    )
    node = {"id": "12345678-1234-5678-1234-567812345678", "at": "2026-01-02T03:04:05.123456789Z"}
    sent = dict(node, at="2026-01-02T03:04:05.123456+00:00", kids=[])
    for _ in range(2):
        assert host.result("node", {"node": dict(node, kids=[node])}) == {"node": dict(sent, kids=[sent]), "more": None}
        assert host.result("node", {"node": node, "more": {"a": node}})["more"] == {"a": sent}
        assert host.result("row", [{"day": "2026-01-02", "n": 1}, {"color": "red"}, ["red", 4]]) == ["2026", ["Color", "Color"]]
        for value, name in ((1, "int"), ("red", "Color"), ("2026-01-02", "date"), (None, "NoneType")):
            assert host.result("union", [value]) == name
        args = {"p": "/a/b", "d": "1.50", "t": "03:04:05Z", "s": ["b", "a"], "f": ["red", 2]}
        assert host.result("scalars", args) == ["b", "2.50", "03:04:05+00:00", ["a", "b"], ["RED", 2]]
        assert host.result("plain", ["not checked", {}]) == ["not checked", {}]
    refused: List[Tuple[str, Any, str]] = [
        ("node", {"node": dict(node, kids=[dict(node, id="x")])}, "'node.kids[0].id': expected UUID (a UUID), got a string 'x'"),
        ("node", {"node": {"id": node["id"]}}, "missing 1 required positional argument: 'at'"),
        ("node", {"node": [1]}, "'node': expected Node (an object), got an array"),
        ("union", ["green"], "'x': expected int or Color or date or null, got a string 'green'"),
        ("row", [{"day": "yesterday"}], "'row.day': expected date"),
        ("row", [{"day": "2026-01-02"}, {"color": "green"}], "'shapes[0].color': expected Color (one of 'red')"),
    ]
    for command, wrong, words in refused:
        error = host.error(command, wrong)
        assert error["kind"] == "invalid_arguments"
        assert words in error["message"] and "signature: " + command in error["message"]


def test_unresolvable_hints_do_not_matter(start: Start) -> None:
    host = start(
        """
        import datetime
        @command
        def f(a: "Missing", b: "datetime.date"): return [a, b.year]
        """
    )
    assert host.result("f", [1, "2026-01-02"]) == [1, 2026]


def test_dspy_predictions(start: Start) -> None:
    host = start(
        """
        import sys, types
        class Prediction:
            def toDict(self): return {"answer": "yes", "score": 0.5}
        sys.modules["dspy"] = types.SimpleNamespace(Prediction=Prediction)
        @command
        def ask(): return [Prediction()]
        """
    )
    assert host.result("ask") == [{"answer": "yes", "score": 0.5}]


def test_optional_libraries(start: Start) -> None:
    pytest.importorskip("numpy")
    pytest.importorskip("pydantic")
    host = start(
        """
        import numpy, pydantic
        class Model(pydantic.BaseModel):
            n: int
            f: float = 1.5
        @command
        def arrays():
            return {"a": numpy.arange(4).reshape(2, 2), "b": numpy.float32(1.5), "c": numpy.int64(3), "d": numpy.bool_(True)}
        @command
        def nan(): return {"a": numpy.array([1.0, float("nan")])}
        @command
        def model(m: Model) -> Model:
            assert type(m) is Model
            return m
        """
    )
    assert host.result("arrays") == {"a": [[0, 1], [2, 3]], "b": 1.5, "c": 3, "d": True}
    assert host.error("nan")["path"] == "$.a[1]"
    assert host.result("model", {"m": {"n": 3}}) == {"n": 3, "f": 1.5}
    assert "'m': expected Model" in host.error("model", {"m": {"n": "x"}})["message"]


def test_async_commands_share_one_loop(start: Start) -> None:
    host = start(
        """
        import asyncio
        seen = []
        @setup
        async def prepare():
            seen.append(id(asyncio.get_running_loop()))
        @command
        async def loops():
            await asyncio.sleep(0)
            seen.append(id(asyncio.get_running_loop()))
            return len(seen), len(set(seen))
        @command
        async def fails():
            await asyncio.sleep(0)
            raise ValueError("async")
        @command
        async def items(n: int):
            try:
                for i in range(n):
                    await asyncio.sleep(0)
                    yield i
            finally:
                seen.append("closed")
        @command
        def last(): return seen[-1]
        """
    )
    assert host.result("loops") == [2, 1]
    assert host.result("loops") == [3, 1]
    error = host.error("fails")
    assert error["message"] == "async"
    assert "asyncio/" not in error["traceback"] and "in fails" in error["traceback"]
    assert [frame.get("item") for frame in host.stream("items", [3])] == [0, 1, 2, None]
    assert host.result("last") == "closed"
    assert host.error("loops", [1])["kind"] == "invalid_arguments"


CANCEL = ["stream", "page", "log", "packed", "cancel"]


def canceled(host: Host, command: str, *args: Any, after: float = 0.05) -> Any:
    """The type of the error with which a call ends that is stopped, and its own log."""
    request = host.request(command, list(args))
    host.send(request)
    time.sleep(after)
    error = host.cancel(request["id"])["error"]["type"]
    return error, host.result("log")


STRUCK = """
    import asyncio, time
    LOG, TASKS = [], []
    def busy(seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end: pass
    async def beats(name, cleans=False):
        try:
            while True:
                busy(0.02)
                await asyncio.sleep(0.001)
        except BaseException as error:
            LOG.append([name, type(error).__name__])
            if cleans:
                await asyncio.sleep(0.1)
                LOG.append([name, "clean"])
            raise
    @command
    async def begin(): TASKS.append(asyncio.ensure_future(beats("other")))
    @command
    async def waits(): await asyncio.sleep(12)
    @command
    async def leaves():
        TASKS.append(asyncio.ensure_future(beats("own")))
        await asyncio.sleep(12)
    @command
    async def gathers():
        try: await asyncio.gather(beats("one", True), asyncio.sleep(12))
        finally:
            await asyncio.sleep(0.1)
            LOG.append("gathered")
    @command
    async def collects():
        try: await asyncio.gather(beats("one", True), asyncio.sleep(12), return_exceptions=True)
        finally:
            await asyncio.sleep(0.1)
            LOG.append("gathered")
    async def inner():
        busy(10)
    @command
    async def awaits():
        try: await asyncio.ensure_future(inner())
        finally:
            await asyncio.sleep(0.1)
            LOG.append("clean")
    @command
    def log():
        found = LOG[:]
        LOG.clear()
        return found
    @command
    async def alive():
        await asyncio.sleep(0.05)
        return [task.done() for task in TASKS]
"""


def test_a_cancellation_strikes_no_task_of_another_call(start: Start) -> None:
    host = start(STRUCK, capabilities=CANCEL)
    host.result("begin")
    for _ in range(3):
        assert canceled(host, "waits") == ("CancelledError", [])
    assert host.result("alive") == [False]


def test_a_cancellation_reaches_the_call_whichever_task_of_its_it_strikes(start: Start) -> None:
    for _ in range(2):
        host = start(STRUCK, capabilities=CANCEL)
        host.result("alive")  # the loop is there
        assert canceled(host, "leaves")[0] == "CancelledError"
        for command in ("gathers", "collects"):
            error, log = canceled(host, command)
            assert error in ("CancelledError", "Canceled") and "gathered" in log and ["one", "clean"] in log, (command, log)
        assert canceled(host, "awaits")[1] == ["clean"]


def test_a_setups_task_is_no_calls(start: Start) -> None:
    host = start(
        """
        import asyncio, time
        LOG = []
        async def beats():
            try:
                while True:
                    time.sleep(0.02)
                    await asyncio.sleep(0.001)
            except BaseException as error:
                LOG.append(type(error).__name__)
        @setup
        async def begin():
            global task
            task = asyncio.ensure_future(beats())
        @command
        async def waits(): await asyncio.sleep(12)
        @command
        def log(): return LOG
        """,
        capabilities=CANCEL,
    )
    for _ in range(3):
        assert canceled(host, "waits") == ("CancelledError", [])


def test_an_async_generator_that_is_closed_cleans_up_undisturbed(start: Start) -> None:
    host = start(
        """
        import asyncio, time
        LOG = []
        async def ends():
            await asyncio.sleep(0.1)
            end = time.monotonic() + 0.1
            while time.monotonic() < end: pass
            await asyncio.sleep(0.1)
        @command
        async def items(alone):
            try:
                while True: yield "x" * 2000
            finally:
                LOG.append("cleaning")
                try:
                    await (ends() if alone else asyncio.ensure_future(ends()))
                    LOG.append("clean")
                except BaseException as error:
                    LOG.append(type(error).__name__)
        @command
        def log():
            found = LOG[:]
            LOG.clear()
            return found
        """,
        capabilities=CANCEL,
    )
    for alone in (True, False):
        for left in (False, True):
            request = host.request("items", [alone], stream=True)
            host.send(request)
            host.receive()
            time.sleep(0.1)  # the pipe is full
            if left:
                host.send({"id": request["id"], "cancel": True})
            assert host.cancel(request["id"])["success"]
            assert host.result("log") == ["cleaning", "clean"]


def test_what_a_setup_sets_in_context_variables_is_every_calls(start: Start) -> None:
    host = start(
        """
        import asyncio
        from contextvars import ContextVar
        first, second, third = (ContextVar(name, default="none") for name in ("first", "second", "third"))
        @setup
        def plain(): first.set("plain")
        @setup
        async def load():
            assert first.get() == "plain"
            first.set("load")
            await asyncio.sleep(0)
            second.set("load")
            await asyncio.ensure_future(task())
        async def task(): third.set("its own")
        @setup
        async def later():
            assert second.get() == "load"
            second.set("later")
        @command
        def which(): return [first.get(), second.get(), third.get()]
        @command
        async def which_async():
            found = which()
            first.set("call")
            return found
        @command(concurrency=2)
        async def beside(): return which()
        """,
        capabilities=[*CANCEL, "shared"],
    )
    for _ in range(2):
        assert host.result("which") == ["load", "later", "none"]
        assert host.result("which_async") == ["load", "later", "none"]
        host.send({"shared": host.request("beside")})
        assert host.receive()["result"] == ["load", "later", "none"]


def test_streams(start: Start) -> None:
    host = start(
        """
        closed = []
        @command
        def rows(n: int):
            try:
                for i in range(n):
                    yield i
            finally:
                closed.append(n)
        @command
        def bad():
            try:
                yield 1
                yield {"a": float("nan")}
                closed.append("never")
            finally:
                closed.append("bad")
        @command
        def forever():
            try:
                while True:
                    yield "x" * 1000
            finally:
                closed.append("forever")
        @command
        def what(): return closed
        @program("steps")
        def steps(n): yield from range(n)
        """
    )
    assert [frame.get("item") for frame in host.stream("rows", {"n": 2})] == [0, 1, None]
    final = host.stream("bad")[-1]
    assert (final["error"]["kind"], final["error"]["path"]) == ("invalid_result", "$.a")
    assert host.stream("rows", {"m": 2})[0]["error"]["kind"] == "invalid_arguments"
    assert "call it with Stream or Each" in host.error("rows", [1])["message"]
    frames = host.stream("execute_program", {"program_id": "steps", "inputs": {"n": 2}})
    assert [frame.get("item") for frame in frames] == [0, 1, None]
    assert [frame.get("item") for frame in host.stream("list_programs")] == [["steps"], None]
    # Cancelled while the pipe is full, with a further request already behind it.
    request = host.request("forever", stream=True)
    host.send(request)
    assert host.receive()["item"]
    host.write(b'{"id":%d,"cancel":true}\n{"id":9999,"command":"what"}\n' % request["id"])
    frame = host.receive()
    while "item" in frame:
        frame = host.receive()
    assert frame == {"id": request["id"], "success": True, "result": None}
    assert host.receive() == {"id": 9999, "success": True, "result": [2, "bad", "forever"]}
    # Cancelled before it began; a cancel for another id is nobody's.
    host.write(b'{"id":50,"command":"forever","stream":true}\n{"id":50,"cancel":true}\n')
    frame = host.receive()
    while "item" in frame:
        frame = host.receive()
    assert frame["success"]
    host.write(b'{"id":50,"cancel":true}\n')
    assert host.result("what")[-1:] != ["never"]


def test_exceptions(start: Start) -> None:
    host = start(
        """
        import os
        class Mine(Exception):
            def __str__(self): raise RuntimeError("no")
        @command
        def raises(what):
            if what == "mine": raise Mine
            if what == "exit": raise SystemExit(3)
            if what == "exit-text": raise SystemExit("bye")
            if what == "exit-object": raise SystemExit(object)
            if what == "interrupt": raise KeyboardInterrupt
            if what == "generator": raise GeneratorExit
            if what == "memory": return bytearray(1 << 60)
            if what == "recursion": return raises(what)
            if what == "surrogate": raise ValueError("\\ud800")
            if what == "input": return input()
            if what == "long": raise ValueError("x" * 10_000_000)
            if what == "cause":
                try: os.stat("/nonexistent")
                except OSError as error: raise ValueError("outer") from error
        """
    )
    for what, name in (
        ("exit", "SystemExit"),
        ("interrupt", "KeyboardInterrupt"),
        ("generator", "GeneratorExit"),
        ("memory", "MemoryError"),
        ("recursion", "RecursionError"),
        ("surrogate", "ValueError"),
        ("input", "EOFError"),
        ("long", "ValueError"),
    ):
        for _ in range(2):
            error = host.error("raises", [what])
            assert (error["kind"], error["type"], error["module"]) == ("python_exception", name, "builtins")
            assert "pypool" not in error["traceback"]
            assert 'worker.py", line' in error["traceback"]
            assert error["notes"] == []
    assert host.error("raises", ["exit"])["code"] == 3
    assert host.error("raises", ["exit-text"])["code"] == "bye"
    assert "object" in host.error("raises", ["exit-object"])["code"]
    assert len(host.error("raises", ["long"])["message"]) < 100_000
    error = host.error("raises", ["mine"])
    assert (error["type"], error["module"]) == ("Mine", "worker")
    assert "raised RuntimeError" in error["message"]
    text = host.error("raises", ["cause"])["traceback"]
    assert "FileNotFoundError" in text and "direct cause" in text


def test_notes(start: Start) -> None:
    host = start(
        """
        @command
        def noted():
            error = ValueError("x")
            error.__notes__ = ["one", "two"]
            raise error
        """
    )
    assert host.error("noted")["notes"] == ["one", "two"]


def test_memory_limit(start: Start) -> None:
    host = start(
        """
        import resource
        @command
        def limited():
            resource.setrlimit(resource.RLIMIT_AS, (1 << 29, resource.RLIM_INFINITY))
            return len(bytearray(1 << 30))
        @command
        def fine(): return 1
        """
    )
    assert host.error("limited")["type"] == "MemoryError"
    assert host.result("fine") == 1


LIMITED = """
    import resource
    @command
    def limit(mib):
        now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + (mib << 20), resource.RLIM_INFINITY))
    @command
    def fine(x=None): return 1
"""
#: Else a thread that first asks for memory behind the limit takes 64 MiB of the address space.
ONE_ARENA = dict(os.environ, MALLOC_ARENA_MAX="1")


def test_no_memory_for_the_arguments(start: Start) -> None:
    host = start(LIMITED, env=ONE_ARENA)
    host.call("limit", [70])
    error = host.error("fine", [[0.5] * 2_000_000])
    assert error["kind"] == "invalid_arguments" and "MemoryError" in error["message"]
    assert host.result("fine") == 1


def test_no_memory_for_the_line(start: Start) -> None:
    host = start(LIMITED, env=ONE_ARENA)
    host.call("limit", [10])
    with pytest.raises((BrokenPipeError, EOFError)):
        host.call("fine", ["x" * 30_000_000])
    assert host.wait() == 1
    assert "a line was read or written only in part" in host.stderr() and "MemoryError" in host.stderr()


def test_current_call(start: Start) -> None:
    host = start(
        """
        import threading, time
        try: current_call()
        except LookupError as error: outside = str(error)
        @command
        def now():
            call = current_call()
            in_thread = []
            thread = threading.Thread(target=lambda: in_thread.append(current_call().id))
            thread.start(); thread.join()
            left = call.remaining()
            assert left is None or 0 < left <= 5 and call.deadline <= time.monotonic() + 5
            return [call.id, call.session_id, left is None, call.trace, in_thread[0], outside]
        """
    )
    request = host.request("now", session_id="s", timeout_ms=5000, trace="t")
    host.send(request)
    result = host.receive()["result"]
    assert result == [request["id"], "s", False, "t", request["id"], result[5]]
    assert "no call is running" in result[5]
    assert host.result("now")[1:4] == [None, True, None]


def test_a_thread_that_a_call_left_behind_has_no_call(start: Start) -> None:
    host = start(
        """
        import queue, threading
        from concurrent.futures import ThreadPoolExecutor
        from multiprocessing.pool import ThreadPool
        from pypool import current_calls
        def asks():
            found = []
            for ask in (lambda: [current_call()], current_calls):
                try: found.append(ask()[0].session_id)
                except LookupError as error: found.append(str(error).partition(":")[0])
            return found
        class Jobs:
            def __init__(self):
                self.go, self.seen = queue.Queue(), queue.Queue()
                threading.Thread(target=self.run, daemon=True).start()
            def run(self):
                while True:
                    self.go.get()
                    self.seen.put(asks())
            def ask(self):
                self.go.put(1)
                return self.seen.get()
        KEPT = {}
        @setup
        def begin(): KEPT["setup"] = Jobs()
        @command
        def leave():
            KEPT["left"] = Jobs()
            KEPT["executor"], KEPT["pool"] = ThreadPoolExecutor(1), ThreadPool(1)
            return look()
        @command
        def look():
            found = {name: KEPT[name].ask() for name in ("setup", "left")}
            found["executor"] = KEPT["executor"].submit(asks).result()
            found["pool"] = KEPT["pool"].apply(asks)
            return found
        @command(max_batch_size=2)
        def batch(x: list): return [KEPT["left"].ask() for _ in x]
        """
    )
    everywhere = dict.fromkeys(["setup", "left", "executor", "pool"], ["alice", "alice"])
    assert host.result("leave", session_id="alice") == everywhere
    # One of a pool serves whichever call has a job for it.
    nobodys = "no call is running"
    wanted = {**{name: ["bob", "bob"] for name in everywhere}, "left": [nobodys, nobodys]}
    assert host.result("look", session_id="bob") == wanted
    assert host.result("batch", [1]) == [nobodys, nobodys]


def test_what_a_call_sets_in_a_context_variable_is_gone_also_if_it_equals_what_was_there(start: Start) -> None:
    host = start(
        """
        from contextvars import ContextVar
        from dataclasses import dataclass, field
        @dataclass
        class Info:
            kind: str
            user: str = field(default="", compare=False)
        info, flag, rows = ContextVar("info"), ContextVar("flag"), ContextVar("rows")
        info.set(Info("request"))
        flag.set(False)
        rows.set([])
        @command
        def put(user):
            info.set(Info("request", user))
        @command
        def turn(): flag.set(0)
        @command
        def fresh():
            mine = []
            rows.set(mine)
            KEPT.append(mine)
        KEPT = []
        @command
        def get():
            for mine in KEPT: mine.append(1)
            return [info.get().user, flag.get(), rows.get()]
        """
    )
    for _ in range(2):
        for command, args in (("put", ["alice"]), ("turn", []), ("fresh", [])):
            host.result(command, args)
            assert host.result("get") == ["", False, []] and host.result("get")[1] is False, command


def test_pipelined_requests_are_answered_in_order(start: Start) -> None:
    host = start(
        """
        import os
        @command
        def slow(i):
            return [i, host_page()]
        def host_page(): return None
        """
    )
    host.write(b"".join(b'{"id":%d,"command":"slow","args":[%d]}\n' % (i, i) for i in range(1, 2001)))
    assert [host.receive()["result"][0] for _ in range(2000)] == list(range(1, 2001))
    # Of requests that arrive together, those behind the one that kills the worker have not begun.
    host = start(
        """
        import os
        @command
        def f(): return 1
        @command
        def die(): os._exit(3)
        """
    )
    host.write(b'{"id":71,"command":"f"}\n{"id":72,"command":"die"}\n{"id":73,"command":"f"}\n')
    assert host.receive()["id"] == 71
    assert host.read_line() == b""
    assert host.wait() == 3
    assert host.unread() == 0, "they were read together: only the first unanswered one may have begun"


def test_large_messages_take_linear_time(start: Start) -> None:
    host = start(
        """
        @command
        def size(text): return len(text)
        @command
        def make(n): return "x" * n
        @command
        def echo(text): return text
        """
    )
    megabytes = 24
    began = time.monotonic()
    assert host.result("size", ["a" * (megabytes << 20)]) == megabytes << 20
    assert host.result("make", [megabytes << 20]) == "x" * (megabytes << 20)
    assert time.monotonic() - began < 10
    for size in (65_400, 65_536, 70_000, 1_000_000):
        assert host.result("echo", ["y" * size]) == "y" * size


def test_limits(start: Start) -> None:
    host = start(
        """
        @command
        def make(n): return "x" * n
        @command
        def items():
            yield 1
            yield "x" * 5000
        @command
        def fails(): raise ValueError("x" * 60000)
        """,
        max_message_bytes=4096,
    )
    fits = 4096 - len('{"id":1001,"success":true,"result":""}\n')
    assert len(host.result("make", [fits])) == fits
    error = host.error("make", [fits + 1])
    assert (error["kind"], error["size"], error["limit"]) == ("message_too_large", 4097, 4096)
    assert host.stream("items")[-1]["error"]["kind"] == "message_too_large"
    assert host.error("fails")["type"] == "ValueError"


def test_registry_errors(start: Start) -> None:
    for text, words in (
        ("@command\ndef ping(): pass", "'ping' is pypool's own"),
        ("@command\ndef shutdown(): pass", "'shutdown' is pypool's own"),
        ("@command(name='execute_program:p')\ndef f(): pass", "'execute_program:p' is that of a program's calls"),
        ("@command(name='execute_program:')\ndef f(): pass", "'execute_program:' is that of a program's calls"),
        ("@command\ndef f(): pass\n@command(name='f')\ndef g(): pass", "'f' is registered twice: by f (/"),
        ("@command(name='a b')\ndef f(): pass", "not allowed"),
        ("@command(name='')\ndef f(): pass", "not allowed"),
        ("command(5)", "goes on a function"),
        ("program('x')(5)", "cannot be called"),
        ("@program('x')\nclass A: pass", "has no __call__"),
        ("@program\ndef f(): pass", "needs an id"),
        ("command(__import__('functools').partial(print))", "needs a name"),
    ):
        hello = start("").hello if not text else start(text).hello
        assert hello["error"]["kind"] == "start_failed" and hello["error"]["stage"] == "import"
        assert words in hello["error"]["message"]


@pytest.mark.parametrize("name", ["__import__", "os.system", "f.__globals__", "_f", "F", "f ", "hello", "Worker", "", "\x00"])
def test_only_registered_names_run(start: Start, name: str) -> None:
    host = start("@command\ndef f(): pass")
    error = host.error(name)
    assert (error["kind"], error["what"]) == ("unknown_command", "command")
    assert set(error["names"]) >= {"f", "ping"}


def test_nearest_names_come_first(start: Start) -> None:
    host = start("@command\ndef summarize(): pass\n@command\ndef other(): pass")
    assert host.error("sumarise")["names"][0] == "summarize"


def test_programs(start: Start) -> None:
    host = start(
        """
        made = []
        @setup
        def first(): made.append("setup")
        @program("class")
        class Module:
            def __init__(self): made.append("module")
            def __call__(self, x: int, y: int = 1): return x * 10 + y
        program("object")(Module())
        @program("function")
        def run(**inputs): return inputs
        @program("async")
        async def later(x): return x
        @command
        def what(): return made
        """
    )
    assert host.hello["result"]["programs"] == ["class", "object", "function", "async"]

    def run(id: str, inputs: Any) -> Any:
        return host.call("execute_program", {"program_id": id, "inputs": inputs})

    for _ in range(2):
        assert run("class", {"x": 2})["result"] == 21
        assert run("object", [3, 4])["result"] == 34
        assert run("function", {"a": 1})["result"] == {"a": 1}
        assert run("async", [5])["result"] == 5
    assert host.result("what") == ["module", "setup", "module"]
    assert "missing argument 'x' (int)" in run("class", {})["error"]["message"]
    assert host.result("list_programs", {"ignored": 1}) == ["class", "object", "function", "async"]
    bad: List[Any] = [None, [], {}, {"program_id": 1}, {"program_id": "class", "other": 1}]
    for args in bad:
        assert host.error("execute_program", args)["kind"] == "invalid_arguments"


def test_built_ins(start: Start) -> None:
    host = start(
        """
        import datetime
        @command
        def documented(text: str, when: datetime.date = datetime.date(2026, 1, 1), *, n: int = 3) -> dict:
            '''Say it.

            Twice.'''
        @command
        def rows(*args: int, **more): yield 1
        @program("p")
        def p(x: "list[int]"): pass
        @command
        def fails(): 1 / 0
        """
    )
    first, second, _, third = host.result("list_commands")
    assert first == {
        "name": "documented",
        "doc": "Say it.\n\nTwice.",
        "signature": "(text: str, when: date = datetime.date(2026, 1, 1), *, n: int = 3) -> dict",
        "kind": "function",
        "params": [
            {"name": "text", "type": "str", "required": True},
            {"name": "when", "type": "date", "required": False, "default": "2026-01-01"},
            {"name": "n", "type": "int", "required": False, "default": 3},
        ],
        "returns": "dict",
    }
    assert (second["kind"], third["kind"]) == ("generator", "program")
    assert third["signature"] == "(x: list[int])"
    assert [param["required"] for param in second["params"]] == [False, False]
    assert host.result("ping", {"whatever": 1}) == {"status": "ok", "worker_id": "w1", "pid": host.pid}
    host.error("fails")
    stats = host.result("get_stats")
    assert (stats["calls"], stats["errors"], stats["pid"]) == (4, 1, host.pid)
    assert stats["rss_bytes"] > 1 << 20 and stats["uptime_s"] >= 0
