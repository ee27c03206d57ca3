# ruff: noqa: E501  scripts as they stand in a table
"""What decorators do to a command: who judges its arguments, and what its result is."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Start

SCRIPT = """
    import asyncio, contextlib, dataclasses, datetime, functools
    def supplies(func):
        @functools.wraps(func)
        def wrapper(*args, **kwargs): return func("db", *args, **kwargs)
        return wrapper
    def plain(func):
        @functools.wraps(func)
        def wrapper(*args, **kwargs): return func(*args, **kwargs)
        return wrapper
    def asynchronous(func):
        @functools.wraps(func)
        async def wrapper(*args, **kwargs):
            await asyncio.sleep(0)
            return func(*args, **kwargs)
        return wrapper
    def listed(func):
        @functools.wraps(func)
        def wrapper(*args, **kwargs): return list(func(*args, **kwargs))
        return wrapper
    def narrowed(func):
        @functools.wraps(func)
        def wrapper(name, *, times=1): return func(name * times)
        return wrapper
    def bare(func):
        return lambda *args, **kwargs: func(*args, **kwargs)
    @dataclasses.dataclass
    class Point: x: int; y: int = 0

    @command
    @supplies
    def query(db, table: str, since: datetime.date = None): return [db, table, repr(since)]
    @command
    @supplies
    def point(db, p: Point): return [db, p.x]
    @command
    @plain
    def kept(a, b=2, *, when: datetime.date = None): return [a, b, repr(when)]
    @command
    @plain
    def days(a, *rest: datetime.date, **more: datetime.date): return [a, repr(rest), repr(more)]
    @command
    @asynchronous
    @plain
    def all_days(*rest: datetime.date, **more: datetime.date): return [repr(rest), repr(more)]
    @command
    class Days:
        def __new__(cls, a, *rest: datetime.date): return [a, repr(rest)]
    @command
    @asynchronous
    def calm(a): return a
    @command
    @asynchronous
    async def twice(a): return a
    @command
    @listed
    def rows(n):
        yield from range(n)
    @command
    @plain
    def stream(n):
        yield from range(n)
    @command
    @plain
    async def waits(a): return a
    @command
    @plain
    async def atimes(n):
        for i in range(n): yield i
    @command
    @narrowed
    def shout(text): return text
    @command(name="bare")
    @bare
    async def bared(a): return a
    @command
    @functools.lru_cache(maxsize=None)
    def cached(a: int): return [a]
    @command
    @functools.singledispatch
    def dispatched(a): return ["other", a]
    @dispatched.register(int)
    def _(a): return ["int", a]
    @command
    @contextlib.contextmanager
    def managed(): yield 1
    class Tools:
        def __init__(self): self.n = 5
        def method(self, a): return [self.n, a]
        async def amethod(self, a): return [self.n, a]
        def gen(self, a): yield self.n; yield a
        @classmethod
        def cls(cls, a): return [cls.__name__, a]
        @staticmethod
        def static(a): return a
        def __call__(self, a): return ["called", a]
    class Async:
        async def __call__(self, a): return a
    tools = Tools()
    for name in ("method", "amethod", "gen", "cls", "static"): command(name=name)(getattr(tools, name))
    command(name="object")(tools); command(name="async_object")(Async())
    command(name="part")(functools.partial(tools.amethod, 7)); command(name="part_gen")(functools.partial(tools.gen, 7))
    @command
    def sometimes(how):
        async def later(): return "later"
        return later() if how == "async" else iter([1, 2]) if how == "iter" else "now"
    @command
    @plain
    def fails(a): raise TypeError("fails() got an unexpected keyword argument 'zz'")
    @command
    @plain
    def inner_error(a):
        def other(q): pass
        other()
"""


@pytest.mark.parametrize(
    "command, args, wanted",
    [
        ("query", {"table": "t"}, ["db", "t", "None"]),
        ("query", ["t"], ["db", "t", "None"]),
        ("query", {"table": "t", "since": "2026-01-02"}, ["db", "t", "datetime.date(2026, 1, 2)"]),
        ("point", {"p": {"x": 3}}, ["db", 3]),
        ("kept", {"a": 1, "when": "2026-01-02"}, [1, 2, "datetime.date(2026, 1, 2)"]),
        ("kept", [1, 3], [1, 3, "None"]),
        ("days", [1, "2026-01-02"], [1, "(datetime.date(2026, 1, 2),)", "{}"]),
        ("days", {"a": 1, "b": "2026-01-02"}, [1, "()", "{'b': datetime.date(2026, 1, 2)}"]),
        ("days", {"b": "2026-01-02", "a": 1}, [1, "()", "{'b': datetime.date(2026, 1, 2)}"]),
        ("all_days", ["2026-01-02"], ["(datetime.date(2026, 1, 2),)", "{}"]),
        (
            "all_days",
            {"z": "2026-01-02", "a": "2026-01-03"},
            ["()", "{'z': datetime.date(2026, 1, 2), 'a': datetime.date(2026, 1, 3)}"],
        ),
        ("Days", [1, "2026-01-02"], [1, "(datetime.date(2026, 1, 2),)"]),
        ("calm", {"a": 1}, 1),
        ("rows", [3], [0, 1, 2]),
        ("waits", [4], 4),
        ("shout", {"name": "a", "times": 3}, "aaa"),
        ("bare", [5], 5),
        ("cached", [6], [6]),
        ("dispatched", [6], ["int", 6]),
        ("dispatched", ["x"], ["other", "x"]),
        ("method", {"a": 1}, [5, 1]),
        ("amethod", [1], [5, 1]),
        ("cls", [1], ["Tools", 1]),
        ("static", [1], 1),
        ("object", [1], ["called", 1]),
        ("async_object", {"a": 1}, 1),
        ("part", [], [5, 7]),
        ("sometimes", ["now"], "now"),
        ("sometimes", ["async"], "later"),
    ],
)
def test_results(start: Start, command: str, args: Any, wanted: Any) -> None:
    host = start(SCRIPT)
    for _ in range(3):
        assert host.result(command, args) == wanted


def test_what_a_command_returns_may_change(start: Start) -> None:
    host = start(SCRIPT)
    for how, wanted in (("now", "now"), ("now", "now"), ("async", "later"), ("now", "now"), ("async", "later")):
        assert host.result("sometimes", [how]) == wanted


@pytest.mark.parametrize(
    "command, args, wanted",
    [
        ("stream", [3], [0, 1, 2]),
        ("atimes", [2], [0, 1]),
        ("gen", [1], [5, 1]),
        ("part_gen", [], [5, 7]),
        ("rows", [2], [[0, 1]]),
    ],
)
def test_streams(start: Start, command: str, args: Any, wanted: Any) -> None:
    host = start(SCRIPT)
    frames = host.stream(command, args)
    assert [frame["item"] for frame in frames[:-1]] == wanted and frames[-1]["success"]
    if command != "rows":
        error = host.error(command, args)
        assert "generator" in error["message"] and "Stream or Each" in error["message"]
        assert error["kind"] == ("invalid_arguments" if command in ("gen", "part_gen") else "invalid_result")


@pytest.mark.parametrize(
    "command, args, kind, words",
    [
        ("shout", {"text": "a"}, "invalid_arguments", "unknown argument 'text'"),
        ("kept", {"z": 1}, "invalid_arguments", "unknown argument 'z'"),
        ("query", {}, "invalid_arguments", "missing argument 'table'"),
        ("point", {"p": {"y": 1}}, "invalid_arguments", "argument 'p'"),
        ("fails", {"a": 1}, "python_exception", "unexpected keyword"),
        ("inner_error", {"a": 1}, "python_exception", "missing 1 required"),
        ("cached", {"b": 1}, "invalid_arguments", "'b'"),
        ("part", [8, 9], "invalid_arguments", ""),
    ],
)
def test_refusals(start: Start, command: str, args: Any, kind: str, words: str) -> None:
    error = start(SCRIPT).error(command, args)
    assert error["kind"] == kind and words in error["message"], error


def test_what_is_shown_is_the_inner_function(start: Start) -> None:
    shown = {entry["name"]: entry for entry in start(SCRIPT).result("list_commands")}
    assert shown["query"]["signature"] == "(db, table: str, since: date = None)"
    assert shown["stream"]["kind"] == shown["atimes"]["kind"] == "generator" and shown["calm"]["kind"] == "function"


def test_wrapt(start: Start) -> None:
    pytest.importorskip("wrapt")
    host = start(
        """
        import wrapt
        @wrapt.decorator
        def supplies(wrapped, instance, args, kwargs): return wrapped("db", *args, **kwargs)
        @command
        @supplies
        def query(db, table): return [db, table]
        @command
        @wrapt.decorator
        def nothing(wrapped, instance, args, kwargs): return wrapped(*args, **kwargs)
        """
    )
    assert host.result("query", {"table": "t"}) == ["db", "t"] and host.result("query", ["t"]) == ["db", "t"]


OBJECTS = """
    import datetime, functools
    from typing import Any, List, Optional

    class Deco:
        def __init__(self, func, times=1):
            functools.update_wrapper(self, func)
            self.func, self.times = func, times
        def __call__(self, *args, **kwargs): return self.func(*args, **kwargs)
        def __get__(self, owner, kind=None): return functools.partial(self, owner)

    class Typed(Deco):
        def __call__(self, when: datetime.date, *args, **kwargs): return self.func(when, *args, **kwargs)

    def plain(func):
        @functools.wraps(func)
        def wrapper(*args, **kwargs): return func(*args, **kwargs)
        return wrapper

    def shown(when: datetime.datetime, floats: List[float] = ()) -> List[str]:
        return [type(when).__name__, *(type(x).__name__ for x in floats)]

    class Service:
        @Deco
        def when(self, when: datetime.datetime, floats: List[float] = ()) -> List[str]: return shown(when, floats)
        @plain
        @Deco
        def both(self, when: datetime.datetime, floats: List[float] = ()) -> List[str]: return shown(when, floats)

    class Bare:
        def __call__(self, when: datetime.datetime, floats: List[float] = ()) -> List[str]: return shown(when, floats)

    class Called:
        @plain
        def __call__(self, when: datetime.datetime, floats: List[float] = ()) -> List[str]: return shown(when, floats)

    command(name="object")(Deco(shown))
    command(name="chain")(plain(Deco(plain(shown))))
    command(name="twice")(Deco(Deco(shown)))
    command(name="partial")(functools.partial(Deco(shown)))
    command(name="method")(Service().when)
    command(name="method.chain")(Service().both)
    command(name="bare")(Bare())
    command(name="called")(Called())
    command(name="typed")(Typed(lambda when, floats=(): shown(when, floats)))
    @command
    @Deco
    def registered(when: datetime.datetime, floats: List[float] = ()) -> List[str]: return shown(when, floats)
"""


@pytest.mark.parametrize(
    "name",
    ["object", "chain", "twice", "partial", "method", "method.chain", "bare", "called", "typed", "registered"],
)
def test_hints_behind_objects(start: Start, name: str) -> None:
    worker = start(OBJECTS)
    moment = "date" if name == "typed" else "datetime"
    given = "2026-11-27" if name == "typed" else "2026-11-27T10:00:00Z"
    numbers = ["int", "float"] if name == "typed" else ["float", "float"]
    for _ in range(2):
        assert worker.result(name, {"when": given, "floats": [1, 2.5]}) == [moment, *numbers]
        assert worker.result(name, [given, [1, 2.5]]) == [moment, *numbers]
        assert worker.error(name, {"when": "garbage"})["kind"] == "invalid_arguments"


def test_keys_of_the_items_of_a_stream_behind_a_decorator(start: Start) -> None:
    """What is called as a stream has items, whatever its function looks like."""
    host = start(
        """
        import functools
        from typing import AsyncIterator, Dict, Generator, Iterable, List
        def plain(f):
            @functools.wraps(f)
            def wrapper(*args, **kwargs): return f(*args, **kwargs)
            return wrapper
        @command
        @plain
        def rows() -> Iterable[Dict[int, float]]: yield {1: 1.0}
        @command
        @plain
        async def later() -> AsyncIterator[Dict[int, float]]: yield {1: 1.0}
        @command
        @plain
        def lists() -> Generator[List[Dict[int, float]], None, None]: yield [{1: 1.0}]
        @command
        def returned() -> Iterable[Dict[int, float]]: return iter([{1: 1.0}])
        @command
        def made() -> Dict[int, float]: return {1: 1.0}
        @command(concurrency=2)
        async def beside() -> AsyncIterator[Dict[int, float]]: return later()
        """,
        capabilities=["stream", "log", "packed", "shared", "cancel", "blobs"],
    )
    for name in ("rows", "later", "lists", "returned", "made"):
        wanted = [{"1": 1.0}] if name == "lists" else {"1": 1.0}
        for more in ({}, {"take_blobs": True}):
            for _ in range(2):
                assert [frame.get("item") for frame in host.stream(name, **more)] == [wanted, None], (name, more)
    assert host.result("made") == {"1": 1.0}
    for more in ({}, {"take_blobs": True}):
        request = host.request("beside", stream=True, **more)
        host.send({"shared": request})
        host.send({"id": request["id"], "credit": 2})
        assert host.receive()["item"] == {"1": 1.0}
        assert host.receive()["success"]
