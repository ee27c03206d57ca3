# ruff: noqa: E501  scripts as they stand in a table
"""Which call has printed or logged a line, and what a handler can do to the streams."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, Dict, List

import pytest
from conftest import Start
from host import WORD, Host

MARK = "\x1epypool:"


def told(host: Host) -> List[Dict[str, Any]]:
    return host.printed()


def test_what_a_handler_prints_is_no_record(start: Start) -> None:
    host = start(
        """
        import os, sys
        @command
        def greet(name): print("hello " + name); os.write(2, name.encode()); sys.stderr.write(name)
        """
    )
    forged = "Bob\n" + MARK + json.dumps({"level": 50, "logger": "audit", "message": "in", "call": 17, "session": "admin"}) + "\n"
    host.result("greet", [forged], session_id="ann")
    assert host.records() == []
    assert all(line.get("session") in ("ann", None) and line.get("call") != 17 for line in told(host))


def test_the_word_is_nowhere_to_be_found(start: Start) -> None:
    host = start(
        """
        import os, sys
        @command
        def look(): return [repr(os.environ), sys.argv, sys.orig_argv if hasattr(sys, "orig_argv") else [],
                            open("/proc/self/cmdline").read(), open("/proc/self/environ").read()]
        """
    )
    assert WORD not in json.dumps(host.result("look"))


def test_each_line_says_which_call_printed_it(start: Start) -> None:
    host = start(
        """
        import sys
        @command
        def say(text):
            print(text)
            sys.stderr.write(text + "-err\\n")
            sys.stdout.buffer.write(text.encode() + b"-buffer\\n")
            sys.__stdout__.write(text + "-dunder\\n")
        """
    )
    for i in range(20):
        host.result("say", ["text%d" % i], session_id="s%d" % i)
    lines = told(host)
    assert len(lines) == 80
    for line in lines:
        number = re.match(r"text(\d+)", line["text"])
        assert number is not None and line["session"] == "s" + number[1] and line["command"] == "say"
    host.result("say", ["anonymous"])
    assert "session" not in told(host)[-1] and told(host)[-1]["call"] == host._id


def test_pipelined_calls_print_each_for_itself(start: Start) -> None:
    host = start("@command\ndef say(n): print('n', n)")
    packed = [part for i in range(50) for part in (5000 + i, [i])]
    host.send({"packed": packed, "command": "say", "session_id": "s"})
    for _ in range(50):
        host.receive()
    assert [(line["call"], line["text"]) for line in told(host)] == [(5000 + i, "n %d" % i) for i in range(50)]


def test_what_is_printed_outside_a_call_belongs_to_none(start: Start) -> None:
    host = start("print('at import')\n@setup\ndef s(): print('setup', end='')\n@command\ndef f(): pass")
    host.call("f", session_id="x")
    assert told(host) == [{"text": "at import"}, {"text": "setup"}]


def test_what_exit_functions_print_belongs_to_no_call(start: Start) -> None:
    host = start(
        """
        import atexit
        from pypool import current_call
        def bye():
            try: print("in", current_call().command)
            except LookupError: print("in no call")
        atexit.register(bye)
        """
    )
    host.call("shutdown")
    assert host.wait() == 0
    assert told(host) == [{"text": "in no call"}]


LATE = """
    import threading, time, os, asyncio, logging, subprocess, sys
    def wait(path):
        while not os.path.exists(path): time.sleep(0.001)
    def late(path):
        wait(path)
        print("late"); logging.warning("late")
        open(path + ".done", "w").close()
    @command
    def thread(path):
        t = threading.Thread(target=print, args=("from a thread",)); t.start(); t.join()
        threading.Thread(target=late, args=(path,)).start()
    @command
    def raw_thread(path):
        import _thread
        _thread.start_new_thread(late, (path,))
    @command
    def child(path):
        subprocess.Popen(["sh", "-c", "while [ ! -e %s ]; do sleep 0.01; done; echo late; touch %s.done" % (path, path)])
    @command
    def forked(path):
        if os.fork() == 0:
            late(path)
            os._exit(0)
    @command
    def release(path):
        open(path, "w").close()
        wait(path + ".done")
        print("mine")
"""


@pytest.mark.parametrize("command", ["thread", "raw_thread", "child", "forked"])
def test_late_output_is_never_the_next_calls(start: Start, tmp_path: Path, command: str) -> None:
    host = start(LATE)
    path = str(tmp_path / "latch")
    host.result(command, [path], session_id="ann")
    host.result("release", [path], session_id="bob")
    lines = told(host)
    for line in lines + host.records():
        if "late" in (line.get("text"), line.get("message")):
            assert line.get("session") in (None, "ann"), line
        elif line["text"] == "mine":
            assert line["session"] == "bob"
        else:
            assert line["session"] == "ann", "a thread of the running call"
    assert "late" in [line["text"] for line in lines] and "mine" in [line["text"] for line in lines]


def test_threads_of_an_executor_that_serves_several_calls(start: Start) -> None:
    host = start(
        """
        import asyncio, logging
        from concurrent.futures import ThreadPoolExecutor
        pool, other = ThreadPoolExecutor(1), ThreadPoolExecutor(1)  # a second thread would serve one
        @command
        def work(n): pool.submit(print, n).result()
        @command
        async def task(n): await asyncio.get_running_loop().run_in_executor(other, print, n)
        """
    )
    for n in range(4):
        host.result("work", [n], session_id="s%d" % n)
        host.result("task", [n], session_id="s%d" % n)
    assert [line.get("session") for line in told(host)] == ["s0", "s0"] + [None] * 6


def test_tasks_keep_their_call(start: Start) -> None:
    host = start(
        """
        import asyncio, sys
        async def later():
            await event.wait()
            print("from the task")
            try: current_call()
            except LookupError: print("its call is over")
        @command
        async def leave():
            global event, task
            event = asyncio.Event()
            task = asyncio.ensure_future(later())
            print("in the call")
        @command
        async def resume():
            event.set()
            await task
            print("in the next")
            if sys.version_info >= (3, 9): await asyncio.to_thread(print, "in a thread")
        """
    )
    host.result("leave", session_id="ann")
    host.result("resume", session_id="bob")
    sessions = [(line["text"], line["session"]) for line in told(host)]
    assert sessions[:4] == [
        ("in the call", "ann"),
        ("from the task", "ann"),
        ("its call is over", "ann"),
        ("in the next", "bob"),
    ]
    assert sessions[4:] in ([], [("in a thread", "bob")])


def test_unended_output_is_told_at_the_end_of_its_call(start: Start) -> None:
    host = start(
        """
        import sys
        @command
        def say(text): print(text, end="")
        @command
        def bar():
            for i in range(5): sys.stderr.write("\\r %d%%" % (25 * i)); sys.stderr.flush()
        """
    )
    host.result("say", ["one"], session_id="ann")
    host.result("say", ["two"], session_id="bob")
    host.result("bar")
    host.result("ping")  # what ends a line comes a moment after the answer
    lines = told(host)
    assert [(line["text"], line.get("session")) for line in lines[:2]] == [("one", "ann"), ("two", "bob")]
    assert lines[2]["text"].split("\r")[-1] == " 100%" and len(lines) == 3


def test_unended_output_is_out_before_a_crash(start: Start) -> None:
    host = start("import os\n@command\ndef die(): print('last words', end=''); os._exit(3)")
    host.send(host.request("die"))
    assert host.wait() == 3
    assert "last words" in host.stderr()


def test_threads_do_not_mix_lines(start: Start) -> None:
    host = start(
        """
        import threading
        @command
        def work():
            def run(i):
                for _ in range(30): print(str(i) * 5000, end=""); print(str(i))
            threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
            for t in threads: t.start()
            for t in threads: t.join()
        """
    )
    host.call("work")
    lines = told(host)
    assert len(lines) == 120 and all(len(set(line["text"])) == 1 and len(line["text"]) == 5001 for line in lines)
    assert max(map(len, host.stderr().split("\n"))) < 4096


def test_the_streams_are_ordinary_text_streams(start: Start) -> None:
    host = start(
        """
        import contextlib, io, os, subprocess, sys, tempfile
        @command
        def facts():
            out = sys.stdout
            return [type(out).__module__ + "." + type(out).__name__, out.encoding, out.errors, out.isatty(), out.fileno(),
                    sys.stderr.fileno(), out.name, out.mode, out.writable(), out.closed, out is sys.__stdout__, sys.stderr.errors]
        @command
        def use():
            sys.stdout.reconfigure(encoding="latin-1", errors="replace")
            print("caf\\u00e9 \\u20ac", flush=True)
            sys.stdout.reconfigure(encoding="utf-8")
            wrapped = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8", write_through=True)
            wrapped.write("wrapped \\u20ac\\n"); wrapped.detach()
            sys.stdout.writelines(["a\\n", "b\\n"])
            with contextlib.redirect_stdout(io.StringIO()) as text: print("kept")
            subprocess.run(["echo", "child"], stdout=sys.stdout)
            return text.getvalue()
        @command
        def capture():
            with tempfile.TemporaryFile() as file:
                saved = os.dup(1); os.dup2(file.fileno(), 1)
                print("into the file"); os.write(1, b"raw\\n")
                os.dup2(saved, 1); os.close(saved)
                print("and back")
                file.seek(0)
                return file.read().decode()
        """,
        env=dict(os.environ, PYTHONUTF8="1"),
    )
    facts = host.result("facts")
    assert facts[0] == "_io.TextIOWrapper" and facts[3:11] == [False, 1, 2, "<stdout>", "w", True, False, True]
    assert facts[11] == "backslashreplace"
    assert host.result("use") == "kept\n"
    assert host.result("capture") == "into the file\nraw\n"
    raw = host.stderr()
    for text in ("wrapped \u20ac", "a", "b", "child", "and back"):
        assert text in [line["text"] for line in told(host)], text
    assert "into the file" not in raw
    assert b"caf\xe9 ?" in os.pread(host.stderr_file.fileno(), 1 << 20, 0)


SETUPS = {
    "root handlers cleared": "logging.getLogger().handlers.clear()",
    "dictConfig": """logging.config.dictConfig({"version": 1, "disable_existing_loggers": False, "formatters": {"f": {"format": "X %(message)s"}},
        "handlers": {"h": {"class": "logging.StreamHandler", "formatter": "f"}}, "root": {"handlers": ["h"], "level": "INFO"}})""",
    "dictConfig to stdout": """logging.config.dictConfig({"version": 1, "disable_existing_loggers": False,
        "handlers": {"h": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout"}}, "root": {"handlers": ["h"], "level": "INFO"}})""",
    "a StreamHandler on the root": "logging.getLogger().addHandler(logging.StreamHandler(sys.stdout))",
    "a StreamHandler on the logger": "log.addHandler(logging.StreamHandler())",
    "and no propagation": "log.addHandler(logging.StreamHandler()); log.propagate = False; log.setLevel('INFO')",
    "basicConfig": "logging.basicConfig(level='INFO')",
    "basicConfig with force": "logging.basicConfig(level='INFO', force=True, stream=sys.stdout)",
    "a handler that prints": "logging.getLogger().addHandler(Prints())",
    "a queue": "q = queue.Queue(); log.addHandler(QueueHandler(q)); listener = QueueListener(q, logging.StreamHandler()); listener.start()",
    "a logger class": "logging.setLoggerClass(type('L', (logging.Logger,), {})); log = logging.getLogger('app.other')",
}


@pytest.mark.parametrize("setup", SETUPS.values(), ids=SETUPS)
@pytest.mark.parametrize("where", ["script", "command"])
def test_each_record_once_with_its_level(start: Start, setup: str, where: str) -> None:
    host = start(
        """
        import logging, logging.config, sys, queue
        from logging.handlers import QueueHandler, QueueListener
        log = logging.getLogger("app"); listener = None
        class Prints(logging.Handler):
            def emit(self, record): print("printed", self.format(record), flush=True)
        def prepare():
            global log, listener
            %s
        if %r == "script": prepare()
        @command
        def work(first):
            if first and %r == "command": prepare()
            log.warning("watch %%s", "out"); log.info("by the way"); log.debug("too low")
            try: 1 / 0
            except ZeroDivisionError: log.exception("failed")
            if listener is not None: listener.stop(); listener.start()
        """
        % (setup, where, where),
        forked=False if (where, "QueueListener(" in setup) == ("script", True) else None,  # its thread would be the server's
    )
    host.result("work", [True], session_id="ann")
    records = host.records()
    assert [(r["level"], r["message"]) for r in records] == [(30, "watch out"), (20, "by the way"), (40, "failed")]
    assert "ZeroDivisionError" in records[2]["exc"] and "\n" in records[2]["exc"]
    assert all(r["logger"].startswith("app") for r in records)
    assert told(host) == [], "nothing is told twice"
    host.result("work", [False], session_id="bob")
    assert [r["session"] for r in host.records()] == ["ann"] * 3 + ["bob"] * 3


def test_silenced_loggers_stay_silent(start: Start) -> None:
    host = start(
        """
        import logging
        @command
        def work():
            log = logging.getLogger("noisy"); log.propagate = False; log.addHandler(logging.NullHandler())
            log.error("nobody wants this")
            logging.disable(logging.INFO); logging.getLogger("x").info("nor this"); logging.disable(0)
        """
    )
    host.result("work")
    assert host.records() == [] and told(host) == []


def test_a_handler_that_fails_is_heard(start: Start) -> None:
    host = start(
        """
        import logging
        class Broken(logging.Handler):
            def emit(self, record):
                try: raise RuntimeError("no disk")
                except RuntimeError: self.handleError(record)
        @command
        def work(): logging.getLogger().addHandler(Broken()); logging.error("once")
        """
    )
    host.result("work")
    assert [r["message"] for r in host.records()] == ["once"]
    assert "no disk" in host.text()


def test_loguru(start: Start) -> None:
    pytest.importorskip("loguru")
    host = start(
        """
        import sys, logging
        from loguru import logger
        class Intercept(logging.Handler):
            def emit(self, record): logger.opt(depth=6, exception=record.exc_info).log(record.levelname, record.getMessage())
        @command
        def work():
            logger.warning("careful {}", 5); logger.info("well")
            try: 1 / 0
            except ZeroDivisionError: logger.exception("failed")
            logger.remove(); logger.add(sys.stdout, format="{message}", level="DEBUG"); logger.debug("low")
            logging.getLogger().addHandler(Intercept()); logging.getLogger("lib").error("from logging")
        """
    )
    host.result("work", session_id="ann")
    assert [(r["level"], r["message"]) for r in host.records()] == [
        (30, "careful 5"),
        (20, "well"),
        (40, "failed"),
        (10, "low"),
        (40, "from logging"),
    ]
    assert "1 / 0" in host.records()[2]["exc"] and told(host) == []
    assert {r["session"] for r in host.records()} == {"ann"}


def test_structlog(start: Start) -> None:
    pytest.importorskip("structlog")
    host = start(
        """
        import structlog
        @command
        def work():
            log = structlog.get_logger()
            log.info("hello", key=1); log.warning("careful"); log.error("bad")
        """
    )
    host.result("work")
    records = host.records()
    assert [r["level"] for r in records] == [20, 30, 40] and told(host) == []
    assert all(word in r["message"] for word, r in zip(("hello", "careful", "bad"), records))


def test_long_records_arrive_whole(start: Start) -> None:
    host = start("import logging\n@command\ndef work(): logging.error('\\U0001f600' * 16000)")
    host.result("work")
    assert host.records()[0]["message"] == "\U0001f600" * 16000
    assert max(map(len, host.stderr().split("\n"))) <= 4096
