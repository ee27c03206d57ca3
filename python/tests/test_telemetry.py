"""OpenTelemetry's context in handlers, with its real API and SDK."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Dict, List

import pytest
from conftest import Start

WITH = os.environ.get("PYPOOL_TEST_LIBRARIES") == "1" and (3, 10) <= sys.version_info < (3, 14)
if not WITH:
    pytest.importorskip("opentelemetry.sdk", reason="not for every Python")

COMMANDS = """
    import asyncio
    from opentelemetry import trace as api
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from pypool import host, setup

    exporter = InMemorySpanExporter()

    @setup
    def provide():
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        api.set_tracer_provider(provider)

    def now():
        span = api.get_current_span().get_span_context()
        return "%032x-%016x" % (span.trace_id, span.span_id) if span.is_valid else None

    @command
    def current(n=0): return now()
    @command
    def hinted(n: "bytes" = b""): return now()
    @command
    async def later(n=0):
        await asyncio.sleep(0)
        return now()
    @command
    def items():
        yield now()
        yield now()
    @command
    async def later_items():
        yield now()
        await asyncio.sleep(0)
        yield now()
    @program("traced")
    def traced(): return now()
    @command(max_batch_size=8)
    def batch(n):
        with api.get_tracer("t").start_as_current_span("work"):
            if n[0] < 0: raise ValueError("bad")
            return [now() for _ in n]
    @command(concurrency=8)
    async def shared(n=0):
        before = now()
        await asyncio.sleep(0.01)
        return [before, now()]
    @command
    def work():
        with api.get_tracer("t").start_as_current_span("work"):
            return now()
    @command
    def spans():
        done = [json.loads(span.to_json()) for span in exporter.get_finished_spans()]
        exporter.clear()
        return done
    import json
"""


def ids(n: int) -> str:
    return "%032x-%016x" % (n, n)


def trace(n: int) -> str:
    return "00-%s-01" % ids(n)


def test_the_libraries_are_here() -> None:
    import opentelemetry.sdk  # noqa: F401  a run that skipped these tests proves nothing


def test_the_callers_span_is_current(start: Start) -> None:
    host = start(COMMANDS, capabilities=["stream", "page", "packed"])
    number = 0
    for _ in range(3):  # the first call of a command goes another way than the later ones
        for command in ("current", "hinted", "later"):
            number += 1
            assert host.result(command, trace=trace(number)) == ids(number)
            assert host.result(command) is None, "what the call before had is forgotten"
        assert host.result("execute_program", {"program_id": "traced", "inputs": None}, trace=trace(7)) == ids(7)
        for command in ("items", "later_items"):
            assert [frame.get("item") for frame in host.stream(command, trace=trace(8))] == [ids(8), ids(8), None]
    assert host.result("current", trace="00-%s-00" % ids(9)) == ids(9), "what is not sampled is current, too"


def test_spans_of_a_handler_are_the_callers_children(start: Start) -> None:
    host = start(COMMANDS)
    assert str(host.result("work", trace=trace(7))).startswith("%032x-" % 7)
    (span,) = host.result("spans")
    assert span["context"]["trace_id"] == "0x%032x" % 7
    assert span["parent_id"] == "0x%016x" % 7


def test_a_packed_line(start: Start) -> None:
    host = start(COMMANDS, capabilities=["packed"])
    host.write(('{"packed":[1,[1],2,[2]],"command":"current","trace":"%s"}\n{"id":3,"command":"current"}\n' % trace(5)).encode())
    assert [host.receive()["result"] for _ in range(3)] == [ids(5), ids(5), None]


def batch_of(host: Any, first: int, *requests: Dict[str, Any]) -> List[Dict[str, Any]]:
    calls = [{"id": number, "command": "batch", **request} for number, request in enumerate(requests, first)]
    host.write(json.dumps({"batch": calls}, separators=(",", ":")).encode() + b"\n")
    return [host.receive() for _ in calls]


def test_a_batch_has_links(start: Start) -> None:
    host = start(COMMANDS, capabilities=["batch"])
    answers = batch_of(
        host,
        1000,
        {"args": [1], "trace": trace(1)},
        {"args": [2]},
        {"args": [3], "trace": trace(3)},
        {"args": [4], "trace": trace(1)},
    )
    assert len({answer["result"] for answer in answers}) == 1
    work, span = host.result("spans")
    assert (work["name"], span["name"]) == ("work", "batch batch")
    assert work["parent_id"] == span["context"]["span_id"]
    assert [link["context"]["span_id"] for link in span["links"]] == ["0x%016x" % 1, "0x%016x" % 3]
    assert (span["parent_id"], span["attributes"]) == (None, {"pypool.batch.size": 4})
    batch_of(host, 2000, {"args": [-1], "trace": trace(1)}, {"args": [2], "trace": trace(2)})
    _, span = host.result("spans")
    assert span["status"]["status_code"] == "ERROR"
    assert span["events"][0]["attributes"]["exception.type"] == "ValueError"


def test_a_batch_of_one_span_is_that_ones(start: Start) -> None:
    host = start(COMMANDS, capabilities=["batch"])
    batch_of(host, 1000, {"args": [1], "trace": trace(6)}, {"args": [2], "trace": trace(6)})
    (work,) = host.result("spans")
    assert work["parent_id"] == "0x%016x" % 6
    batch_of(host, 2000, {"args": [1]}, {"args": [2]})
    (work,) = host.result("spans")
    assert work["parent_id"] is None


def test_calls_side_by_side_have_each_their_own(start: Start) -> None:
    host = start(COMMANDS, capabilities=["shared"])
    lines = ['{"shared":{"id":%d,"command":"shared","trace":"%s"}}\n' % (number, trace(number)) for number in range(1, 6)]
    lines.append('{"shared":{"id":6,"command":"shared"}}\n')
    host.write("".join(lines).encode())
    got = {answer["id"]: answer["result"] for answer in (host.receive() for _ in lines)}
    assert got == {**{number: [ids(number)] * 2 for number in range(1, 6)}, 6: [None, None]}


@pytest.mark.parametrize("how", ["def f(): return host.look(a=1)", "async def f(): return await host.aio.look(a=1)"])
def test_functions_of_the_host_are_told_the_span(start: Start, how: str) -> None:
    host = start(
        COMMANDS
        + """
    @command
    %s
    @command
    def span():
        with api.get_tracer("t").start_as_current_span("work"):
            return [now(), host.look()]
    """
        % how,
        capabilities=["functions"],
        functions=["look"],
    )

    def call(id: int, command: str, trace: str = "") -> Any:
        """The frame of the function's call, and the result."""
        tail = ',"trace":"%s"' % trace if trace else ""
        host.write(('{"id":%d,"command":"%s"%s}\n' % (id, command, tail)).encode())
        frame = host.receive()
        assert (frame["id"], frame["function"]) == (id, "look")
        host.write(b'{"id":%d,"host":%d,"success":true,"result":7}\n' % (id, frame["host"]))
        return frame, host.receive()["result"]

    frame, result = call(1, "f", trace(7))
    assert (frame["args"], frame["trace"], result) == ({"a": 1}, trace(7), 7)
    frame, _ = call(2, "f")
    assert "trace" not in frame
    frame, (inner, _) = call(3, "span", trace(9))
    assert frame["trace"] == "00-%s-01" % inner
    assert inner.startswith("%032x-" % 9)


def test_what_opentelemetry_cannot_do_is_no_failure_of_a_calls(start: Start) -> None:
    host = start(
        COMMANDS
        + """
    @command
    def sabotage():
        def attach(context): raise RuntimeError("broken")
        import sys
        sys.modules["pypool._call"].RUNNING.telemetry._attach = attach
    """
    )
    assert host.result("current", trace=trace(7)) == ids(7)
    host.result("sabotage")
    assert host.result("current", trace=trace(7)) is None
    assert host.result("current", trace=trace(7)) is None
    assert host.stderr().count("OpenTelemetry's context is not set any more: RuntimeError: broken") == 1


def test_another_module_of_that_name(start: Start) -> None:
    host = start(
        """
    import sys, types
    sys.modules["opentelemetry"] = types.ModuleType("opentelemetry")
    sys.modules["opentelemetry.trace"] = types.ModuleType("opentelemetry.trace")
    import opentelemetry.trace
    @command
    def f(): return current_call().trace
    """
    )
    assert host.result("f", trace=trace(7)) == trace(7)
