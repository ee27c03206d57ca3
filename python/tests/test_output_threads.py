"""What threads print while calls end beside them is told: all of it, once, and of no call but its own."""

from __future__ import annotations

import json
from typing import Dict, List

import pytest
from conftest import Start

from pypool import _output
from pypool._stdio import LOG, OPEN

BESIDE = """
    import threading
    late = []
    @command
    def begin(n):
        def run(i):
            for k in range(n): print("thread %d line %d" % (i, k))
        late.extend(threading.Thread(target=run, args=(i,)) for i in range(2))
        for t in late: t.start()
    @command
    def say(k): print("call line %d" % k)
    @command
    def running(): return any(t.is_alive() for t in late)
"""


def test_what_threads_print_while_calls_end_is_told(start: Start) -> None:
    host = start(BESIDE)
    host.result("begin", [3000])
    said = 0
    while said < 100 or host.result("running"):
        host.result("say", [said], session_id="ann")
        said += 1
    host.result("ping")
    lines = host.printed()
    wanted = ["thread %d line %d" % (i, k) for i in range(2) for k in range(3000)] + ["call line %d" % k for k in range(said)]
    assert sorted(line["text"] for line in lines if line["text"]) == sorted(wanted)
    for line in lines:
        assert line.get("session") == ("ann" if line["text"].startswith("call") else None), line


@pytest.mark.parametrize("task", [0, 7])
def test_a_line_that_is_ended_before_it_is_written_is_told_all_the_same(monkeypatch: pytest.MonkeyPatch, task: int) -> None:
    """What the thread of the loop does at a call's end, just when another thread is about to write."""
    begun: Dict[int, str] = {}
    told: List[str] = []

    def write(fd: int, data: bytes) -> int:
        for frame in data.decode().splitlines():
            head, _, text = frame.replace("mark", "", 1).partition("\x1f")
            fields = json.loads(head)
            if "line" not in fields:
                told.append(text)
                continue
            key = fields["line"]
            begun[key] = begun.get(key, "") + text
            if "more" not in fields:
                told.append(begun.pop(key))
        return len(data)

    def late_write(fd: int, data: bytes) -> int:
        monkeypatch.setattr(_output, "write", write)
        end_lines()
        return write(fd, data)

    def end_lines() -> None:
        if task:
            _output.end_lines_of(task)
        else:
            _output.end_lines()

    monkeypatch.setattr(LOG, "mark", b"mark")
    monkeypatch.setattr(_output, "write", late_write)
    _output._print(1, "{", b"a part", task)
    monkeypatch.setattr(_output, "write", late_write)
    _output._print(1, "{", b" of a line", task)
    _output._print(1, "{", b"\n", task)
    assert "".join(told) == "a part of a line" and not begun and not OPEN
    _output._print(1, "{", b"another", task)
    end_lines()
    assert told[-1] == "another" and not begun and not OPEN


def test_children_that_print_before_their_worker_name_no_call(start: Start) -> None:
    worker = start(
        """
        import os
        @command
        def work(who):
            for i in range(2):
                pid = os.fork()
                if pid == 0:
                    print("child of", who, end=" ", flush=True)
                    os._exit(0)
                os.waitpid(pid, 0)
        @command
        def greet(who): print("hello", who, end="")
        """
    )
    for who in ("ann", "bob"):
        worker.result("work", [who], session_id=who)
    worker.result("greet", ["cid"], session_id="cid")
    worker.result("ping")
    assert [(line.get("session"), line["text"]) for line in worker.printed()] == [("cid", "hello cid")]
    heads = [line.partition("\x1f") for line in worker.stderr().split("\n") if "child of" in line]
    assert len(heads) == 4 and len({head for head, _, _ in heads}) == 4, "each child has a line of its own"
    assert not any("session" in head or "call" in head for head, _, _ in heads)
