"""What is nested too deeply is refused, costs no worker, and is nobody's exception."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from conftest import Start

SCRIPT = """
    import functools
    from dataclasses import dataclass
    from typing import Any, Dict, List, NamedTuple, Optional

    @dataclass
    class Node:
        v: int = 0
        k: Optional["Node"] = None

    class Named(NamedTuple):
        v: int = 0
        k: Optional["Named"] = None

    def plain(func):
        @functools.wraps(func)
        def wrapper(*args, **kwargs): return func(*args, **kwargs)
        return wrapper

    @command
    def node(n: Node): return 1
    @command
    def named(n: Named): return 1
    @command
    def many(*n: Node): return 1
    @command
    @plain
    def decorated(n: Node): return 1
    @command(concurrency=2)
    async def concurrent(n: Node): return 1
    @command(max_batch_size=4)
    def batch(n: List[Node]): return [1 for _ in n]
    @program("typed")
    def typed(n: Node): return 1
    @program("untyped")
    def untyped(n): return 1
    @program("batch")
    class Batch:
        def __call__(self, n): return 1
    @command
    def made(n: int) -> Node:
        found = None
        for i in range(n): found = Node(i, found)
        return found
    @command
    def mapped(n: int) -> Dict[int, Any]:
        found = {}
        for i in range(n): found = {i: found}
        return found
    @dataclass
    class Endless:
        v: int
        def __post_init__(self): self.__post_init__()
    @command
    def endless(n: Endless): return 1
"""


def nested(depth: int) -> Any:
    value: Any = None
    for _ in range(depth):
        value = {"v": 1, "k": value}
    return value


@pytest.mark.parametrize(
    "command", ["node", "named", "many", "decorated", "concurrent", "batch", "typed", "untyped", "batch program"]
)
def test_deep_arguments(start: Start, command: str) -> None:
    worker = start(SCRIPT)
    program = {"typed": "typed", "untyped": "untyped", "batch program": "batch"}.get(command)
    for depth in (300, 700, 1):
        args: Any = [nested(depth)] if command == "many" else {"n": nested(depth)}
        name = command
        if program:
            name, args = "execute_program", {"program_id": program, "inputs": args}
        answer = worker.call(name, args)
        if depth == 1:
            assert answer["success"], answer
        elif not answer["success"]:  # a frame that is not Python's may have more room
            assert answer["error"]["kind"] == "invalid_arguments", answer
            assert "nested" in answer["error"]["message"]
    assert worker.result("many", []) == 1


def test_deep_results(start: Start) -> None:
    worker = start(SCRIPT)
    for command, depth in (("made", 5000), ("mapped", 5000)):
        answer = worker.call(command, {"n": depth})
        if answer["success"]:  # from Python 3.14 on the stack is as deep as it is
            assert sys.version_info >= (3, 14)
            value = answer["result"]
            for level in range(depth - 1, -1, -1):
                assert value["v"] == level
                value = value["k"]
            assert value is None
            continue
        error = answer["error"]
        assert error["kind"] == "invalid_result" and ("nested too deeply" in error["message"] or command == "mapped")
    assert worker.result("made", {"n": 2}) == {"v": 1, "k": {"v": 0, "k": None}}


def test_code_without_an_end_is_not_to_be_taken_for_a_deep_value(start: Start) -> None:
    error = start(SCRIPT).error("endless", {"n": {"v": 1}})
    assert error["kind"] != "invalid_arguments" or "RecursionError" in error["message"], error
