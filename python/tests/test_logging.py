"""Python's logging and warnings reach the host as records."""

from __future__ import annotations

import os
import subprocess
import sys

from conftest import Start
from host import PACKAGE


def test_records(start: Start) -> None:
    host = start(
        """
        import logging
        log = logging.getLogger("app.model")
        log.info("at import")
        @command
        def work():
            log.debug("too low"); log.info("n = %d", 5); log.warning("caf\\u00e9 \\u2028 \\ud800")
            try: 1 / 0
            except ZeroDivisionError: log.exception("failed")
            print("plain")
            return 1
        """
    )
    request = host.request("work", session_id="user-42")
    host.send(request)
    assert host.receive()["result"] == 1
    records = host.records()
    assert records[0] == {"level": 20, "logger": "app.model", "message": "at import"}
    mark = {"call": request["id"], "session": "user-42", "command": "work"}
    assert records[1] == dict(mark, level=20, logger="app.model", message="n = 5")
    assert records[2] == dict(mark, level=30, logger="app.model", message="caf\u00e9 \u2028 ?")
    assert records[3]["level"] == 40 and "ZeroDivisionError" in records[3]["exc"] and "in work" in records[3]["exc"]
    assert len(records) == 4
    assert host.printed()[-1] == dict(mark, text="plain") and host.stderr().isascii()
    host.call("work")
    assert "session" not in host.records()[-1]


def test_the_stack_of_a_record_follows_its_exception(start: Start) -> None:
    host = start(
        """
        import logging
        @command
        def work():
            logging.warning("slow", stack_info=True)
            try: 1 / 0
            except ZeroDivisionError: logging.exception("failed", stack_info=True)
        """
    )
    host.call("work")
    slow, failed = host.records()
    assert slow["message"] == "slow" and slow["exc"].startswith("Stack (most recent call last):\n  File ")
    assert "in work" in slow["exc"]
    exception, _, stack = failed["exc"].partition("\nStack (most recent call last):\n")
    assert exception.endswith("ZeroDivisionError: division by zero") and "in work" in stack


def test_log_level(start: Start) -> None:
    text = "import logging\nlogging.debug('d'); logging.info('i'); logging.warning('w')"
    assert [r["message"] for r in start(text, log_level=10).records()] == ["d", "i", "w"]
    assert [r["message"] for r in start(text, log_level=30).records()] == ["w"]
    assert [r["message"] for r in start(text, log_level=50).records()] == []


def test_basic_config_does_not_double(start: Start) -> None:
    for options in ("", "level=10", "level=10, force=True", "handlers=[logging.StreamHandler()]", "format='X %(message)s'"):
        host = start("import logging, sys\nlogging.basicConfig(%s)\nlogging.error('once')\nlogging.debug('low')" % options)
        assert [r["message"] for r in host.records() if r["level"] > 10] == ["once"], options
        assert host.stderr().count("once") == 1, options
        assert ("low" in host.stderr()) == ("level=10" in options)


def test_basic_config_with_a_file(start: Start, tmp_path: object) -> None:
    path = "%s/app.log" % tmp_path
    host = start("import logging\nlogging.basicConfig(filename=%r)\nlogging.error('both')" % path)
    assert [r["message"] for r in host.records()] == ["both"]
    with open(path) as file:
        assert "both" in file.read()


def test_warnings_keep_their_order(start: Start) -> None:
    host = start(
        """
        import logging, warnings
        @command
        def work():
            logging.warning("one")
            print("two")
            warnings.warn("three")
            logging.warning("four")
        """
    )
    host.call("work")
    lines = host.stderr().splitlines()
    assert [next(word for word in ("one", "two", "three", "four", "\x1f") if word in line) for line in lines if line] == [
        "one",
        "two",
        "\x1f",  # the end of that line
        "three",
        "four",
    ]
    assert host.records()[1]["logger"] == "py.warnings"


def test_warnings_without_logging(start: Start) -> None:
    host = start("import warnings\nwarnings.warn('alone')")
    assert [(r["logger"], r["level"]) for r in host.records()] == [("py.warnings", 30)]
    assert "alone" in host.records()[0]["message"]


def test_a_record_that_fails_does_not_fail_the_call(start: Start) -> None:
    host = start(
        """
        import logging, os
        class Bad:
            def __str__(self): raise RuntimeError("bad")
        @command
        def work():
            logging.error("%d", "not a number")
            logging.error(Bad())
            logging.error("x" * 1_000_000)
            os.close(2)
            logging.error("stderr is closed")
            return 1
        """
    )
    assert host.result("work") == 1
    assert max(len(line) for line in host.stderr().split("\n")) < 64 * 1024
    assert host.records()[-1]["message"] == "stderr is closed"


def test_threads_do_not_mix_records(start: Start) -> None:
    host = start(
        """
        import logging, threading
        @command
        def work():
            def run(i):
                for _ in range(50): logging.info(str(i) * 6000)
            threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
            for t in threads: t.start()
            for t in threads: t.join()
        """
    )
    host.call("work")
    records = host.records()
    assert len(records) == 200 and all(len(set(r["message"])) == 1 for r in records)


# ----------------------------------------------------------------------------------------------------- the command line

SCRIPT = '''
from pypool import command, current_call, program
@command
def greet(name: str, times: int = 1) -> dict:
    """Say hello.

    Politely."""
    return {"text": "h\\u00e9 " + name * times, "session": current_call().session_id}
@command
async def later(): return "later"
@command
def rows(n): yield from range(n)
@command
def fails(): raise ValueError("on purpose")
@command
def nan(): return [float("nan")]
@program("p")
class P:
    def __call__(self, x): return x
'''


def run(folder: object, *args: str) -> subprocess.CompletedProcess[str]:
    env = dict(os.environ, PYTHONPATH=str(PACKAGE.parent), PYTHONIOENCODING="utf-8")
    env.pop("VIRTUAL_ENV", None)
    command = [sys.executable, "-m", "pypool", *args]
    return subprocess.run(command, cwd=str(folder), env=env, capture_output=True, encoding="utf-8")


def test_command_line(tmp_path: object) -> None:
    with open("%s/worker.py" % tmp_path, "w") as file:
        file.write(SCRIPT)
    listed = run(tmp_path, "worker.py")
    assert listed.returncode == 0
    assert "greet(name: str, times: int = 1) -> dict\n    Say hello.\n\n    Politely.\n" in listed.stdout
    assert "rows(n)  [generator]" in listed.stdout and "p(x)  [program]" in listed.stdout
    called = run(tmp_path, "worker.py", "call", "greet", '{"name":"you","times":2}', "--session", "s1")
    assert called.returncode == 0 and '"h\u00e9 youyou"' in called.stdout and '"session": "s1"' in called.stdout
    assert " ms" in called.stderr
    assert run(tmp_path, "worker.py", "call", "rows", "[3]").stdout == "0\n1\n2\n"
    assert run(tmp_path, "worker.py", "call", "later").stdout == '"later"\n'
    assert run(tmp_path, "worker", "call", "p", "[[1]]").stdout.split() == ["[", "1", "]"]
    for args, words in (
        (["fails"], "ValueError: on purpose"),
        (["greet"], "invalid arguments: greet: missing argument 'name' (str)"),
        (["greet", "{"], "not JSON"),
        (["gret"], "unknown command 'gret'; known are: greet"),
        (["nan"], "$[0]"),
    ):
        failed = run(tmp_path, "worker.py", "call", *args)
        assert failed.returncode == 1 and words in failed.stderr, failed
        assert "__main__" not in failed.stderr
    assert run(tmp_path, "nope.py").returncode == 1
    assert run(tmp_path).returncode == 2


def test_doctor(tmp_path: object) -> None:
    with open("%s/worker.py" % tmp_path, "w") as file:
        file.write(SCRIPT)
    good = run(tmp_path, "check", "worker.py")
    assert good.returncode == 0, good
    for words in ("%d.%d.%d" % sys.version_info[:3], sys.executable, "imported in", "greet, later", "all is well"):
        assert words in good.stdout
    with open("%s/broken.py" % tmp_path, "w") as file:
        file.write("import nonexistent_thing.sub")
    bad = run(tmp_path, "check", "broken.py")
    assert bad.returncode == 1 and "install the package that provides nonexistent_thing for" in bad.stdout
    with open("%s/empty.py" % tmp_path, "w") as file:
        file.write("")
    assert run(tmp_path, "check", "empty.py").returncode == 1
    assert "no such file" in run(tmp_path, "check", "nope.py").stdout
