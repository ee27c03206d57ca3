"""Workers that a fork server makes. PYPOOL_TEST_SOURCE=forkserver runs all the other tests with them, too."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest
from conftest import Start
from host import Host

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
@pytest.mark.parametrize("how", ["started", "forked", "ahead"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_libraries_that_replace_the_systems_functions(start: Start, library: str, how: str, at_import: str) -> None:
    text = PATCHED.format(at_import=at_import, **LIBRARIES[library])
    host = start(text, forked=how != "started", ahead=how == "ahead")
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


WAITING = """
    import {library}
    {patch}
    import os, select, socket, threading, time
    PAIR = []
    @command
    def numbers():  # the same in its sibling: what a shared epoll knows descriptors by
        PAIR.extend(socket.socketpair())
        return sorted(end.fileno() for end in PAIR)
    @command
    def leave_one_waiting():
        threading.Thread(target=PAIR[0].recv, args=(1,)).start()
        time.sleep(0.05)
        PAIR[1].send(b"x")  # nobody runs who would take it
    @command
    def ready(): return len(select.select([PAIR[0]], [], [], 0.2)[0])
    @command
    def seconds_of_waiting():
        begun = time.process_time()
        PAIR[0].settimeout(0.3)
        try: PAIR[0].recv(1)
        except OSError: pass
        return time.process_time() - begun
"""


@pytest.mark.skipif(not WITH, reason="needs gevent and eventlet")
@pytest.mark.parametrize("library", LIBRARIES)
def test_siblings_wait_for_their_own(start: Start, library: str) -> None:
    one = start(WAITING.format(**LIBRARIES[library]), forked=True)
    with Host(one.hello_args["script"], server=one.server, ahead=True) as other:
        assert one.result("numbers") == other.result("numbers")
        one.result("leave_one_waiting")
        assert other.result("ready") == 0
        assert other.result("seconds_of_waiting") < 0.15


@pytest.mark.skipif(not WITH, reason="needs gevent")
def test_what_greenlets_print_beside_a_handler_that_waits(start: Start) -> None:
    host = start(
        """
        import gevent.monkey
        gevent.monkey.patch_all()
        import logging, time
        class Slow(logging.StreamHandler):
            def emit(self, record):
                time.sleep(0.05)
                super().emit(record)
        logging.getLogger().addHandler(Slow())
        @command
        def work():
            other = gevent.spawn(lambda: (time.sleep(0.01), print("printed meanwhile", flush=True)))
            logging.warning("told")
            other.join()
        """
    )
    host.result("work")
    assert "printed meanwhile" in host.text().splitlines()
    assert [record["message"] for record in host.records()] == ["told"]


#: What a script may do at its import: the fork server goes on after it.
CHANGES: Any = {
    "select": "import select; del select.poll, select.select, select.epoll",
    "memory": "import mmap; mmap.mmap = None",
    "dumps": "import faulthandler; del faulthandler.dump_traceback",
    "collections": "import gc; gc.collect = gc.freeze = None",
    "children": "import os; os.waitpid = os.wait4 = os.waitid = None",
    "signals": "import signal, _signal; signal.signal = signal.getsignal = _signal.signal = _signal.getsignal = None",
    "sockets": "import socket, _socket; socket.socket = _socket.socket = _socket.socketpair = None",
    "waiting for any child": "import os, signal; signal.signal(signal.SIGCHLD, lambda *_: os.waitpid(-1, 0))",
    "no child is waited for": "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    "nor by what C code says": "import ctypes; ctypes.CDLL(None).signal(17, ctypes.c_void_p(1))",
}


@pytest.mark.skipif(sys.platform != "linux", reason="fork servers are Linux's")
@pytest.mark.parametrize("ahead", [False, True], ids=["at once", "ahead"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_the_script_changes_is_not_what_the_server_goes_by(start: Start, change: str, ahead: bool) -> None:
    script = change + "\nimport os\n@command\ndef double(n): return [2 * n, os.environ.get('GIVEN')]"
    host = start(script, forked=True, ahead=ahead)
    assert "page" in host.hello["result"]["capabilities"]
    with Host(host.hello_args["script"], server=host.server, ahead=ahead) as other:
        for one in (host, other):
            assert one.result("double", [21]) == [42, None]
            one.close_stdin()
            assert one.wait() == -9


def test_an_environment_of_the_scripts_own_is_given_what_the_host_adds(start: Start) -> None:
    host = start(
        "import os\nos.environ = dict(os.environ)\n@command\ndef given(): return os.environ.get('GIVEN')",
        forked=True,
        environ={"GIVEN": "x"},
    )
    assert host.result("given") == "x"
