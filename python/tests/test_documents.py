"""docs/protocol.md says what the runtime answers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Dict, List

from conftest import Start

from pypool import _builtins
from pypool._commands import BUILTINS

PROTOCOL = (Path(__file__).resolve().parents[2] / "docs" / "protocol.md").read_text("utf-8")


def rows(heading: str) -> Dict[str, List[str]]:
    """The table below a heading: each row's first word in code, and its other cells."""
    section = PROTOCOL.partition("\n## " + heading + "\n")[2].partition("\n## ")[0]
    found = re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.M)
    return {name: cells.split(" | ") for name, cells in found}


def test_every_built_in_has_its_answer(start: Start) -> None:
    table = rows("Built-in commands")
    assert set(table) == set(BUILTINS) == {*_builtins._SIMPLE, "hello", "execute_program", "shutdown"}
    host = start("@command\ndef f(a: int = 1) -> int:\n    return a\n@program('p')\ndef p(a): return a")
    pong = host.result("ping", session_id="s")
    assert pong == {"status": "ok", "worker_id": "w1", "pid": host.pid, "session_id": "s"}
    for key in pong:
        assert key in table["ping"][1]
    stats = host.result("get_stats", {"sources": True})
    for key in stats:
        assert "`%s`" % key in table["get_stats"][1]
    entry = host.result("list_commands", {"schema": True})[0]
    for key in [*entry, *entry["params"][0]]:
        assert "`%s`" % key in table["list_commands"][1]
    assert host.result("list_programs") == ["p"]
    assert host.result("execute_program", {"program_id": "p", "inputs": [3]}) == 3
    assert host.call("shutdown")["result"] is None


def test_the_error_kinds_have_their_keys(start: Start) -> None:
    table = rows("Error kinds")
    host = start(
        """
        @command
        def fail(): raise ValueError("bad")
        @command
        def add(a): return a
        @command
        def nan(): return float("nan")
        @command
        def large(): return "x" * 5000
        @command
        def leave(): raise SystemExit(3)
        """,
        max_message_bytes=4096,
    )
    for command in ("fail", "add", "nobody", "nan", "large", "leave"):
        error = host.error(command)
        kind = error.pop("kind")
        keys = table[kind][1]
        for key in error:
            assert "`%s`" % key in keys, (kind, key)
