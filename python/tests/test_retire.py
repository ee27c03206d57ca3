"""Workers that ask to be replaced, and the functions that say whether they are healthy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Dict

import pytest
from conftest import Start
from host import PACKAGE

from pypool import _health, command, health, program, retire
from pypool._commands import COMMANDS, HEALTH, PROGRAMS

CAPABLE = ["stream", "page", "packed", "batch", "shared", "retire"]


def told(line: Dict[str, Any], id: int, reason: str, between: bool = False) -> None:
    assert line == {"id": id, "retire": reason, **({"between": True} if between else {})}


def test_the_request_stands_before_the_answer(start: Start) -> None:
    host = start(
        """
        import pypool
        @command
        def leave(reason, size=0):
            pypool.retire(reason)
            pypool.retire("the first one counts")
            return "x" * size
        """,
        capabilities=CAPABLE,
    )
    host.send({"id": 5, "command": "leave", "args": ['50 % of it\nis "lost" \u00e9 \ud800']})
    told(host.receive(), 5, '50 % of it\nis "lost" \u00e9 ?')
    assert host.receive() == {"id": 5, "success": True, "result": ""}
    host.send({"id": 6, "command": "leave", "args": ["again"]})
    assert host.receive()["success"], "once is enough"


def test_a_host_that_does_not_know_it_is_told_nothing(start: Start) -> None:
    host = start("import pypool\n@command\ndef leave(): pypool.retire('lost')\n@pypool.health\ndef fit(): pass")
    assert "health" not in host.hello["result"]
    assert host.result("leave") is None
    assert host.silent()


def test_before_a_large_answer_too(start: Start) -> None:
    host = start(
        "import pypool\n@command\ndef leave():\n    pypool.retire('r' * 10000)\n    return 'x' * (3 << 20)", capabilities=CAPABLE
    )
    host.send({"id": 5, "command": "leave"})
    told(host.receive(), 5, "r" * 500)
    assert len(host.receive()["result"]) == 3 << 20


def test_what_is_said_between_two_calls_stands_before_the_next_answer(start: Start) -> None:
    host = start(
        """
        import threading, pypool
        asked = threading.Event()
        @command
        def later():
            threading.Timer(0.01, lambda: (pypool.retire("late"), asked.set())).start()
        @command
        def wait():
            pass
        """,
        capabilities=CAPABLE,
    )
    assert host.result("later") is None
    for id in range(2000, 4000):
        host.send({"id": id, "command": "wait"})
        line = host.receive()
        if "retire" in line:
            told(line, id, "late", between=True)
            assert host.receive()["id"] == id
            break
    else:
        raise AssertionError("not told")


def test_a_batch_and_what_is_beside_others(start: Start) -> None:
    host = start(
        """
        import pypool
        class Dead(Exception): pass
        @command(max_batch_size=4, retire_on=Dead)
        def batch(x: list):
            return [Dead("one") if v == 2 else v for v in x]
        """,
        capabilities=CAPABLE,
    )
    host.write(b'{"batch":[{"id":7,"command":"batch","args":[1]},{"id":8,"command":"batch","args":[2]}]}\n')
    told(host.receive(), 8, "command batch raised worker.Dead (retire_on)")
    assert [host.receive()["id"] for _ in range(2)] == [7, 8]

    host = start(
        """
        import asyncio
        class Dead(Exception): pass
        @command(concurrency=4, retire_on=(KeyError, Dead))
        async def beside(x):
            await asyncio.sleep(0)
            if x == 2: raise Dead
            return x
        """,
        capabilities=CAPABLE,
    )
    for id, x in ((1, 1), (2, 2), (3, 3)):
        host.send({"shared": {"id": id, "command": "beside", "args": [x]}})
    lines = [host.receive() for _ in range(4)]
    told(next(line for line in lines if "retire" in line), 2, "command beside raised worker.Dead (retire_on)")
    assert [line["id"] for line in lines].index(2) == [line.get("retire") is not None for line in lines].index(True)


def test_a_subclass_counts_and_others_do_not(start: Start) -> None:
    host = start(
        """
        class Mine(OSError): pass
        @command(retire_on=OSError)
        def f(kind): raise {"mine": Mine, "value": ValueError, "type": TypeError}[kind]()
        @command(retire_on=(TypeError,))
        def g(x): raise TypeError("of the handler")
        """,
        capabilities=CAPABLE,
    )
    assert host.error("f", ["value"])["type"] == "ValueError"
    assert host.error("f", ["type"])["type"] == "TypeError"
    assert host.error("g")["kind"] == "invalid_arguments"
    host.send({"id": 7, "command": "g", "args": [1]})
    told(host.receive(), 7, "command g raised TypeError (retire_on)")
    host = start("class Mine(OSError): pass\n@command(retire_on=OSError)\ndef f(): raise Mine()", capabilities=CAPABLE)
    host.send({"id": 8, "command": "f"})
    told(host.receive(), 8, "command f raised worker.Mine (retire_on)")


def test_arguments_that_are_refused_retire_nobody(start: Start) -> None:
    host = start(
        """
        import functools
        from datetime import date
        from typing import List
        @command(retire_on=Exception)
        def f(x: date): return type(x).__name__
        def passes(func):
            @functools.wraps(func)
            def wrapper(*args, **keyword): return func(*args, **keyword)
            return wrapper
        @command(retire_on=Exception)
        @passes
        def wrapped(x: date): return type(x).__name__
        @command(retire_on=Exception, max_batch_size=4)
        def batch(x: List[date]): return [type(one).__name__ for one in x]
        @command(retire_on=Exception)
        def items(x: date): yield type(x).__name__
        """,
        capabilities=CAPABLE,
    )
    for name in ("f", "wrapped", "batch"):
        assert host.result(name, ["2026-01-02"]) == "date"
        for args in (["bad"], {"x": "bad"}, [], [1, 2]):
            error = host.error(name, args)
            assert error["kind"] == "invalid_arguments" and "retires" not in error
    assert host.stream("items", ["2026-01-02"])[0]["item"] == "date"
    assert host.stream("items", ["bad"])[0]["error"]["kind"] == "invalid_arguments"
    assert host.error("items", ["2026-01-02"])["kind"] == "invalid_arguments"


def test_health(start: Start, tmp_path: Path) -> None:
    lost = tmp_path / "lost"
    text = """
        import asyncio, os
        import pypool
        @pypool.health
        async def fit():
            await asyncio.sleep(0)
            if os.path.exists(%r): raise OSError("no device")
        """ % str(lost)
    host = start(text, capabilities=CAPABLE)
    assert host.hello["result"]["health"] is True
    assert host.result("ping", {"health": True})["status"] == "ok"
    lost.touch()
    assert host.result("ping")["status"] == "ok", "who does not ask is told nothing"
    host.send({"id": 7, "command": "ping", "args": {"health": True}})
    told(host.receive(), 7, "@health fit: OSError: no device")
    assert host.receive()["result"]["status"] == "ok"
    assert "@health fit failed:" in host.stderr() and "no device" in host.stderr()
    error = start(text, capabilities=CAPABLE).hello["error"]
    assert (error["kind"], error["stage"], error["type"], error["message"]) == ("start_failed", "health", "OSError", "no device")


def test_what_cannot_be() -> None:
    cases: Any = ("text", ("text",), 3, (OSError, 3), [OSError], OSError("instance"))
    for wrong in cases:
        with pytest.raises(TypeError, match="retire_on is an exception class, or a tuple of such classes"):
            command(retire_on=wrong)
        with pytest.raises(TypeError):
            program("p", retire_on=wrong)
    with pytest.raises(TypeError, match="retire.. takes the reason"):
        retire(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="empty"):
        retire(" ")
    with pytest.raises(TypeError, match="@health goes on a function"):
        health(3)  # type: ignore[type-var]


def test_what_is_registered() -> None:
    @program("fatal", retire_on=OSError)
    class Fatal:
        def __call__(self) -> None: ...

    @health
    def fit() -> None: ...

    try:
        assert PROGRAMS["fatal"].retire_on == (OSError,)
        from pypool._commands import instantiate_programs

        instantiate_programs()
        assert PROGRAMS["fatal"].retire_on == (OSError,)
        assert HEALTH == [fit]
    finally:
        del PROGRAMS["fatal"], HEALTH[:]
    assert "fatal" not in COMMANDS


def test_by_hand(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(
        "import os, pypool\nfrom pypool import command, health\n"
        "@health\ndef fit():\n    if os.path.exists('lost'): raise OSError('no device')\n"
        "@command(retire_on=(KeyError, OSError))\ndef f(): raise KeyError('x')\n"
        "@command\ndef g():\n    pypool.retire('enough')\n    return 1\n"
    )

    def run(*args: str) -> Any:
        return subprocess.run(
            [sys.executable, "-m", "pypool", *args],
            cwd=str(tmp_path),
            env={"PYTHONPATH": str(PACKAGE.parent)},
            capture_output=True,
            text=True,
        )

    checked = run("check", "worker.py")
    assert checked.returncode == 0, checked.stdout
    assert "retires       after KeyError, OSError in f\n" in checked.stdout
    assert "health        fit is content" in checked.stdout
    called = run("worker.py", "call", "g")
    assert (called.returncode, called.stdout) == (0, "1\n")
    assert "a pool would replace this worker: enough" in called.stderr
    assert "a pool would replace this worker: command f raised KeyError (retire_on)" in run("worker.py", "call", "f").stderr
    (tmp_path / "lost").touch()
    checked = run("check", "worker.py")
    assert checked.returncode == 1
    assert (
        "health        fit fails, and no worker would become ready:" in checked.stdout and "OSError: no device" in checked.stdout
    )


class _Scalar:
    """A bool as NumPy and torch have one."""

    def __init__(self, value: bool, ndim: int = 0) -> None:
        self.dtype, self.ndim, self.value = "torch.bool", ndim, value

    def __bool__(self) -> bool:
        return self.value


def test_what_is_false() -> None:
    for value, wanted in (
        (False, True),
        (True, False),
        (None, False),
        (0, False),
        ("", False),
        (_Scalar(False), True),
        (_Scalar(True), False),
    ):
        assert _health.is_false(value) is wanted
    assert not _health.is_false(_Scalar(False, 1))
    np = pytest.importorskip("numpy", reason="not for every Python")
    assert _health.is_false(np.isfinite(np.array([1.0, np.nan])).all()) and not _health.is_false(np.bool_(True))
    assert not _health.is_false(np.zeros(3, bool)) and not _health.is_false(np.float64(0))
