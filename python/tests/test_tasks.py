"""Calls of concurrent commands, side by side on the event loop of a shared worker."""

from __future__ import annotations

import json
import textwrap
from typing import Any, Dict, List

import pytest
from conftest import Start
from host import Host

CAPABILITIES = ["stream", "page", "log", "packed", "cancel", "shared"]
LOOPS = ["asyncio", "uvloop"]


def begin(host: Host, command: str, args: Any = None, **more: Any) -> int:
    request = host.request(command, args, **more)
    host.send({"shared": request})
    return int(request["id"])


def answers(host: Host, ids: List[int]) -> Dict[int, Dict[str, Any]]:
    """The final lines of these calls, in whatever order they come."""
    found: Dict[int, Dict[str, Any]] = {}
    while set(found) != set(ids):
        answer = host.receive()
        if "success" in answer:
            assert answer["id"] in ids and answer["id"] not in found, answer
            found[answer["id"]] = answer
    return found


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
        return "import uvloop; uvloop.install()\n"
    return ""


def shared(start: Start, loop: str, text: str) -> Host:
    return start(loop + "import asyncio, os, sys\n" + textwrap.dedent(text), capabilities=CAPABILITIES)


GATES = """
gate = {}
@command(concurrency=8)
async def wait(name):
    call = current_call()
    await gate.setdefault(name, asyncio.get_event_loop().create_future())
    return [call.id, current_call().id, current_call().session_id]
@command(concurrency=8)
async def open(name):
    gate[name].set_result(None)
@command
def plain(): return os.getpid()
"""


def test_hello_tells_which_commands_are_concurrent(start: Start) -> None:
    host = shared(start, "", GATES)
    assert host.hello["result"]["concurrent"] == {"wait": 8, "open": 8}
    listed = {entry["name"]: entry.get("concurrency") for entry in host.result("list_commands")}
    assert (listed["wait"], listed["plain"]) == (8, None)
    assert "concurrent" not in start(GATES.replace("gate = {}", "import os; gate = {}")).hello["result"]


def test_calls_run_side_by_side_and_know_themselves(start: Start, loop: str) -> None:
    host = shared(start, loop, GATES)
    first = begin(host, "wait", ["a"], session_id="one")
    second = begin(host, "wait", ["b"])
    last = begin(host, "open", ["b"])
    found = answers(host, [second, last])
    assert found[second]["result"] == [second, second, None]
    last = begin(host, "open", ["a"])
    assert answers(host, [first, last])[first]["result"] == [first, first, "one"]
    assert host.result("plain") == host.pid


def test_a_request_of_its_own_waits_for_those_that_are_shared(start: Start, loop: str) -> None:
    host = shared(start, loop, GATES)
    first = begin(host, "wait", ["a"])
    last = begin(host, "open", ["a"])
    own = host.request("plain")
    host.send(own)
    got = [host.receive()["id"] for _ in range(3)]
    assert sorted(got[:2]) == [first, last] and got[2] == own["id"]


def test_a_line_in_pieces_is_one_request(start: Start, loop: str) -> None:
    host = shared(start, loop, GATES)
    first = begin(host, "wait", ["a"])
    request = host.request("open", ["a"])
    line = json.dumps({"shared": request}, separators=(",", ":")).encode() + b"\n"
    host.write(line[:20])
    assert host.silent()
    host.write(line[20:])
    answers(host, [first, request["id"]])


def test_one_is_canceled_and_says_where_it_stood(start: Start, loop: str) -> None:
    host = shared(start, loop, GATES)
    first = begin(host, "wait", ["a"])
    second = begin(host, "wait", ["b"])
    answers(host, [begin(host, "plain")])  # they have begun
    host.send({"id": first, "cancel": True, "stack": True})
    stack = host.receive()
    assert stack["id"] == first and "in wait" in stack["stack"] and "run_forever" not in stack["stack"]
    assert host.receive()["error"]["type"] == "CancelledError"
    last = begin(host, "open", ["b"])
    assert answers(host, [second, last])[second]["success"]


def test_what_is_canceled_before_it_began_has_its_answer(start: Start, loop: str) -> None:
    host = shared(start, loop, GATES)
    request = host.request("wait", ["a"])
    lines = [{"shared": request}, {"id": request["id"], "cancel": True}]
    host.write(b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines))
    assert host.receive()["error"]["type"] == "CancelledError"
    assert host.result("plain") == host.pid


def test_a_stream_sends_no_more_than_its_credit(start: Start, loop: str) -> None:
    host = shared(start, loop, "@command(concurrency=2)\nasync def count(n):\n    for i in range(n):\n        yield i\n")
    id = begin(host, "count", [5], stream=True)
    assert host.silent()
    host.send({"id": id, "credit": 2})
    assert [host.receive()["item"] for _ in range(2)] == [0, 1]
    assert host.silent()
    host.send({"id": id, "credit": 9})
    assert [host.receive()["item"] for _ in range(3)] == [2, 3, 4]
    assert host.receive() == {"id": id, "success": True, "result": None}


@pytest.mark.parametrize("command", ["whole", "within", "late"])
def test_a_stream_that_is_not_interruptible_ends_at_its_next_item(start: Start, loop: str, command: str) -> None:
    host = shared(
        start,
        loop,
        """
        import pypool
        ended = []
        @command(concurrency=4, interruptible=False)
        async def whole():
            try:
                for i in range(1000): yield i
            finally:
                await asyncio.sleep(0)
                ended.append(current_call().id)
        @command(concurrency=4)
        async def within():
            with pypool.shield():
                try:
                    for i in range(1000): yield i
                finally:
                    await asyncio.sleep(0)
                    ended.append(current_call().id)
        @command(concurrency=4, interruptible=False)
        async def late():
            try:
                for i in range(2): yield i
                while not current_call().canceled: await asyncio.sleep(0.001)
                yield 2
            finally:
                ended.append(current_call().id)
        @command
        def ends(): return ended
        """,
    )
    id = begin(host, command, stream=True)
    host.send({"id": id, "credit": 2})
    assert [host.receive()["item"] for _ in range(2)] == [0, 1]
    assert host.silent()
    host.send({"id": id, "cancel": True})
    assert host.receive() == {"id": id, "success": True, "result": None}
    assert host.result("ends") == [id]


def test_each_call_has_a_context_of_its_own(start: Start, loop: str) -> None:
    host = shared(
        start,
        loop,
        """
        from contextvars import ContextVar
        var = ContextVar("var", default=0)
        var.set(7)
        @command(concurrency=4)
        async def change(value):
            before = var.get()
            var.set(value)
            await asyncio.sleep(0)
            return [before, var.get()]
        """,
    )
    ids = [begin(host, "change", [i]) for i in range(4)]
    found = answers(host, ids)
    assert [found[id]["result"] for id in ids] == [[7, i] for i in range(4)]


def test_what_is_printed_in_pieces_is_its_calls(start: Start, loop: str) -> None:
    host = shared(
        start,
        loop,
        """
        @command(concurrency=4)
        async def say(text):
            print(text, end="")
            await asyncio.sleep(0.01)
            print("-" + text, end="")
        """,
    )
    ids = {begin(host, "say", [text]): text for text in ("one", "two", "three")}
    answers(host, list(ids))
    told = {line["call"]: line["text"] for line in host.printed() if "call" in line}
    assert told == {id: "%s-%s" % (text, text) for id, text in ids.items()}


def test_a_background_task_goes_on_while_the_worker_is_shared(start: Start, loop: str) -> None:
    host = shared(
        start,
        loop,
        """
        seen = []
        async def later(call):
            await asyncio.sleep(0.01)
            try:
                current_call()
            except LookupError:
                seen.append(call.id)
        @command(concurrency=4)
        async def leave():
            seen.append(asyncio.get_event_loop().create_task(later(current_call())))
        @command(concurrency=4)
        async def look():
            await asyncio.sleep(0.05)
            return seen[1:]
        """,
    )
    look, leave = begin(host, "look"), begin(host, "leave")
    assert answers(host, [look, leave])[look]["result"] == [leave]


def test_anyio_runs_on_the_loop(start: Start, loop: str) -> None:
    pytest.importorskip("anyio")
    host = shared(
        start,
        loop,
        """
        import anyio
        @command(concurrency=8)
        async def timed(seconds):
            with anyio.move_on_after(seconds) as scope:
                await anyio.sleep(30)
            return scope.cancelled_caught
        @command(concurrency=8)
        async def group(n):
            got = []
            async def one(i):
                await anyio.sleep(0.001)
                got.append(i)
            async with anyio.create_task_group() as tasks:
                for i in range(n):
                    tasks.start_soon(one, i)
            return [sorted(got), await anyio.to_thread.run_sync(lambda: current_call().id)]
        @command(concurrency=8)
        async def sleep():
            await anyio.sleep(30)
        """,
    )
    ids = [begin(host, "timed", [0.01]), begin(host, "group", [3])]
    canceled = begin(host, "sleep")
    found = answers(host, ids)
    assert found[ids[0]]["result"] is True
    assert found[ids[1]]["result"] == [[0, 1, 2], ids[1]]
    host.send({"id": canceled, "cancel": True})
    assert "Cancel" in answers(host, [canceled])[canceled]["error"]["type"]


def test_the_end_of_the_host_ends_a_shared_worker(start: Start, loop: str) -> None:
    host = shared(start, loop, GATES)
    begin(host, "wait", ["a"])
    assert host.silent()
    host.close_stdin()
    assert host.process.wait(10) != 0


@pytest.mark.parametrize(
    "text, words",
    [
        ("@command(concurrency=0)\nasync def f(): pass", "side by side, 1 to 1000000: got 0"),
        ("@command(concurrency=True)\nasync def f(): pass", "1 to 1000000: got True"),
        ("@command(concurrency='8')\nasync def f(): pass", "1 to 1000000: got '8'"),
        ("@command(concurrency=1000001)\nasync def f(): pass", "1 to 1000000: got 1000001"),
        ("@command(concurrency=1 << 64)\nasync def f(): pass", "1 to 1000000: got 18446744073709551616"),
        ("@command(concurrency=10 ** 5000)\nasync def f(): pass", "1 to 1000000: got "),
        ("@command(concurrency=float('inf'))\nasync def f(): pass", "1 to 1000000: got inf"),
        ("@command(concurrency=8)\ndef f(): pass", "async def"),
        ("@command(concurrency=8)\ndef f(): yield 1", "async def"),
    ],
)
def test_what_concurrency_cannot_be(start: Start, text: str, words: str) -> None:
    host = start(text, capabilities=CAPABILITIES)
    assert words in host.hello["error"]["message"]


def test_tasks_call_functions_of_the_hosts_side_by_side(start: Start, loop: str) -> None:
    script = """
        from pypool import host
        @command(concurrency=8)
        async def ask(name):
            return [await host.aio.lookup(name), await asyncio.gather(*[host.aio.lookup(name + str(i)) for i in range(2)])]
        @command(concurrency=8)
        async def threads(name):
            call = current_call()
            return await asyncio.get_running_loop().run_in_executor(None, lambda: call.host.lookup(name))
        @command(concurrency=8)
        async def blocks():
            host.lookup("x")
    """
    host = start(
        loop + "import asyncio\n" + textwrap.dedent(script), capabilities=[*CAPABILITIES, "functions"], functions=["lookup"]
    )
    ids = {begin(host, "ask", ["a"]): "a", begin(host, "ask", ["b"]): "b", begin(host, "threads", ["c"]): "c"}
    seen: List[Dict[str, Any]] = []
    final: Dict[int, Any] = {}
    while len(final) < 3:
        line = host.receive()
        if "success" in line:
            final[line["id"]] = line["result"]
            continue
        assert line["function"] == "lookup" and line["args"][0].startswith(ids[line["id"]]), line
        seen.append(line)
        if len(seen) == 3:  # all wait: the replies may come in any order
            for asked in reversed(seen):
                host.send({"id": asked["id"], "host": asked["host"], "success": True, "result": asked["args"][0].upper()})
        elif len(seen) > 3:
            host.send({"id": line["id"], "host": line["host"], "success": True, "result": line["args"][0].upper()})
    assert len({line["host"] for line in seen}) == len(seen) == 7
    assert final == {
        id: ([name.upper(), [name.upper() + "0", name.upper() + "1"]] if name != "c" else "C") for id, name in ids.items()
    }
    blocked = answers(host, [begin(host, "blocks", [])]).popitem()[1]
    assert blocked["error"]["type"] == "RuntimeError" and "await host.aio.lookup()" in blocked["error"]["message"]
