"""The transcripts that the Go tests run too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, List, Tuple

import pytest
from host import Host

TESTDATA = Path(__file__).resolve().parents[2] / "testdata"
TRANSCRIPTS = sorted(TESTDATA.glob("transcripts/*.jsonl"))


def matches(wanted: Any, got: Any) -> bool:
    if wanted == "*":
        return True
    if isinstance(wanted, dict) and isinstance(got, dict):
        return wanted.keys() == got.keys() and all(matches(wanted[key], got[key]) for key in wanted)
    if isinstance(wanted, list) and isinstance(got, list):
        return len(wanted) == len(got) and all(map(matches, wanted, got))
    return type(wanted) is type(got) and bool(wanted == got)


def lines_of(path: Path) -> List[Tuple[str, str]]:
    lines = path.read_text("utf-8").split("\n")
    return [(mark, rest) for mark, _, rest in (line.partition(" ") for line in lines) if mark in (">", "<", "<*")]


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=[path.stem for path in TRANSCRIPTS])
def test_transcript(path: Path) -> None:
    lines = lines_of(path)
    with Host(hello=False, extras=False) as host:
        while lines:
            mark, text = lines.pop(0)
            if mark == ">":
                if '"hello"' in text:
                    text = hello(text, host)
                host.write(text.encode() + b"\n")
            elif mark == "<":
                got = host.receive()
                assert matches(json.loads(text), got), got
            else:
                assert lines[0][0] == "<"
                last = json.loads(lines.pop(0)[1])
                got = host.receive()
                while not matches(last, got):
                    assert matches(json.loads(text), got), got
                    got = host.receive()
        assert host.silent()


def hello(text: str, host: Host) -> str:
    line = json.loads(text)
    line["args"]["runtime"] = host.hello_args["runtime"]
    line["args"]["script"] = str(TESTDATA / "workers" / "transcript.py")
    return json.dumps(line)


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) >= 9
