"""Hello, the import path, the user's script, and what a start costs."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any, Dict

import pytest
from conftest import WITH_ORJSON, Start
from host import PACKAGE, VERSION, Host


def fields(hello: Dict[str, Any], stage: str) -> Dict[str, Any]:
    error: Dict[str, Any] = hello["error"]
    assert (hello["id"], hello["success"]) == (0, False)
    assert (error["kind"], error["stage"]) == ("start_failed", stage)
    if stage != "bootstrap":
        assert error["python"] == "%d.%d.%d" % sys.version_info[:3]
    return error


def test_hello(start: Start) -> None:
    host = start("@command\ndef f(): pass\n@program('p')\ndef p(): pass", args=["--x", "y"])
    assert host.hello == {
        "id": 0,
        "success": True,
        "result": {
            "protocol": 1,
            "runtime": VERSION,
            "python": "%d.%d.%d" % sys.version_info[:3],
            "implementation": sys.implementation.name,
            "executable": sys.executable,
            "pid": host.pid,
            "commands": ["f"],
            "programs": ["p"],
            "capabilities": ["stream", "page", "log", "packed"],
        },
    }


def test_only_shared_capabilities(start: Start) -> None:
    assert start(capabilities=["stream", "blobs"]).hello["result"]["capabilities"] == ["stream"]


def test_hello_and_a_request_in_one_write(start: Start) -> None:
    host = start("@command\ndef f(): return 1", hello=False)
    import json

    host.write(json.dumps({"id": 0, "command": "hello", "args": host.hello_args}).encode() + b'\n{"id":1,"command":"f"}\n')
    assert host.receive()["success"]
    assert host.receive() == {"id": 1, "success": True, "result": 1}


def test_no_script() -> None:
    with Host() as host:
        assert host.hello["result"]["commands"] == []
        assert host.result("list_commands") == []


def test_a_failed_start_tells_its_sources_when_asked(start: Start, tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("import json\n")
    mine = [str(tmp_path / "helper.py"), str(tmp_path / "worker.py")]
    text = "import helper\nfrom pypool import setup\n@setup\ndef load(): helper.missing\n"
    assert "sources" not in fields(start(text).hello, "setup")
    assert fields(start(text, sources=True).hello, "setup")["sources"] == mine
    # The script itself failed, and is no module any more
    assert fields(start("import helper\nhelper.missing\n", sources=True).hello, "import")["sources"] == mine[:1]


@pytest.mark.parametrize(
    ("text", "type", "words"),
    [
        ("import nonexistent_module", "ModuleNotFoundError", "nonexistent_module"),
        ("def f(:", "SyntaxError", "worker.py"),
        ("1 / 0", "ZeroDivisionError", "1 / 0"),
        ("raise SystemExit(0)", "SystemExit", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", "worker.py"),
    ],
)
def test_import_fails(start: Start, text: str, type: str, words: str) -> None:
    host = start(text)
    error = fields(host.hello, "import")
    assert error["type"] == type
    assert words in error["traceback"]
    assert "pypool" not in error["traceback"].replace("from pypool import", "") and "importlib" not in error["traceback"]
    assert host.wait() == 1


def test_missing_script_and_module(tmp_path: Path) -> None:
    with Host(str(tmp_path / "nope.py")) as host:
        assert fields(host.hello, "import")["type"] == "FileNotFoundError"
    with Host(module="nope_module") as host:
        assert fields(host.hello, "import")["type"] == "ModuleNotFoundError"


def test_setup_fails(start: Start) -> None:
    host = start(
        """
        done = []
        @setup
        def one(): done.append(1)
        @setup
        async def two(): raise ValueError("setup %s" % done)
        """
    )
    error = fields(host.hello, "setup")
    assert error["message"] == "setup [1]"
    host = start("@program('p')\nclass P:\n    def __init__(self): raise OSError('no weights')\n    def __call__(self): pass")
    assert fields(host.hello, "setup")["message"] == "no weights"


def test_broken_hello(start: Start) -> None:
    for line in (b"nonsense\n", b'{"id":0}\n', b'{"id":0,"command":"hello","args":{"runtime":{}}}\n'):
        host = start(hello=False)
        host.write(line)
        assert fields(host.receive(), "bootstrap")["message"]
        assert host.wait() == 1


def test_host_leaves_before_hello(start: Start) -> None:
    host = start(hello=False)
    host.close_stdin()
    assert host.wait() == 1


@pytest.mark.parametrize("version", ["3.6.15", "3.7.16"])
def test_old_interpreters_say_so(version: str) -> None:
    python = Path.home() / ".pyenv" / "versions" / version / "bin" / "python"
    if not python.exists():
        pytest.skip("no Python %s here" % version)
    with Host(python=str(python)) as host:
        error = fields(host.hello, "bootstrap")
        assert error["type"] == "RuntimeError"
        assert error["message"] == "Python %s is too old: pypool needs Python 3.8 or later" % version
        assert host.wait() == 1


def test_bootstrap_parses_everywhere() -> None:
    for python in sorted((Path.home() / ".pyenv" / "versions").glob("*/bin/python")):
        code = "import ast; ast.parse(open(%r).read())" % str(PACKAGE / "_boot.py")
        subprocess.run([str(python), "-c", code], check=True)


def test_sources_are_small_ascii(start: Start) -> None:
    for path in PACKAGE.glob("*.py"):
        text = path.read_text("ascii")
        assert len(text.splitlines()) <= 400, path
    assert (PACKAGE / "_boot.py").stat().st_size < 8 * 1024


# ---------------------------------------------------------------------------------------------------------- the import


def test_script_is_a_module(start: Start) -> None:
    host = start(
        """
        import dataclasses, pickle, sys, typing
        @dataclasses.dataclass
        class Row:
            n: "Number"
        Number = int
        @command
        def facts():
            import worker
            again = pickle.loads(pickle.dumps(Row(3)))
            hints = typing.get_type_hints(Row)
            return [__name__, worker.Row is Row, again.n, hints["n"] is int, sys.argv, sys.modules["worker"].__file__ == __file__]
        """,
        args=["--x", "y"],
    )
    assert host.result("facts") == ["worker", True, 3, True, [host.hello_args["script"], "--x", "y"], True]


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("json.py", "_worker_json"),
        ("sys.py", "_worker_sys"),
        ("asyncio.py", "_worker_asyncio"),
        ("pypool.py", "_worker_pypool"),
        ("my-worker.py", "my-worker"),
        ("worker.v2.py", "worker_v2"),
        ("pytest.py", "_worker_pytest"),
    ],
)
def test_module_names(start: Start, name: str, module: str) -> None:
    host = start("@command\ndef f(): return __name__", name=name)
    if module == "_worker_pytest":
        # The script's folder comes first, so an installed package of the same name is out of reach anyway.
        module = "pytest"
    assert host.result("f") == module


def test_standard_library_is_not_shadowed(start: Start, tmp_path: Path) -> None:
    for name in ("json", "traceback", "inspect", "logging", "difflib", "typing", "asyncio", "random", "enum", "re"):
        (tmp_path / (name + ".py")).write_text("raise ImportError('hijacked')")
    (tmp_path / "pypool").mkdir()
    (tmp_path / "pypool" / "__init__.py").write_text("raise ImportError('hijacked')")
    host = start(
        """
        import logging, json, random
        @command
        def f(x: "__import__('datetime').date"): raise ValueError
        @command
        async def g(): return 1
        """,
        env=dict(os.environ, PYTHONPATH=str(tmp_path)),
    )
    assert host.error("f", [1])["kind"] in ("python_exception", "invalid_arguments")
    assert host.result("g") == 1
    assert host.error("nope")["names"]
    assert len(host.result("list_commands")) == 2


def test_import_path(start: Start, tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("who = 'neighbour'")
    extra, user = tmp_path / "extra", tmp_path / "user"
    extra.mkdir()
    (extra / "further.py").write_text("who = 'further'")
    (extra / "neighbour.py").write_text("who = 'wrong'")
    version = "python%d.%d%s" % (*sys.version_info[:2], "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else "")
    site = user / "lib" / version / "site-packages"
    site.mkdir(parents=True)
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "by_pth.py").write_text("who = 'by_pth'")
    (site / "some.pth").write_text(str(linked) + "\n")
    text = """
        import sys
        @command
        def path(): return sys.path
        @command
        def who(name): return __import__(name).who
        """
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([str(extra), ""]), PYTHONUSERBASE=str(user))
    host = start(text, env=env, python=base_python())
    assert host.result("who", ["neighbour"]) == "neighbour"
    assert host.result("who", ["further"]) == "further"
    assert host.result("who", ["by_pth"]) == "by_pth"
    path = host.result("path")
    ours = [path.index(str(entry)) for entry in (tmp_path, extra, site, linked)]
    assert ours == sorted(ours) and len(set(path)) == len(path)
    stdlib = path.index(os.path.dirname(os.__file__).replace(sys.prefix, sys.base_prefix))
    packages = [path.index(entry) for entry in path if entry.endswith("-packages") and str(user) not in entry]
    assert stdlib < ours[0] and ours[-1] < min(packages)
    assert start(text, env=dict(env, PYTHONNOUSERSITE="1"), python=base_python()).error("who", ["by_pth"])
    if sys.prefix != sys.base_prefix:  # a virtual environment hides the user's site
        assert start(text, env=env).error("who", ["by_pth"])["type"] == "ModuleNotFoundError"


def base_python() -> str:
    return os.path.join(sys.base_prefix, "bin", "python3")


def test_script_behind_a_symbolic_link(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (real / "neighbour.py").write_text("who = 'neighbour'")
    (real / "worker.py").write_text("import neighbour")
    (tmp_path / "link.py").symlink_to(real / "worker.py")
    with Host(str(tmp_path / "link.py")) as host:
        assert host.hello["success"], host.hello


def test_module(tmp_path: Path) -> None:
    package = tmp_path / "app"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "tasks.py").write_text("from pypool import command\n@command\ndef f(): return __name__\n")
    with Host(module="app.tasks", cwd=str(tmp_path)) as host:
        assert host.result("f") == "app.tasks"


def test_bytecode_settings(start: Start, tmp_path: Path) -> None:
    text = "import sys, neighbour\n@command\ndef f(): return [sys.dont_write_bytecode, sys.pycache_prefix]"
    (tmp_path / "neighbour.py").write_text("")
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")}
    cache = str(tmp_path / "cache")
    assert start(text, env=dict(env, PYTHONDONTWRITEBYTECODE="1", PYTHONPYCACHEPREFIX=cache)).result("f") == [True, cache]
    assert not list(tmp_path.rglob("__pycache__")) and not os.path.exists(cache)
    assert start(text, env=env).result("f") == [False, None]
    assert list(tmp_path.rglob("neighbour*.pyc"))


def test_an_installed_pypool_never_shadows(start: Start, tmp_path: Path) -> None:
    home = tmp_path / "venv"
    venv.create(str(home), with_pip=False, symlinks=True)
    site = next(home.glob("lib/python*/site-packages"))
    (site / "pypool.py").write_text("raise RuntimeError('the installed one')")
    (site / "early.pth").write_text("import sys; sys.modules['pypool'] = sys.modules['pypool._worker'] = sys\n")
    host = start("import pypool\n@command\ndef f(): return pypool.__version__", python=str(home / "bin" / "python"))
    assert host.result("f") == VERSION
    assert host.hello["result"]["executable"] == str(home / "bin" / "python")


def test_poor_platform(start: Start) -> None:
    """Neither posix modules nor CPython's private JSON: what an interpreter on Windows, or another than CPython, offers."""
    missing = ("fcntl", "resource", "mmap", "select", "_json")
    prelude = "import os, sys\nsys.modules.update(dict.fromkeys(%r))\ndel os.getpgrp, os.register_at_fork\n" % (missing,)
    host = start(
        """
        import logging
        @command
        def echo(x):
            print("out")
            logging.warning("w")
            return x
        @command
        def rows(n): yield from range(n)
        @command
        def nan(): return [float("nan")]
        """,
        prelude=prelude,
        extras=False,
    )
    assert host.result("echo", [{"a": [1, "\u00e9"]}]) == {"a": [1, "\u00e9"]}
    assert [frame.get("item") for frame in host.stream("rows", [2])] == [0, 1, None]
    assert host.error("nan")["path"] == "$[0]"
    assert host.error("echo", {"y": 1})["kind"] == "invalid_arguments"
    host.write(b'{"id":5,"command":"echo","args":[1e999]}\n')
    assert host.receive()["error"]["kind"] == "invalid_arguments"
    assert host.records()[0]["message"] == "w"
    host.close_stdin()
    assert host.wait() == 1


# ------------------------------------------------------------------------------------------------------------ its cost


@pytest.mark.skipif(WITH_ORJSON, reason="about a worker that imports nothing itself")
def test_nothing_heavy_is_imported(start: Start) -> None:
    host = start("@command\ndef f():\n    import sys\n    return sorted(sys.modules)", forked=False)
    loaded = set(host.result("f"))
    bare = subprocess.run([sys.executable, "-I", "-c", "import sys; print(*sys.modules)"], stdout=subprocess.PIPE, check=True)
    added = {name for name in loaded - set(bare.stdout.decode().split()) if not name.startswith("pypool")}
    wanted = set("__future__ _contextvars _json _typing binascii faulthandler fcntl mmap resource select worker zlib".split())
    assert added <= wanted
    assert {name for name in loaded if name.startswith("pypool")} == {
        "pypool",
        "pypool._answers",
        "pypool._bind",
        "pypool._call",
        "pypool._cancel",
        "pypool._channel",
        "pypool._commands",
        "pypool._dispatch",
        "pypool._finder",
        "pypool._json",
        "pypool._life",
        "pypool._page",
        "pypool._requests",
        "pypool._results",
        "pypool._signatures",
        "pypool._start",
        "pypool._stdio",
        "pypool._user",
        "pypool._wire",
        "pypool._worker",
    }


def test_tracebacks_of_the_runtime_show_its_source(start: Start) -> None:
    host = start(
        """
        import linecache, pypool._worker as w
        @command
        def f():
            code = w.Worker.serve.__code__
            return linecache.getline(code.co_filename, code.co_firstlineno, w.__dict__)
        """
    )
    assert "def serve(self)" in host.result("f")


def test_no_forbidden_modules_in_the_runtime() -> None:
    """A fork server asks OpenMP something, which takes ctypes; it serves nobody. A view of payloads in
    memory is a ctypes object: it tells when nothing refers to it any more.
    """
    for path in PACKAGE.glob("*.py"):
        for line in path.read_text().splitlines():
            words = line.split("#")[0].split()
            forbidden = ("pickle", "marshal") if path.stem in ("_forkable", "_memory") else ("pickle", "marshal", "ctypes")
            assert not (words[:1] in (["import"], ["from"]) and words[1] in forbidden), (path, line)
            assert "eval(" not in line, (path, line)
