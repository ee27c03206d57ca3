"""Fixtures: workers made of a few lines of script."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from host import Host

sys.executable = os.path.abspath(sys.executable)  # "../venv/bin/python -m pytest" leaves the dots in it, a worker does not

#: `make test-python` runs the tests a second time with PYPOOL_TEST_ORJSON=1: results must not differ.
WITH_ORJSON = os.environ.get("PYPOOL_TEST_ORJSON") == "1"
BESIDE = ""
if WITH_ORJSON:
    import orjson

    from pypool import _orjson, _results

    _results.through_orjson = _orjson.encoder(orjson)
    BESIDE = "try:\n    import orjson\nexcept ImportError:\n    pass  # the interpreter of one test has none\n"

Start = Callable[..., Host]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """start(script text, **options) -> a Host that is killed after the test."""
    hosts: List[Host] = []

    def make(text: str = "", name: str = "worker.py", **options: Any) -> Host:
        path = tmp_path / name
        path.write_text(BESIDE + "from pypool import command, current_call, program, setup\n" + textwrap.dedent(text), "utf-8")
        host = Host(str(path), **options)
        hosts.append(host)
        return host

    yield make
    for host in hosts:
        host.close()
