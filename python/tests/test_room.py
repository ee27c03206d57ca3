"""Functions of the host, called by a handler that stands deep in its calls: it gets what they return, or a RecursionError, and
the worker lives."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

import pytest
from conftest import Start
from host import Host

from pypool import _room

ABLE = ["stream", "page", "log", "packed", "cancel", "batch", "functions", "shared"]
SCRIPT = """
    import sys, threading
    import pypool
    from pypool import host
    sys.setrecursionlimit(1000)

    def nested(n):
        return [nested(n - 1)] if n else 1
    def down(n, then):
        return down(n - 1, then) if n else then()
    def load(view):
        return down(60, lambda: bytes(view))
    pypool.payload("deep.Kind", load, lambda value: None)

    @command
    def calls(n: int, name: str = "f"): return down(n, lambda: str(getattr(host, name)(x=1))[:20])
    @command
    def sends(n: int): return down(n, lambda: str(host.g(x=[b"x" * 8192, nested(30)]))[:20])
    @command
    async def waits(n: int):
        async def adown(n): return await adown(n - 1) if n else str(await host.aio.f(x=1))[:20]
        return await adown(n)
    @command
    def kinds(n: int): return down(n, lambda: type(host.f(x=1)).__name__)
    @command
    def threads(n: int):
        call, found = current_call(), []
        def run():
            try: found.append(down(n, lambda: str(call.host.f(x=1))[:20]))
            except RecursionError as error: found.append(type(error).__name__)
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        return found[0]
    @command
    def pid(): return __import__("os").getpid()
"""
DATA = b"y" * 8192
#: What the host answers: the rest of its line, and what goes before it.
REPLIES: Dict[str, Any] = {
    "plain": ("[1,2]", b""),
    "bytes": ('"eHh4","bytes":[["result"]]', b""),
    "payload": ('null,"blobs":[{"at":["result"]}]', DATA),
    "array": ('null,"blobs":[{"at":["result"],"dtype":"uint8","shape":[8192]}]', DATA),
    "kind": ('null,"blobs":[{"at":["result"],"kind":"deep.Kind"}]', DATA),
    "nested": ("[" * 60 + "]" * 60, b""),
}


def deep(worker: Host, command: str, reply: str, n: int, name: Optional[str] = None) -> str:
    """What a call of the command has come to: "ok", a result, or an exception's type."""
    rest, data = REPLIES[reply]
    args: Dict[str, Any] = {"n": n}
    if name:
        args["name"] = name
    request = worker.request(command, args)
    worker.send(request)
    while True:
        line = worker.read_line()
        assert line, worker.stderr()
        if line.startswith(b'{"raw":'):
            left = sum(json.loads(line)["raw"]) + 1
            while len(worker._buffer) < left:
                worker._buffer += os.read(worker.fd_in, 1 << 16)
            worker._buffer = worker._buffer[left:]
            continue
        answer = json.loads(line)
        assert answer["id"] == request["id"]
        if "host" in answer:
            head = '{"id":%d,"host":%d,"success":true,"result":%s}\n' % (answer["id"], answer["host"], rest)
            worker.write((b'{"raw":[%d]}\n%s\n' % (len(data), data) if data else b"") + head.encode())
        elif answer["success"]:
            return "ok: " + str(answer["result"])
        else:
            return str(answer["error"].get("type", answer["error"]))


def starts(start: Start) -> Host:
    return start(SCRIPT, capabilities=ABLE, functions=["f", "g"], blob_functions=["g"])


@pytest.mark.parametrize(
    ("command", "reply"),
    [("calls", reply) for reply in REPLIES]
    + [("waits", "payload"), ("waits", "plain"), ("sends", "payload"), ("threads", "payload")],
)
def test_a_deep_handler_calls_the_host(start: Start, command: str, reply: str) -> None:
    worker = starts(start)
    pid = worker.result("pid")
    seen: List[str] = []
    for n in [*range(880, 1000, 12), *range(976, 990, 2)]:
        seen.append(deep(worker, command, reply, n))
        assert seen[-1].startswith("ok: ") or seen[-1] in ("RecursionError", "ok: RecursionError"), (n, seen[-1])
    assert seen[0].startswith("ok: ") and seen[-1].endswith("RecursionError"), seen
    assert worker.result("pid") == pid
    assert deep(worker, command, reply, 3).startswith("ok: ")


def test_numpy_is_imported_for_a_deep_handler(start: Start) -> None:
    pytest.importorskip("numpy", reason="not for every Python")
    worker = starts(start)
    n = next(n for n in range(930, 800, -1) if deep(worker, "calls", "plain", n).startswith("ok: "))
    assert deep(worker, "kinds", "array", n - 10) == "ok: ndarray"  # a first call takes some frames more
    assert deep(worker, "kinds", "array", 1) == "ok: ndarray"


def test_a_number_that_cannot_be_read_is_an_error_of_that_call(start: Start) -> None:
    worker = starts(start)
    for number in ("1e400", "[-1e400]", "9" * 5000 if hasattr(sys, "get_int_max_str_digits") else "1e999"):
        REPLIES["number"] = (number, b"")
        for command in ("calls", "waits"):
            assert deep(worker, command, "number", 3) == "HostError"
    del REPLIES["number"]
    assert deep(worker, "calls", "plain", 3) == "ok: [1, 2]"


def test_a_library_that_is_absent_is_found_once_the_path_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: List[str] = []

    class Watch:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> None:
            looked.append(name)

    monkeypatch.setattr(sys, "meta_path", [Watch, *sys.meta_path])
    for _ in range(3):
        with pytest.raises(ModuleNotFoundError, match="room_library"):
            _room.library("room_library")
    assert looked == ["room_library"], "it is looked for once"
    (tmp_path / "room_library.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert _room.library("room_library").__name__ == "room_library"
