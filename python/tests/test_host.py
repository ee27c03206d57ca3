"""Calls of functions of the host's: tests/host.py plays the Go program."""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, List

import pytest
from host import Host

Start = Callable[..., Host]
ABLE = ["stream", "page", "log", "packed", "batch", "functions"]

SCRIPT = """
    import asyncio, os, signal, sys, threading, time
    from pypool import HostError, host

    @command
    def call(name, args=(), keyword=None):
        try:
            return getattr(host, name)(*args, **(keyword or {}))
        except Exception as error:
            return [type(error).__name__, str(error)]

    @command
    def add(a, b=1):
        return a + b
"""


def starts(start: Start, more: str = "", **options: Any) -> Host:
    options.setdefault("functions", ["lookup", "now"])
    return start(SCRIPT + more, capabilities=ABLE, **options)


def begin(host: Host, command: str, args: Any = None) -> int:
    request = host.request(command, args)
    host.send(request)
    return int(request["id"])


def reply(host: Host, call: Dict[str, Any], result: Any, **more: Any) -> None:
    host.send({"id": call["id"], "host": call["host"], "success": True, "result": result, **more})


def finish(host: Host, id: int) -> Any:
    answer = host.receive()
    assert answer["id"] == id and answer.get("success"), (answer, host.stderr())
    return answer["result"]


def test_what_the_names_say(start: Start) -> None:
    host = starts(
        start,
        """
    @command
    def names():
        try:
            host.lokup
        except AttributeError as error:
            close = [isinstance(error, HostError), error.type, error.message]
        private = [hasattr(host, name) for name in ("_x", "__wrapped__", "lookup", "nothing")]
        return [close, private, sorted(dir(host)), host.lookup.__name__, repr(host), host.lookup is host.lookup]
    """,
    )
    close, private, listed, name, shown, same = host.result("names")
    assert close == [True, "unknown_function", "the host has no function 'lokup', did you mean 'lookup'?"]
    assert private == [False, False, True, False]
    assert (listed, name, shown, same) == (["aio", "lookup", "now"], "lookup", "pypool.host", True)


def test_what_cannot_be_sent_is_refused_here(start: Start) -> None:
    host = starts(start, max_message_bytes=4096)
    assert host.result("call", {"name": "lookup", "args": [1], "keyword": {"a": 1}})[0] == "TypeError"
    assert host.result("call", {"name": "lookup", "args": ["x" * 4090]})[0] == "HostError"
    host = starts(
        start,
        """
    @command
    def nan():
        try:
            host.lookup(x=[1, float('nan')])
        except TypeError as error:
            return str(error)
    """,
    )
    assert host.result("nan") == "lookup(): the arguments cannot be sent: nan is not JSON at $.x[1]"


def test_there_is_no_host_but_in_a_call(start: Start) -> None:
    host = starts(
        start,
        """
    try:
        host.lookup(id=1)
        AT_IMPORT = "called"
    except LookupError as error:
        AT_IMPORT = str(error)

    @command
    def at_import():
        return AT_IMPORT
    """,
    )
    assert host.result("at_import").startswith("no call is running")
    old = start(SCRIPT)  # one that knows no functions
    assert old.result("call", {"name": "lookup"}) == ["LookupError", "this host has no functions to call"]


def test_a_worker_that_calls_nothing_loads_nothing(start: Start) -> None:
    script = "import sys\n@command\ndef loaded():\n    return [name for name in sys.modules if 'pypool._host' in name]\n"
    host = start(script, capabilities=ABLE, functions=["lookup"])
    assert host.result("loaded") == []


def test_requests_that_come_meanwhile_are_kept(start: Start) -> None:
    host = starts(start)
    id = begin(host, "call", {"name": "lookup", "keyword": {"id": 1}})
    call = host.receive()
    assert call == {"id": id, "host": 1, "function": "lookup", "args": {"id": 1}}
    later = [begin(host, "add", [i]) for i in range(3)]
    host.write(b'{"packed":[7001,[5],7002,[6]],"command":"add"}\n')
    reply(host, call, "x")
    later.append(begin(host, "add", [9]))
    assert finish(host, id) == "x"
    assert [finish(host, id) for id in later[:3]] == [1, 2, 3]
    assert [finish(host, 7001), finish(host, 7002), finish(host, later[3])] == [6, 7, 10]


@pytest.mark.parametrize("size", [1, 100, 70_000, 1 << 20])
def test_a_reply_may_come_in_pieces(start: Start, size: int) -> None:
    host = starts(start)
    id = begin(host, "call", {"name": "lookup"})
    call = host.receive()
    text = "é\u2028" * size
    fields = {"id": call["id"], "host": call["host"], "success": True, "result": text}
    data = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    for cut in (10, 40, len(data) - 1):
        host.write(data[:cut])
        data = data[cut:]
    host.write(data)
    assert finish(host, id) == text


def test_replies_to_nobody_are_dropped(start: Start) -> None:
    host = starts(start)
    id = begin(host, "call", {"name": "lookup"})
    call = host.receive()
    reply(host, dict(call, id=id + 1), "another call's")
    reply(host, dict(call, host=99), "another number's")
    reply(host, call, "right")
    assert finish(host, id) == "right"
    reply(host, call, "once more")
    reply(host, dict(call, id=1 << 63), ["[" * 10])
    assert host.result("add", [1]) == 2
    assert host.silent()


def test_a_signal_handler_may_raise_while_a_function_is_waited_for(start: Start) -> None:
    host = starts(
        start,
        """
    class Alarm(Exception):
        pass

    def ring(*_):
        raise Alarm

    @command
    def alarmed():
        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            return host.lookup(id=1)
        except Alarm:
            return "alarm " + host.now()
    """,
    )
    id = begin(host, "alarmed")
    first, second = host.receive(), host.receive()
    reply(host, first, "too late")
    reply(host, second, "now")
    assert finish(host, id) == "alarm now"
    assert host.result("add", [1]) == 2


def test_threads_share_one_reader(start: Start) -> None:
    host = starts(
        start,
        """
    @command
    def threads(n):
        got = []
        started = [threading.Thread(target=lambda i=i: got.append((i, host.lookup(id=i)))) for i in range(n)]
        for thread in started:
            thread.start()
        mine = host.now()
        for thread in started:
            thread.join()
        return [mine, sorted(got)]
    """,
    )
    id = begin(host, "threads", {"n": 8})
    calls = [host.receive() for _ in range(9)]
    for call in reversed(calls):
        reply(host, call, call["args"]["id"] if "args" in call else "mine")
    assert finish(host, id) == ["mine", [[i, i] for i in range(8)]]


LEAVING = """
    def leave_threads(n):
        def work():
            try:
                while True:
                    host.lookup()
            except LookupError:
                pass
        for _ in range(n):
            threading.Thread(target=work, daemon=True).start()
        for _ in range(20):
            host.now()
"""


def no_call_stands_behind(host: Host, line: Any, running: int, ids: List[int]) -> None:
    """Answer what the line has called until the calls are answered."""
    host.send(line)
    while ids:
        frame = host.receive()
        if "host" in frame:
            assert frame["id"] == running
            reply(host, frame, None)
        else:
            assert frame["success"] and frame["id"] == ids.pop(0), frame
    assert host.silent(0.002)


def test_no_call_stands_behind_the_answer(start: Start) -> None:
    """Threads that go on calling when their call is over, at whatever moment that is."""
    host = starts(start, LEAVING + "    command(name='leave')(leave_threads)\n")
    for _ in range(30):
        request = host.request("leave", {"n": 3})
        no_call_stands_behind(host, request, request["id"], [request["id"]])
    assert host.result("add", [1]) == 2


@pytest.mark.parametrize("size", [1, 100_000])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_no_call_stands_behind_the_answers_of_a_batch(start: Start, order: Any, size: int) -> None:
    host = starts(
        start,
        LEAVING
        + """
    @command(max_batch_size=4)
    def leave(size):
        leave_threads(3)
        return ["x" * one for one in size]
    """,
    )
    for _ in range(30):
        made = [host.request("leave", [size]) for _ in order]
        members = [made[i] for i in order]
        no_call_stands_behind(host, {"batch": members}, made[-1]["id"], [one["id"] for one in members])
    assert host.result("add", [1]) == 2


def test_a_thread_of_nobodys_takes_a_call_along(start: Start) -> None:
    host = starts(
        start,
        """
    import queue
    JOBS, DONE = queue.Queue(), queue.Queue()

    def work():
        while True:
            function = JOBS.get()
            try:
                DONE.put(function())
            except LookupError as error:
                DONE.put("LookupError")

    @setup
    def begin(): threading.Thread(target=work, daemon=True).start()
    CALLS = []

    @command
    def give(along):
        call = current_call()
        CALLS.append(call)
        JOBS.put(call.host.lookup if along else host.lookup)
        return DONE.get()

    @command
    def late():
        JOBS.put(CALLS[0].host.lookup)
        return DONE.get()
    """,
    )
    id = begin(host, "give", {"along": True})
    reply(host, host.receive(), "along")
    assert finish(host, id) == "along"
    assert host.result("give", {"along": False}) == "LookupError"
    assert host.result("late") == "LookupError"


def test_coroutines_wait_side_by_side(start: Start) -> None:
    host = starts(
        start,
        """
    @command
    async def gather(n):
        return await asyncio.gather(*[host.aio.lookup(id=i) for i in range(n)])

    @command
    async def left():
        task = asyncio.ensure_future(host.aio.lookup(id=1))
        await asyncio.sleep(0.01)
        TASKS.append(task)

    @command
    async def what_was_left():
        try:
            return await TASKS[0]
        except LookupError:
            return "LookupError"

    TASKS = []
    """,
    )
    id = begin(host, "gather", {"n": 20})
    calls: List[Dict[str, Any]] = [host.receive() for _ in range(20)]
    for call in reversed(calls):
        reply(host, call, call["args"]["id"])
    assert finish(host, id) == list(range(20))
    id = begin(host, "left")
    assert host.receive()["function"] == "lookup"
    assert finish(host, id) is None
    assert host.result("what_was_left") == "LookupError"


BATCHES = """
    from pypool import current_calls, program
    from typing import List

    async def gather(x: List[int]) -> List[int]:
        return await asyncio.gather(*[host.aio.lookup(one) for one in x])

    async def calm(x: List[int]) -> List[int]:
        return [host.lookup(one) for one in x]

    async def executor(x: List[int]) -> List[int]:
        loop, calls = asyncio.get_running_loop(), current_calls()
        return await asyncio.gather(*[loop.run_in_executor(None, call.host.lookup, one) for call, one in zip(calls, x)])

    def threads(x: List[int]) -> List[int]:
        return in_threads([lambda one=one: host.lookup(one) for one in x])

    def each(x: List[int]) -> List[int]:
        return [call.host.lookup(one) for call, one in zip(current_calls(), x)]

    def along(x: List[int]) -> List[int]:
        return in_threads([lambda call=call, one=one: call.host.lookup(one) for call, one in zip(current_calls(), x)])

    def loops(x: List[int]) -> List[int]:
        return in_threads([lambda call=call, one=one: asyncio.run(aio(call, one)) for call, one in zip(current_calls(), x)])

    async def aio(call, one):
        return await call.host.aio.lookup(one)

    def in_threads(work):
        got = [None] * len(work)
        def run(i): got[i] = work[i]()
        started = [threading.Thread(target=run, args=(i,)) for i in range(len(work))]
        for thread in started: thread.start()
        for thread in started: thread.join()
        return got

    for function in (gather, calm, executor, threads, each, along, loops):
        command(max_batch_size=4)(function)
        program(function.__name__, max_batch_size=4)(function)
"""


@pytest.mark.parametrize("what", ["command", "program"])
@pytest.mark.parametrize("way", ["gather", "calm", "executor", "threads", "each", "along", "loops"])
def test_a_batch_calls_from_its_tasks_and_threads_and_by_its_calls(start: Start, way: str, what: str) -> None:
    host = starts(start, BATCHES)
    for size in (3, 1, 1, 2):  # one alone goes another way, and the first one yet another
        members = [
            host.request(way, [i]) if what == "command" else host.request("execute_program", {"program_id": way, "inputs": [i]})
            for i in range(size)
        ]
        host.send({"batch": members} if size > 1 else members[0])
        for _ in range(size):
            frame = host.receive()
            assert (frame["id"], frame.get("function")) == (members[-1]["id"], "lookup"), frame
            reply(host, frame, [frame["args"][0], "found"])
        assert [finish(host, one["id"]) for one in members] == [[i, "found"] for i in range(size)]


def test_an_error_of_the_hosts_is_itself_elsewhere() -> None:
    import pickle

    from pypool import HostError

    error = pickle.loads(pickle.dumps(HostError("sql.ErrNoRows", "no row")))
    assert (error.type, error.message, str(error)) == ("sql.ErrNoRows", "no row", "sql.ErrNoRows: no row")
