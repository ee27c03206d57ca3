# ruff: noqa: E501  scripts as they stand in a table
"""What surrounds a script: unusual files, names, environment variables, child interpreters, the command line."""

from __future__ import annotations

import os
import py_compile
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any, Sequence, Tuple

import pytest
from conftest import Start
from host import PACKAGE, VERSION, Host

HELLO = "from pypool import command\n@command\ndef hi(): return __name__\n"


# -------------------------------------------------------------------------------------------------- scripts and their names


def test_two_names_for_one_file(start: Start, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").touch()
    (tmp_path / "app" / "helper.py").write_text("import app.worker")
    path = tmp_path / "app" / "worker.py"
    path.write_text(HELLO + "import sys; sys.path.append(%r)\nimport app.helper\n" % str(tmp_path))
    with Host(str(path)) as host:
        message = host.hello["error"]["message"]
        assert (
            "registered twice" in message and "'worker'" in message and "'app.worker'" in message and "Config.Module" in message
        )
    message = start("@command\ndef a(): pass\n@command(name='a')\ndef b(): pass\n").hello["error"]["message"]
    assert "by a (" in message and "and b (" in message


def test_reload_replaces(start: Start, tmp_path: Path) -> None:
    helper = tmp_path / "helper.py"
    helper.write_text(
        "from pypool import command, program\n@command\ndef value(): return 1\n@program('p')\nclass P:\n    def __call__(self): return 1\n"
    )
    host = start("import importlib, helper\n@command\ndef again(): importlib.reload(helper)")
    assert [host.result("value") for _ in range(3)] == [1, 1, 1]
    helper.write_text(
        "from pypool import command, program\n\n@command\ndef value(): return 'two'\n@program('p')\nclass P:\n    def __call__(self): return 2\n"
    )
    host.result("again")
    assert host.result("value") == "two" and host.result("execute_program", {"program_id": "p"}) == 2


def test_unusual_scripts(tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text(HELLO)
    compiled = tmp_path / "compiled.pyc"
    py_compile.compile(str(source), str(compiled))
    archive = tmp_path / "archive.pyz"
    with open(archive, "wb") as file:
        file.write(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(archive, "a") as zipped:
        zipped.writestr("__main__.py", "import part\n" + HELLO)
        zipped.writestr("part.py", "")
    other = tmp_path / "no_extension"
    other.write_text(HELLO)
    for path, name in ((compiled, "compiled"), (archive, "archive"), (other, "no_extension")):
        with Host(str(path)) as host:
            assert host.result("hi") == name


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("notes.ipynb", '{"cells": []}', "nbconvert"),
        ("worker.py", "from . import helper", "Config.Module"),
        ("worker.py", "from .helper import x", "Config.Module"),
    ],
)
def test_scripts_that_are_refused(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with Host(str(tmp_path / name)) as host:
        assert host.hello["error"]["type"] == "ImportError" and words in host.hello["error"]["message"]
    with Host(str(tmp_path)) as host:
        assert "is a folder" in host.hello["error"]["message"]


# -------------------------------------------------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    "args, words",
    [
        (("worker.py", "call", "echo", "[NaN]"), "not JSON: NaN"),
        (("worker.py", "call", "echo", "[1e999]"), "out of range"),
        (("worker.py", "call", "echo", '["\\ud800"]'), "surrogates"),
        (("worker.py", "call", "echo", "["), "not JSON"),
        (("worker.py", "call", "echo", ""), "not JSON"),
        (("worker.py", "call", "echo", "--session", ""), "session id"),
        (("worker.py", "call", "echo", "--session", "a\n"), "session id"),
        (("worker.py", "call", "leave"), "os._exit(0)"),
        (("worker.py", "call", "least"), '-inf is not JSON (at $): put None in its place, or use @command(nan="null")'),
        ((".",), "is a folder"),
        (("nothing.py",), "no such file"),
    ],
)
def test_what_a_pool_refuses_is_refused_by_hand(tmp_path: Path, args: Tuple[str, ...], words: str) -> None:
    done = _by_hand(tmp_path, args)
    assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_screens_that_know_few_characters_or_are_none(tmp_path: Path) -> None:
    call = ("worker.py", "call", "echo", '["\u00e9\u6f22"]')
    done = _by_hand(tmp_path, call, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0 and done.stdout == '"\\xe9\\u6f22"\n', done
    for closed in (">&-", "2>&-"):
        line = [sys.executable, "-m", "pypool", *call]
        done = _by_hand(tmp_path, call, command=["sh", "-c", 'exec "$@" ' + closed, "sh", *line])
        assert done.returncode == 0 and "Traceback" not in done.stderr, done


@pytest.mark.parametrize("name", ["ask", "wait"])
def test_by_hand_there_is_no_host(tmp_path: Path, name: str) -> None:
    done = _by_hand(tmp_path, ("worker.py", "call", name))
    assert done.returncode == 1
    assert "LookupError: there is no host here: functions of the Go program can be called in its own workers only" in done.stderr


def _by_hand(tmp_path: Path, args: Sequence[str], command: Sequence[str] = (), **environ: str) -> Any:
    text = HELLO + "import os\n@command\ndef echo(x=None): return x\n@command\ndef leave(): os._exit(0)\n"
    text += "@command\ndef least(): return float('-inf')\n"
    text += (
        "from pypool import host\n@command\ndef ask(): return host.f()\n@command\nasync def wait(): return await host.aio.f()\n"
    )
    (tmp_path / "worker.py").write_text(text)
    env = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), **environ}
    command = command or [sys.executable, "-m", "pypool", *args]
    return subprocess.run(command, cwd=str(tmp_path), env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("args", [["worker.py"], ["worker.py", "call", "many"], ["check", "worker.py"]])
def test_a_reader_that_leaves(tmp_path: Path, args: list) -> None:  # type: ignore[type-arg]
    functions = "".join("@command\ndef f%d(): '''%s'''\n" % (i, "x" * 200) for i in range(2000))
    (tmp_path / "worker.py").write_text(
        "from pypool import command\n%s@command\ndef many():\n    for i in range(100000): yield i\n" % functions
    )
    env = dict(os.environ, PYTHONPATH=str(PACKAGE.parent))
    done = subprocess.Popen(
        [sys.executable, "-m", "pypool", *args], cwd=str(tmp_path), env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert done.stdout is not None and done.stderr is not None
    done.stdout.close()
    assert done.stderr.read().decode() == ""
    done.stderr.close()
    assert done.wait() == 141


# ------------------------------------------------------------------------------------------------------ child interpreters

CHILDREN = """
    import os, subprocess, sys
    def square(x): return x * x
    @command
    def import_it(how):
        code = "import pypool; from pypool import command; command(len); print(pypool.__version__)"
        if how == "run": return subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout.decode()
        if how == "shell": return subprocess.check_output('"%s" -c "%s"' % (sys.executable, code), shell=True).decode()
        if how == "env": return subprocess.check_output([sys.executable, "-c", code], env={"A": "1"}).decode()
        if how == "nested":
            inner = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', %r]))" % code
            return subprocess.run([sys.executable, "-c", inner], stdout=subprocess.PIPE, check=True).stdout.decode()
    @command
    def executor(method):
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor
        context = multiprocessing.get_context(method)
        context.set_executable(sys.executable)
        with ProcessPoolExecutor(1, mp_context=context) as pool: return list(pool.map(square, [1, 2, 3]))
    @command
    def loky():
        from joblib import Parallel, delayed
        return Parallel(n_jobs=2)(delayed(square)(i) for i in range(4))
    @command
    def share(size):
        from multiprocessing import shared_memory
        global kept
        kept = shared_memory.SharedMemory(create=True, size=size)
        return kept.name
"""


@pytest.mark.parametrize("how", ["run", "shell", "env", "nested"])
def test_children_can_import_the_runtime(start: Start, how: str) -> None:
    assert start(CHILDREN).result("import_it", [how]).split() == [VERSION]


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_executors(start: Start, method: str) -> None:
    assert start(CHILDREN).result("executor", [method]) == [1, 4, 9]


def test_joblib(start: Start) -> None:
    pytest.importorskip("joblib")
    assert start(CHILDREN).result("loky") == [0, 1, 4, 9]


@pytest.mark.parametrize("end", ["shutdown", "kill", "host"])
def test_shared_memory_is_removed(start: Start, end: str) -> None:
    host = start(CHILDREN)
    path = "/dev/shm/" + host.result("share", [4096]).lstrip("/")
    assert os.path.exists(path)
    if end == "shutdown":
        host.shutdown()
        assert not os.path.exists(path)
    elif end == "kill":
        os.killpg(host.pid, 9)
    else:
        host.close_stdin()
    deadline = time.monotonic() + 20
    while os.path.exists(path) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not os.path.exists(path)


# ---------------------------------------------------------------------------------------------------- environment variables


def test_sitecustomize_is_for_the_script_to_import(start: Start, tmp_path: Path) -> None:
    site = tmp_path / "auto"
    site.mkdir()
    (site / "sitecustomize.py").write_text("import sys; sys.instrumented = __file__")
    env = dict(os.environ, PYTHONPATH=str(site))
    text = "import sys\n%s\n@command\ndef f(): return getattr(sys, 'instrumented', None)"
    assert start(text % "", env=env).result("f") is None
    # Debian's Python has one of its own in its standard library, which comes first
    own = (
        subprocess.run([sys.executable, "-I", "-c", "import sitecustomize"], stderr=subprocess.DEVNULL, check=False).returncode
        == 0
    )
    expected = None if own else str(site / "sitecustomize.py")
    assert start(text % "import sitecustomize", env=env).result("f") == expected
    (tmp_path / "worker.py").write_text(HELLO)
    env["PYTHONPATH"] += os.pathsep + str(PACKAGE.parent)
    checked = subprocess.run(
        [sys.executable, "-m", "pypool", "check", "worker.py"], cwd=str(tmp_path), env=env, stdout=subprocess.PIPE
    )
    assert "sitecustomize.py: not run in a worker" in checked.stdout.decode()


def test_the_hidden_environment_is_put_back(start: Start, tmp_path: Path) -> None:
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "helper.py").write_text("x = 5")
    host = start(
        "import os, helper\n@command\ndef f(): return [helper.x, os.environ['PYTHONPATH']]",
        environ={"PYTHONPATH": str(tmp_path / "beside")},
    )
    assert host.result("f")[0] == 5


def test_check_names_what_has_no_effect(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(HELLO)
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}  # `make PYTHONS=...` is one
    env.update(PYTHONPATH=str(PACKAGE.parent), PYTHONMALLOC="default", PYTHONASYNCIODEBUG="1", PYTHONHASHSEED="5")
    out = subprocess.run(
        [sys.executable, "-m", "pypool", "check", "worker.py"], cwd=str(tmp_path), env=env, stdout=subprocess.PIPE
    ).stdout.decode()
    assert "PYTHONASYNCIODEBUG, PYTHONMALLOC: no effect" in out
