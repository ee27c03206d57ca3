"""Workers that a fork server makes. PYPOOL_TEST_SOURCE=forkserver runs all the other tests with them, too."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest
from conftest import Start

WITH = os.environ.get("PYPOOL_TEST_LIBRARIES") == "1" and (3, 10) <= sys.version_info < (3, 14)
pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="hosts fork where there are handles of processes")


def test_whose_the_import_is(start: Start) -> None:
    host = start(
        """
        import os, pypool
        try: pypool.current_worker()
        except LookupError as error: WHY = str(error)
        IMPORTED = os.getpid()
        @setup
        def place(): global AT; AT = pypool.current_worker()
        @command
        def facts(): return [AT is pypool.current_worker(), AT.id, AT.slot, WHY.split()[0:5], IMPORTED == os.getppid()]
        """,
        slot=3,
        forked=True,
    )
    assert host.result("facts") == [True, "w1", 3, ["the", "script", "is", "imported", "once"], True]


def test_threads_of_the_import_are_refused(start: Start) -> None:
    host = start("import threading\nthreading.Thread(target=threading.Event().wait, name='poller').start()", forked=True)
    error = host.hello["error"]
    assert (error["stage"], error["type"]) == ("import", "RuntimeError") and "'poller' in wait" in error["message"]
    assert host.wait() == 1


PATCHED = """
    import {library}
    {patch}
    import asyncio, os, signal, subprocess, threading, time
    {at_import}
    PATCHED = time.sleep.__module__
    @command
    def sleeps(): time.sleep(0.001); return PATCHED
    @command
    def child(): return subprocess.check_output(["echo", "from a child"]).decode()
    @command
    def thread():
        done = []
        thread = threading.Thread(target=done.append, args=(1,))
        thread.start(); thread.join()
        return done
    @command
    async def coroutine(): await asyncio.sleep(0.001); return 1
    @command
    def green(): return {green}
    @command
    def busy():
        print("busy now", flush=True)
        while True: pass
"""
LIBRARIES = {
    "gevent": {
        "library": "gevent.monkey",
        "patch": "gevent.monkey.patch_all()",
        "green": "[job.get() for job in [gevent.spawn(lambda i=i: i) for i in range(3)]]",
    },
    "eventlet": {
        "library": "warnings; warnings.simplefilter('ignore'); import eventlet",
        "patch": "eventlet.monkey_patch()",
        "green": "list(eventlet.GreenPool().imap(lambda i: i, range(3)))",
    },
}


@pytest.mark.skipif(not WITH, reason="needs gevent and eventlet")
@pytest.mark.parametrize("at_import", ["", "subprocess.check_call(['true'])"], ids=["", "a child at import"])
@pytest.mark.parametrize("forked", [False, True], ids=["started", "forked"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_libraries_that_replace_the_systems_functions(start: Start, library: str, forked: bool, at_import: str) -> None:
    text = PATCHED.format(at_import=at_import, **LIBRARIES[library])
    host = start(text, forked=forked)
    for _ in range(3):
        assert host.result("sleeps").startswith(library)
        assert host.result("child") == "from a child\n"
        assert host.result("thread") == [1]
        assert host.result("coroutine") == 1
        assert host.result("green") == [0, 1, 2]
    host.send(host.request("busy"))
    host.wait_stderr("busy now")
    host.close_stdin()
    assert host.wait() == -9, "the host's death is noticed"


#: What a script may do at its import: the fork server goes on after it.
CHANGES: Any = {
    "select": "import select; del select.poll, select.select, select.epoll",
    "children": "import os; os.waitpid = os.wait4 = os.waitid = None",
    "signals": "import signal, _signal; signal.signal = signal.getsignal = _signal.signal = _signal.getsignal = None",
    "sockets": "import socket, _socket; socket.socket = _socket.socket = _socket.socketpair = None",
    "waiting for any child": "import os, signal; signal.signal(signal.SIGCHLD, lambda *_: os.waitpid(-1, 0))",
    "no child is waited for": "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_the_script_changes_is_not_what_the_server_goes_by(start: Start, change: str) -> None:
    for _ in range(3):  # by chance the worker was forked ahead
        host = start(change + "\n@command\ndef double(n): return 2 * n", forked=True)
        assert host.result("double", [21]) == 42
        host.close_stdin()
        assert host.wait() == -9
