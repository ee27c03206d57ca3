# ruff: noqa: E501  scripts as they stand in a table
"""Exceptions are told, and the worker is kept, whatever the script has done to what telling them takes; calls do not see each other."""

from __future__ import annotations

import sys

import pytest
from conftest import Start

#: What a script may have done to its process before its first exception.
HARM = {
    "no descriptor left": "import os, resource; resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[0],) * 2); _open_all()",
    "no path": "import sys; sys.path.clear(); sys.path_importer_cache.clear()",
    "no finders": "import sys; sys.path.clear(); sys.meta_path.clear(); sys.path_hooks.clear()",
    "no modules": "import sys; kept = dict(sys.modules); sys.modules.clear()",
    "only some modules": "import sys; [sys.modules.pop(n) for n in list(sys.modules) if n.startswith('pypool') or n in ('traceback', 'inspect')]",
    "modules that are none": "import sys; [sys.modules.__setitem__(n, None) for n in list(sys.modules) if n not in ('sys', 'builtins')]",
    "modules of another kind": "import sys; [sys.modules.__setitem__(n, 'x') for n in list(sys.modules) if n not in ('sys', 'builtins')]",
    "nothing for the modules": "import sys; sys.modules = None",
    "modules that take no more": "import sys; sys.modules = type('M', (dict,), {'__setitem__': _broken})(sys.modules)",
    "no machinery": "import _frozen_importlib as machinery; vars(machinery).clear()",
    "another import": "import builtins; builtins.__import__ = _broken",
    "broken builtins": "import builtins; builtins.str = builtins.len = builtins.isinstance = builtins.print = builtins.open = _broken",
    "no builtins": "import builtins; saved = dict(vars(builtins)); remove = delattr; [remove(builtins, n) for n in saved if n not in KEPT]",
    "traceback tampered with": "import traceback; traceback.format_exception = _broken; traceback.TracebackException = None",
    "traceback says nothing": "import traceback; traceback.format_exception = lambda *a, **k: []",
    "linecache tampered with": "import linecache; linecache.getline = linecache.checkcache = linecache.getlines = _broken",
    "hooks": "import sys; sys.excepthook = sys.unraisablehook = _broken",
    "exits": "import os, sys; os._exit = os.kill = sys.exit = _broken",
    "write": "import os; os.write = os.read = _broken",
    "streams": "import sys; sys.stdout = sys.stderr = None",
    "warnings are errors": "import warnings; warnings.simplefilter('error')",
    "json": "import json, sys; sys.modules['json'] = sys.modules['_json'] = None",
    "functions of the system": "import fcntl, os, select, time, _signal, _socket; [setattr(m, n, _broken) for m in (fcntl, os, select, time, _signal, _socket) for n in list(vars(m)) if type(getattr(m, n)) is type(len)]",
    "a recursion limit": "import sys; sys.setrecursionlimit(60)",
}
#: Of these CPython itself cannot finish the import.
UNIMPORTABLE = ("modules.clear", "builtins.str", "remove(", "__setitem__", "sys.modules = None", "vars(machinery)")

SCRIPT = """
KEPT = ("ValueError", "NameError", "__build_class__")
def _broken(*args, **kwargs): raise RuntimeError("tampered with")
def _open_all():
    import os
    try:
        while True: os.open("/dev/null", os.O_RDONLY)
    except OSError: pass
def harm():
    %s
@command
def hurt(): harm()
@command
def fail(): raise ValueError("the true reason")
@command
def number(text): return saved_int(text)
saved_int = int
%s
"""


@pytest.mark.parametrize("when", ["import", "command", "setup"])
@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_the_true_exception_arrives(start: Start, harm: str, when: str) -> None:
    if when == "import" and any(part in harm for part in UNIMPORTABLE):
        harm = "pass"  # CPython itself cannot finish that import
    last = {"import": "harm()", "setup": "setup(harm)", "command": ""}[when]
    host = start(SCRIPT % (harm, last), preexec=_few_descriptors if "_open_all" in harm else None)
    if when == "command":
        host.call("hurt")
    for _ in range(3):
        error = host.error("fail")
        assert (error["kind"], error["type"], error["message"]) == ("python_exception", "ValueError", "the true reason"), (
            host.stderr()
        )
        assert "in fail" in error["traceback"]
    for _ in range(5):
        assert host.error("number", ["abc"])["type"] == "ValueError"
    assert host.result("number", ["12"]) == 12


REFUSED = """
@command
def two(a, b): pass
@command
def odd(): return {"a": [kind()]}
@command
def rows(): yield 1
kind = object
"""


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_a_refusal_is_told_as_what_it_is(start: Start, harm: str) -> None:
    """Each of them first: what tells it is loaded by then, or not."""
    for command, args, kind in (
        ("two", [1, 2, 3], "invalid_arguments"),
        ("odd", None, "invalid_result"),
        ("rows", None, "invalid_arguments"),
        ("nobody", None, "unknown_command"),
    ):
        host = start(SCRIPT % (harm, REFUSED), preexec=_few_descriptors if "_open_all" in harm else None)
        host.call("hurt")
        error = host.error(command, args)
        assert error["kind"] == kind, error
        if command == "odd":
            assert error["path"] == "$.a[0]", error


VALID = """
import dataclasses, datetime, enum, typing
class Color(enum.Enum):
    RED = 1
@dataclasses.dataclass
class Point:
    x: float
    day: datetime.date
    color: Color
@command
def listed(values: typing.List[float]): return values
@command
def point(p: Point) -> Point: return p
@command
def keyed(values: typing.Dict[int, float]) -> typing.Dict[int, float]: return values
@command(max_batch_size=4)
def batched(items: typing.List[dict]) -> list: return [item["n"] for item in items]
@command
async def later(n: int): return n
@command
def rows(n): yield from range(n)
"""
#: With these, typing and dataclasses themselves do not work.
LIBRARY = ("broken builtins", "no builtins")
#: With these, asyncio does not: it imports in its functions, and needs a descriptor.
ASYNCIO = (*LIBRARY, "no descriptor left", "no machinery", "another import", "functions of the system", "a recursion limit")


@pytest.mark.parametrize("when", ["setup", "command", "after a coroutine"])
@pytest.mark.parametrize("harm", [name for name in HARM if name not in LIBRARY])
def test_valid_calls_are_served(start: Start, harm: str, when: str) -> None:
    """What they need is imported by the first of them, long after the script."""
    text = VALID + ("setup(harm)" if when == "setup" else "")
    host = start(SCRIPT % (HARM[harm], text), preexec=_few_descriptors if "_open_all" in HARM[harm] else None)
    if when == "after a coroutine" and "_open_all" not in HARM[harm]:
        assert host.result("later", [2]) == 2
    if when != "setup":
        host.call("hurt")
    one = {"x": 1, "day": "2026-01-02", "color": 1}
    assert host.result("listed", [[1, 2.5]]) == [1.0, 2.5]
    assert host.result("point", [one]) == one
    assert host.result("keyed", [{"1": 2.5}]) == {"1": 2.5}
    assert host.result("batched", [{"n": 3}]) == 3
    if harm not in ASYNCIO:
        assert host.result("later", [3]) == 3
    assert [frame.get("item") for frame in host.stream("rows", [2])] == [0, 1, None]
    assert {described["name"] for described in host.result("list_commands")} >= {"point", "keyed", "rows"}
    assert host.error("point", [{"x": 1, "day": "no day", "color": 1}])["kind"] == "invalid_arguments"


def test_what_logging_needs_is_found_when_the_script_has_removed_it(start: Start) -> None:
    host = start(SCRIPT % (HARM["only some modules"], "def told(): import logging; logging.warning('told')\ncommand(told)"))
    host.call("hurt")
    assert host.result("told") is None
    assert [record["message"] for record in host.records()] == ["told"]


@pytest.mark.parametrize("harm", LIBRARY)
def test_what_the_script_has_broken_is_not_the_callers_fault(start: Start, harm: str) -> None:
    host = start(SCRIPT % (HARM[harm], VALID))
    host.call("hurt")
    error = host.error("listed", [[1]])
    assert (error["kind"], error["entered"]) == ("python_exception", False)


def _few_descriptors() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))


@pytest.mark.skipif(not hasattr(sys, "platform") or sys.platform != "linux", reason="needs chroot")
def test_another_root_directory(start: Start) -> None:
    host = start(
        """
        import os
        @setup
        def prepare(): os.chroot("/proc"); os.chdir("/"); os.setgid(65534); os.setuid(65534)
        @command
        def fail(): raise ValueError("the true reason")
        """
    )
    error = host.error("fail")
    assert error["message"] == "the true reason" and "in fail" in error["traceback"]


def test_refusals_without_descriptors(start: Start) -> None:
    host = start(SCRIPT % ("_open_all()", "def two(a: int, b: int): return a\ncommand(two)"), preexec=_few_descriptors)
    host.call("hurt")
    assert host.error("two", {"a": 1, "c": 2})["kind"] == "invalid_arguments"
    assert host.error("tow")["kind"] == "unknown_command"
    host.write(b'{"id":77777,"command":"two","args":[1e999]}\n')
    assert host.receive()["error"]["kind"] == "invalid_arguments"
    assert host.result("two", [1, 2]) == 1


def test_an_exception_that_cannot_be_described(start: Start) -> None:
    host = start(
        """
        class Meta(type):
            __module__ = property(lambda cls: 1 / 0)
        class Odd(Exception, metaclass=Meta):
            def __str__(self): raise RuntimeError("no text")
            __repr__ = __str__
        class Chain(Exception):
            @property
            def __cause__(self): raise RuntimeError("no cause")
            __context__ = __traceback__ = __notes__ = __cause__
        @command
        def odd(): raise Odd
        @command
        def chain(): raise Chain("text")
        """
    )
    assert host.error("odd")["kind"] == "python_exception"
    assert host.error("chain")["message"] == "text"
    assert host.error("odd")["kind"] == "python_exception"


def test_an_exceptions_chain_without_traceback(start: Start) -> None:
    host = start(
        """
        import sys
        sys.path.clear(); sys.modules["traceback"] = None
        @command
        def fail():
            try:
                try: 1 / 0
                except ZeroDivisionError as error: raise KeyError("missing") from error
            except KeyError: raise ValueError("outer")
        @command
        def deep(n): return deep(n - 1) if n else 1 / 0
        """
    )
    text = host.error("fail")["traceback"]
    assert [word for word in text.split() if word.startswith(("ZeroDivisionError", "KeyError", "ValueError"))] == [
        "ZeroDivisionError:",
        "KeyError:",
        "ValueError:",
    ]
    assert "direct cause" in text and "another exception occurred" in text
    assert len(host.error("deep", [500])["traceback"]) < 20_000


def test_a_closed_channel_is_told_from_an_error_of_the_system(start: Start) -> None:
    host = start(
        """
        import os, signal, errno
        @command
        def later(seconds):
            def strike(*_): raise OSError(errno.EMFILE, "struck")
            signal.signal(signal.SIGALRM, strike); signal.setitimer(signal.ITIMER_REAL, seconds)
        @command
        def close(): os.closerange(3, 4096)
        """
    )
    host.result("later", [0.01])
    host.wait_stderr("struck")
    assert host.call("ping")["success"]
    host.send(host.request("close"))
    host.wait()
    assert "pypool: the channel to the host is closed" in host.stderr()


# ------------------------------------------------------------------------------------------------------------- contexts

CONTEXT = """
    import asyncio, contextvars, decimal
    USER = contextvars.ContextVar("user", default="nobody")
    LEVEL = contextvars.ContextVar("level")
    LEVEL.set("import")
    @setup
    def prepare(): LEVEL.set("setup")
    @command
    def put(name): USER.set(name); LEVEL.set(name); return LEVEL.get()
    @command
    def get(): return [USER.get(), LEVEL.get()]
    @command
    async def aput(name): USER.set(name); LEVEL.set(name)
    @command
    async def aget(): return [USER.get(), LEVEL.get()]
    @command
    def steps(name):
        yield USER.get()
        USER.set(name)
        yield USER.get()
        yield USER.get()
    @command
    async def asteps(name):
        yield USER.get()
        USER.set(name)
        await asyncio.sleep(0)
        yield USER.get()
        yield USER.get()
    @program("p")
    class P:
        def __call__(self, name): before = USER.get(); USER.set(name); return before
    @command
    def fails(name): USER.set(name); raise ValueError
    class Odd:
        def __eq__(self, other): raise RuntimeError("not comparable")
    @command
    def odd(): LEVEL.set(Odd())
    @command
    def precision(): decimal.getcontext().prec += 1; return decimal.getcontext().prec
"""


def test_each_call_has_its_own_context(start: Start) -> None:
    host = start(CONTEXT)
    for _ in range(2):
        assert host.result("put", ["ann"]) == "ann"
        assert host.result("get") == ["nobody", "setup"] == host.result("aget")
        host.result("aput", ["bob"])
        assert host.result("get") == ["nobody", "setup"] == host.result("aget")
        for command in ("steps", "asteps"):
            frames = host.stream(command, ["eve"])
            assert [frame.get("item") for frame in frames[:-1]] == ["nobody", "eve", "eve"]
            assert host.result("get") == ["nobody", "setup"]
        for _ in range(2):
            assert host.result("execute_program", {"program_id": "p", "inputs": ["ann"]}) == "nobody"
        host.error("fails", ["ann"])
        host.result("odd")
        assert host.result("get") == ["nobody", "setup"]
        assert host.result("precision") == host.result("precision")


def test_pipelined_calls_have_their_own_contexts(start: Start) -> None:
    host = start(CONTEXT)
    host.result("execute_program", {"program_id": "p", "inputs": ["x"]})
    packed = [part for i in range(20) for part in (8000 + i, ["n%d" % i])]
    host.send({"packed": packed, "command": "put"})
    host.send(host.request("get"))
    assert [host.receive()["result"] for _ in range(21)] == ["n%d" % i for i in range(20)] + [["nobody", "setup"]]


def test_an_exit_of_a_left_task_is_not_the_next_calls(start: Start) -> None:
    host = start(
        """
        import asyncio, sys
        @command
        async def leave():
            async def exits(): await asyncio.sleep(0); sys.exit(3)
            asyncio.ensure_future(exits())
        @command
        async def calm():
            for _ in range(5): await asyncio.sleep(0)
            return "done"
        @command
        async def exits(): await asyncio.sleep(0); sys.exit(4)
        @command
        async def acount():
            for i in range(3): yield i; await asyncio.sleep(0)
        """
    )
    host.result("leave")
    assert host.result("calm") == "done"
    host.result("leave")
    assert [frame.get("item") for frame in host.stream("acount")] == [0, 1, 2, None]
    assert host.error("exits")["code"] == 4
    assert "SystemExit" in host.stderr()


def test_frames_of_uvloop_are_hidden(start: Start) -> None:
    pytest.importorskip("uvloop")
    host = start("import uvloop; uvloop.install()\n@command\nasync def fail(): 1 / 0")
    places = [line for line in host.error("fail")["traceback"].splitlines() if line.startswith("  File")]
    assert len(places) == 1 and places[0].endswith("in fail")
