"""Which call a worker's request to be replaced names, and what its page says."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Dict, List

from conftest import Start

CAPABLE = ["stream", "page", "packed", "batch", "shared", "retire"]
SCRIPT = """
    import asyncio, os, threading, time
    import pypool
    from pypool import command

    class Dead(Exception): pass

    @command
    def later(path):
        def say():
            while not os.path.exists(path):
                time.sleep(0.002)
            pypool.retire("late")
            os.remove(path)
        threading.Thread(target=say, daemon=True).start()

    @command
    async def later_in_a_task(path):
        async def say():
            while not os.path.exists(path):
                await asyncio.sleep(0.002)
            pypool.retire("late")
            os.remove(path)
        asyncio.get_running_loop()._say = asyncio.ensure_future(say())

    @command
    async def until_said(path, how):
        open(path, "w").close()
        while os.path.exists(path):
            await asyncio.sleep(0.002)
        fail(how)

    @command
    def until_said_by_a_thread(path, how):
        open(path, "w").close()
        while os.path.exists(path):
            time.sleep(0.002)
        fail(how)

    @command
    def in_a_thread(how):
        thread = threading.Thread(target=pypool.retire, args=("asked",))
        thread.start()
        thread.join()
        fail(how)

    @command
    async def in_a_task(how):
        await asyncio.ensure_future(asyncio.sleep(0))
        async def say():
            pypool.retire("asked")
        await asyncio.ensure_future(say())
        fail(how)

    @command
    def rows():
        return [{"id": 0, "name": "a"}, {"id": 7, "name": "b"}]

    @command(retire_on=Dead)
    def fail(how):
        if how == "retire":
            pypool.retire("asked")
        raise (Dead if how == "dead" else ValueError)("x" * 10)

    @command(retire_on=Dead)
    def items(how):
        yield 1
        fail(how)

    @command(max_batch_size=4, retire_on=Dead)
    def batch(how: list, size=[0]):
        if "retire" in how:
            pypool.retire("asked")
        return [Dead() if h == "dead" else h * 200000 if h == "x" else h for h in how]

    @command(concurrency=4, retire_on=Dead)
    async def beside(how):
        return fail(how)

    @command
    def child():
        pid = os.fork()
        if not pid:
            pypool.retire("of a child")
            os._exit(0)
        os.waitpid(pid, 0)
"""


def asks(host: Any) -> int:
    number: int = host._word(128)
    return number


def say(host: Any, path: Path) -> None:
    assert host.result("later", [str(path)]) is None
    assert not asks(host)
    path.touch()
    end = time.monotonic() + 20
    while path.exists() and time.monotonic() < end:
        time.sleep(0.002)
    assert asks(host) == 1, "the host can see it while no line says so"


def test_the_page_says_so_at_once_and_the_line_that_it_was_nobody(start: Start, tmp_path: Path) -> None:
    host = start(SCRIPT, capabilities=CAPABLE)
    say(host, tmp_path / "say")
    assert host.silent()
    host.send({"id": 2000, "command": "rows"})
    assert host.receive() == {"id": 2000, "retire": "late", "between": True}, "no result is taken for a line"
    assert host.receive()["result"][0]["id"] == 0


def test_before_lines_of_all_kinds(start: Start, tmp_path: Path) -> None:
    requests: List[Dict[str, Any]] = [
        {"id": 9, "command": "items", "args": ["bad"], "stream": True},
        {"batch": [{"id": 9, "command": "batch", "args": ["a"]}, {"id": 12, "command": "batch", "args": ["b"]}]},
        {"shared": {"id": 9, "command": "beside", "args": ["bad"]}},
        {"id": 9, "command": "fail", "args": ["dead"]},
    ]
    for request in requests:
        host = start(SCRIPT, capabilities=CAPABLE)
        say(host, tmp_path / "say")
        host.send(request)
        assert host.receive() == {"id": 9, "retire": "late", "between": True}, request


def test_the_line_of_a_large_batch_names_it(start: Start) -> None:
    host = start(SCRIPT, capabilities=CAPABLE)
    host.send(
        {
            "batch": [{"id": 7, "command": "batch", "args": ["x"]}, {"id": 8, "command": "batch", "args": ["x"]}]
            + [{"id": 9, "command": "batch", "args": ["retire"]}]
        }
    )
    assert host.receive() == {"id": 9, "retire": "asked"}, "the first lines are out without that of 9"
    assert [host.receive()["id"] for _ in range(3)] == [7, 8, 9]


def test_each_error_of_a_call_that_asks_says_so(start: Start) -> None:
    host = start(SCRIPT, capabilities=CAPABLE)
    assert "retires" not in host.error("fail", ["bad"])
    host.send({"id": 5, "command": "fail", "args": ["dead"]})
    assert host.receive() == {"id": 5, "retire": "command fail raised worker.Dead (retire_on)"}
    assert host.receive()["error"]["retires"] is True
    assert asks(host) == 1
    for _ in range(2):
        assert host.error("fail", ["dead"])["retires"] is True
        assert "retires" not in host.error("fail", ["bad"])
        assert host.error("fail", ["retire"])["retires"] is True
    host.send({"id": 3000, "command": "items", "args": ["dead"], "stream": True})
    assert host.receive()["item"] == 1
    assert host.receive()["error"]["retires"] is True
    host.write(b'{"batch":[{"id":3001,"command":"batch","args":["a"]},{"id":3002,"command":"batch","args":["dead"]}]}\n')
    assert host.receive()["success"]
    assert host.receive()["error"]["retires"] is True
    host.send({"shared": {"id": 3003, "command": "beside", "args": ["bad"]}})
    assert "retires" not in host.receive()["error"]
    for how in ("dead", "retire"):
        host.send({"shared": {"id": 3004, "command": "beside", "args": [how]}})
        assert host.receive()["error"]["retires"] is True


def test_what_a_call_has_left_behind_speaks_for_no_other(start: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "say")
    for later, until in (("later", "until_said_by_a_thread"), ("later_in_a_task", "until_said"), ("later", "until_said")):
        host = start(SCRIPT, capabilities=CAPABLE)
        assert host.result(later, [path]) is None
        host.send({"id": 3000, "command": until, "args": [path, "bad"]})
        assert host.receive() == {"id": 3000, "retire": "late", "between": True}, until
        assert "retires" not in host.receive()["error"]


def test_threads_and_tasks_of_a_call_speak_for_it(start: Start) -> None:
    for name in ("in_a_thread", "in_a_task"):
        host = start(SCRIPT, capabilities=CAPABLE)
        for id in (3000, 3001):
            host.send({"id": id, "command": name, "args": ["bad"]})
            if id == 3000:
                assert host.receive() == {"id": 3000, "retire": "asked"}, name
            assert host.receive()["error"]["retires"] is True


def test_a_child_is_no_worker(start: Start) -> None:
    host = start(SCRIPT, capabilities=CAPABLE)
    assert host.result("child") is None
    assert not asks(host)
