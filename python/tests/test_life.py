"""How workers end."""

from __future__ import annotations

import os
import signal
import time

import pytest
from conftest import Start

from pypool import current_worker


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        with open("/proc/%d/stat" % pid) as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pid: int, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.005)
    return not alive(pid)


BUSY = """
    import subprocess, sys, time
    @command
    def child(): return subprocess.Popen(["sleep", "60"]).pid
    @command
    def busy(how):
        print("busy now", flush=True)
        if how == "sleep": time.sleep(60)
        if how == "loop":
            while True: pass
    @command
    def f(): return 1
"""


@pytest.mark.parametrize("how", ["idle", "sleep", "loop"])
def test_the_host_dies(start: Start, how: str) -> None:
    host = start(BUSY)
    child = host.result("child")
    if how != "idle":
        host.send(host.request("busy", [how]))
        host.wait_stderr("busy now")
    host.close_stdin()
    assert host.wait() == -signal.SIGKILL
    assert gone(child)


def test_the_host_dies_during_import(start: Start) -> None:
    host = start("import time\nprint('busy now', flush=True)\ntime.sleep(60)", hello=False)
    host.send({"id": 0, "command": "hello", "args": host.hello_args})
    host.wait_stderr("busy now")
    host.close_stdin()
    assert host.wait() == -signal.SIGKILL


def test_not_a_group_leader(start: Start) -> None:
    """A worker that leads no group ends alone."""
    host = start(BUSY, leader=False)
    child = host.result("child")
    host.close_stdin()
    assert host.wait() == 1
    assert alive(child)
    os.kill(child, signal.SIGKILL)


def test_shutdown(start: Start) -> None:
    host = start(
        """
        import atexit, logging, sys, threading
        def bye():
            print("atexit ran")
            logging.warning("logged at exit")
            sys.stdout.flush()
        atexit.register(bye)
        done = threading.Event()
        threading.Thread(target=lambda: (done.wait(0.05), print("thread ran"))).start()
        """
    )
    # The host closes its end right behind the request: the hang-up must not be taken for its death.
    host.write(b'{"id":5,"command":"shutdown"}\n')
    host.close_stdin()
    assert host.receive() == {"id": 5, "success": True, "result": None}
    assert host.wait() == 0
    assert "atexit ran" in host.stderr() and "thread ran" in host.stderr()
    assert host.records()[-1]["message"] == "logged at exit"


@pytest.mark.parametrize(
    "text",
    [
        "import atexit, time\natexit.register(time.sleep, 60)",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()",
        "import atexit\ndef spin():\n    while True: pass\natexit.register(spin)",
        "import atexit, ctypes\natexit.register(lambda: ctypes.PyDLL(None).sleep(60))",
    ],
    ids=["atexit", "thread", "loop", "gil"],
)
def test_shutdown_is_bounded(start: Start, text: str) -> None:
    host = start(text, forked=False if "threading" in text else None)
    began = time.monotonic()
    host.shutdown()
    assert time.monotonic() - began < 8


def test_exit_function_that_raises(start: Start) -> None:
    host = start("import atexit\natexit.register(lambda: 1 / 0)")
    assert host.shutdown() == 0
    assert "ZeroDivisionError" in host.stderr()


def test_closed_channel_ends_the_worker(start: Start) -> None:
    host = start("import os\n@command\ndef f(): os.closerange(3, 4096)")
    host.send(host.request("f"))
    assert host.read_line() == b""
    host.wait()


def test_the_worker_knows_its_place(start: Start) -> None:
    host = start(
        """
        import pypool
        AT_IMPORT = pypool.current_worker()
        @command
        def place():
            worker = pypool.current_worker()
            assert worker is AT_IMPORT
            return [worker.id, worker.slot, repr(worker)]
        """,
        slot=3,
        forked=False,  # a fork server's import is nobody's: test_forked.py
    )
    assert host.result("place") == ["w1", 3, "Worker(id='w1', slot=3)"]


def test_by_hand_the_slot_is_the_first() -> None:
    assert (current_worker().id, current_worker().slot) == ("", 0)
