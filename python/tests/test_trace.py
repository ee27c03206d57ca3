"""The caller's traceparent, as a handler sees it."""

from __future__ import annotations

from typing import Any, List

import pytest
from conftest import Start

TRACE = "00-%032x-%016x-01"

COMMANDS = """
    import threading
    @command
    def trace(n=0): return current_call().trace
    @command
    def deadline(n=0): return current_call().deadline is not None
    @command
    async def later(): return current_call().trace
    @command
    def thread():
        found = []
        one = threading.Thread(target=lambda: found.append(current_call().trace))
        one.start()
        one.join()
        return found[0]
    @command
    def tokens():
        yield current_call().trace
        yield current_call().trace
    @program("traced")
    def traced(): return current_call().trace
"""


def trace(n: int) -> str:
    return TRACE % (n, n)


def test_each_call_has_its_own(start: Start) -> None:
    host = start(COMMANDS)
    number = 0
    for _ in range(3):
        for command in ("trace", "later", "thread"):
            number += 1
            assert host.result(command, trace=trace(number)) == trace(number)
            assert host.result(command) is None  # what the call before had is forgotten
        assert host.result("trace", [1], session_id="s", timeout_ms=60000, trace=trace(7)) == trace(7)
        assert host.result("trace", [1], session_id="s", timeout_ms=60000) is None
        assert host.result("deadline", [1], timeout_ms=60000, trace=trace(7)) is True
        assert host.result("execute_program", {"program_id": "traced", "inputs": None}, trace=trace(8)) == trace(8)
        assert [frame.get("item") for frame in host.stream("tokens", trace=trace(9))] == [trace(9), trace(9), None]


@pytest.mark.parametrize("before", ["", '"timeout_ms":60000,', '"session_id":"s","timeout_ms":60000,'])
def test_the_requests_of_a_line_share_it(start: Start, before: str) -> None:
    host = start(COMMANDS)
    tail = before + '"trace":"%s"'
    for number in (1, 2):
        line = '{"packed":[1,[1],2,{"n":2},3,[3]],"command":"trace",%s}\n' % (tail % trace(number))
        host.write(line.encode())
        assert [host.receive()["result"] for _ in range(3)] == [trace(number)] * 3
    host.write(('{"packed":[1,[1],2,[1e999],3,[3]],"command":"trace",%s}\n' % (tail % trace(4))).encode())
    answers: List[Any] = [host.receive() for _ in range(3)]
    assert [answer.get("result") for answer in answers] == [trace(4), None, trace(4)]
    assert answers[1]["error"]["kind"] == "invalid_arguments"
