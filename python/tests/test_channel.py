"""What a handler does to file descriptors, processes and signals never reaches the protocol."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import List

import pytest
from conftest import Start

NOISE = """
    import ctypes, os, subprocess, sys
    print("at import")
    @command
    def noise():
        print("print")
        sys.stdout.write("write\\n")
        os.write(1, b"os.write\\n")
        libc = ctypes.CDLL(None)
        libc.printf(b"printf\\n"); libc.fflush(None)
        os.system("echo system")
        subprocess.run(["echo", "subprocess"], check=True)
        return "ok"
    @command
    def close_all():
        for fd in (0, 1, 2): os.close(fd)
        return "closed"
    @command
    def stdin(): return [sys.stdin.read(), subprocess.run(["cat"], stdout=subprocess.PIPE).stdout.decode()]
    @command
    def fds():
        return sorted(int(name) for name in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + name))
    @command
    def child_fds():
        code = "import os; print([f for f in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + f)])"
        return subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, close_fds=False).stdout.decode()
    @command
    def echo(x): return x
"""


def test_output_goes_to_stderr(start: Start) -> None:
    host = start(NOISE)
    assert host.result("noise") == "ok"
    lines = host.text().splitlines()
    assert lines == ["at import", "print", "write", "os.write", "printf", "system", "subprocess"]


def test_closing_the_standard_descriptors(start: Start) -> None:
    host = start(NOISE)
    assert host.result("close_all") == "closed"
    assert host.result("echo", [1]) == 1
    assert host.error("echo", [])["kind"] == "invalid_arguments"


def test_stdin_is_empty(start: Start) -> None:
    assert start(NOISE).result("stdin") == ["", ""]


def test_descriptors_are_private(start: Start) -> None:
    host = start(NOISE)
    low = [fd for fd in host.result("fds") if fd < 100]
    # 0, 1, 2, and what mmap keeps of the page before Python 3.13
    assert low[:3] == [0, 1, 2] and len(low) <= 4
    assert host.result("child_fds") == "['0', '1', '2']\n"


def test_few_descriptors_allowed(start: Start) -> None:
    host = start(NOISE, preexec=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40)))
    assert host.result("noise") == "ok"
    assert max(host.result("fds")) < 40
    assert host.result("child_fds") == "['0', '1', '2']\n"


def test_missing_extra_descriptors(start: Start) -> None:
    host = start(NOISE, extras=False, stack_fd=3, page_fd=4)
    assert host.hello["result"]["capabilities"] == ["stream", "log", "packed"]
    assert host.result("echo", [1]) == 1


def test_worker_that_spins_for_its_next_request(start: Start) -> None:
    host = start(NOISE)
    for n in range(100):  # some are there when it looks, some come while it polls, and some find it asleep
        host.spin(20_000_000, keep_cpu=n >= 50)
        time.sleep((n % 3) * 0.015)
        assert host.result("echo", [n]) == n
    assert 0 < host.worked() < 5_000_000_000
    host = start(NOISE + "    import os, select\n    del select.poll, os.sched_yield\n")
    host.spin(10**15)
    assert host.result("echo", ["polls"]) == "polls"
    host.close_stdin()
    assert host.wait() != 0, "the end of the host ends the polling"


def test_worker_that_listens_for_the_doorbell(start: Start) -> None:
    host = start(NOISE)
    host.spin(50_000_000, keep_cpu=True)
    for n in range(60):
        request = host.request("echo", [n])
        if n % 3:  # else the host has none
            host.ring()
        if n % 4 == 1:  # the worker comes too early, and has to wait
            time.sleep(0.005)
        if n % 20 == 19:  # it has gone to sleep
            time.sleep(0.06)
        host.send(request)
        assert host.receive()["result"] == n
    for keep_cpu in (False, True, False, True):  # it does not block, or blocks, when it finds that the other is wanted
        host.spin(0, keep_cpu=keep_cpu)
        host.ring()
        for n in range(3):
            time.sleep(0.002)
            assert host.result("echo", [n]) == n
    host.spin(10**15, keep_cpu=True)
    host.ring()
    assert host.result("echo", ["a last one"]) == "a last one"
    text = "x" * 3_000_000
    assert host.result("echo", [text]) == text
    host.close_stdin()
    assert host.wait() != 0, "the end of the host ends the listening"


def test_a_request_begins_with_its_newline(start: Start) -> None:
    host = start(NOISE)
    assert "page" in host.hello["result"]["capabilities"]
    host.call("echo", [1])
    assert host.unread() == 0
    os.kill(host.pid, signal.SIGSTOP)
    stopped = time.monotonic() + 30
    while Path("/proc/%d/stat" % host.pid).read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < stopped
        time.sleep(0.001)
    line = b'{"id":18446744073709551615,"command":"echo","args":[1]}\n'
    host.write(line)
    os.kill(host.pid, signal.SIGKILL)
    assert host.wait() == -signal.SIGKILL
    assert host.unread() == len(line), "also when nobody is left to read it"


ODD = b'{"packed":[11,[1],12,{"value":"],\\"\\\\"},13,%s,14,[{"a":[2,3]}]],"command":"echo","session_id":"s","timeout_ms":5000}\n'


@pytest.mark.parametrize(
    "odd",
    [b"null", b"7", b"[1e999]", b"[" * 200_000 + b"]" * 200_000, b"[%s]" % (b"1" * 5000)],
    ids=["null", "no list", "no number", "deep", "long"],
)
def test_several_requests_in_a_line_are_judged_one_by_one(start: Start, odd: bytes) -> None:
    host = start(
        "@command\ndef echo(value='none'):\n    c = current_call()\n    return [value, c.id, c.session_id, c.deadline is None]"
    )
    host.write(ODD % odd)
    assert host.receive() == {"id": 11, "success": True, "result": [1, 11, "s", False]}
    assert host.receive() == {"id": 12, "success": True, "result": ['],"\\', 12, "s", False]}
    answer = host.receive()
    if odd == b"null":
        assert answer == {"id": 13, "success": True, "result": ["none", 13, "s", False]}
    elif odd != b"[%s]" % (b"1" * 5000) or hasattr(sys, "set_int_max_str_digits"):
        assert (answer["id"], answer["error"]["kind"]) == (13, "invalid_arguments")
    assert host.receive() == {"id": 14, "success": True, "result": [{"a": [2, 3]}, 14, "s", False]}
    host.result("echo", [1])


@pytest.mark.parametrize("each", [b"", b"1", b"1,[],2", b'"1",[]', b"-1,[]", b"1,[]],[", b"18446744073709551616,[]"])
def test_several_requests_that_cannot_be_told_apart(start: Start, each: bytes) -> None:
    host = start(NOISE)
    host.write(b'{"packed":[%s],"command":"echo"}\n' % each)
    answer = host.receive()
    assert answer["id"] in (None, 1) and answer["error"]["kind"] == "invalid_request"
    host.result("echo", [1])


def test_a_signal_between_the_requests_of_a_line(start: Start) -> None:
    host = start(
        """
        import signal, threading, os
        def strike(*_):
            raise RuntimeError("struck")
        signal.signal(signal.SIGUSR2, strike)
        @command
        def sit(seconds):
            import time
            print("sitting")
            time.sleep(seconds)
        """
    )
    host.write(b'{"packed":[1,[5],2,[0],3,[0]],"command":"sit"}\n')
    host.wait_stderr("sitting")
    os.kill(host.pid, signal.SIGUSR2)
    assert host.receive()["error"]["message"] == "struck"
    assert [host.receive()["id"] for _ in range(2)] == [2, 3]


def test_signals_between_the_requests_of_many_lines_lose_none(start: Start) -> None:
    host = start(
        """
        import signal
        def strike(*_):
            signal.setitimer(signal.ITIMER_REAL, 0.0005)
            raise RuntimeError("struck")
        signal.signal(signal.SIGALRM, strike)
        @command
        def begin(): signal.setitimer(signal.ITIMER_REAL, 0.0005)
        @command
        def f(x): return x
        """
    )
    host.send(host.request("begin"))
    ids = range(5000, 8000)
    answered: List[int] = []
    try:
        for at in range(0, 3000, 100):
            each = ",".join("%d,[%d]" % (id, id) for id in ids[at : at + 100])
            host.write(b'{"packed":[%s],"command":"f"}\n' % each.encode())
    except BrokenPipeError:
        pass  # it has ended already, see below
    try:
        while not answered or answered[-1] != ids[-1]:
            answered.append(host.receive()["id"])
    except EOFError:  # struck where it cannot be known what is out: that ends the worker
        assert host.wait() != 0
    assert answered[1:] == list(ids)[: len(answered[1:])]


def test_forked_child_that_returns_from_its_handler(start: Start) -> None:
    host = start(
        """
        import os
        @command
        def fork():
            pid = os.fork()
            if pid == 0:
                return "child"
            return os.waitpid(pid, 0)[1]
        @command
        def fork_and_leave():
            r, w = os.pipe()
            if os.fork() == 0:
                os.read(r, 1)
                os._exit(0)
            globals()["keep"] = w
            return "parent"
        @command
        def die(): os._exit(9)
        """
    )
    assert host.result("fork") == 0
    assert host.silent()
    # A child that lives on does not hold the channel open.
    assert host.result("fork_and_leave") == "parent"
    host.send(host.request("die"))
    assert host.read_line() == b""


def test_forked_child_does_not_serve_what_had_been_read_before(start: Start, tmp_path: Path) -> None:
    host = start(
        """
        import os
        @command
        def fork():
            pid = os.fork()
            return "child" if pid == 0 else os.waitpid(pid, 0)[1]
        @command
        def note(path):
            with open(path, "a") as file: file.write("x")
        """
    )
    path = tmp_path / "notes"
    first, second = host.request("fork"), host.request("note", [str(path)])
    host.write(b"%s\n%s\n" % (json.dumps(first).encode(), json.dumps(second).encode()))
    assert host.receive()["result"] == 0
    assert host.receive()["success"]
    assert path.read_text() == "x"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("name", ["worker.py", "json.py"])
def test_multiprocessing(start: Start, method: str, name: str) -> None:
    host = start(
        """
        import multiprocessing, os
        print("imported in", multiprocessing.current_process().name)
        def square(x): return x * x
        @command
        def squares(method):
            with multiprocessing.get_context(method).Pool(1) as pool:
                return pool.map(square, [1, 2, 3])
        """,
        name=name,
    )
    assert host.result("squares", [method]) == [1, 4, 9]
    assert host.result("squares", [method]) == [1, 4, 9]
    assert host.text().count("imported in MainProcess") == 1


def test_signals(start: Start) -> None:
    host = start(
        """
        import os, resource, signal
        @command
        def actions():
            kinds = [signal.getsignal(getattr(signal, n)) for n in ("SIGINT", "SIGTERM")]
            return [kinds[0] == signal.SIG_IGN, kinds[1] == signal.SIG_DFL, resource.getrlimit(resource.RLIMIT_CORE)[0]]
        @command
        def interrupt():
            os.kill(os.getpid(), signal.SIGINT)
            return "alive"
        """,
        preexec=lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    )
    assert host.result("actions") == [True, True, 0]
    assert host.result("interrupt") == "alive"
    os.kill(host.pid, signal.SIGTERM)
    assert host.wait() == -signal.SIGTERM


def test_stacks_upon_signal(start: Start, tmp_path: Path) -> None:
    host = start(
        """
        import time
        @command
        def stuck():
            print("stuck now", flush=True)
            time.sleep(60)
        """
    )
    host.send(host.request("stuck"))
    host.wait_stderr("stuck now")
    os.kill(host.pid, signal.SIGUSR1)
    text = b""
    while b"in serve" not in text:
        text += os.read(host.stack_r, 65536)
    assert b"in stuck" in text
    assert b"most recent call first" in text


def test_crash_leaves_a_trace(start: Start) -> None:
    host = start(
        """
        import ctypes, os
        @command
        def crash():
            os.close(2)
            ctypes.string_at(0)
        """
    )
    host.send(host.request("crash"))
    assert host.read_line() == b""
    assert host.wait() == -signal.SIGSEGV
    assert "in crash" in host.stderr()


def test_signal_handler_that_raises_late(start: Start) -> None:
    host = start(
        """
        import signal
        def ring(*_): raise TimeoutError("late")
        signal.signal(signal.SIGALRM, ring)
        @command
        def arm(): signal.setitimer(signal.ITIMER_REAL, 0.02)
        @command
        def echo(x): return x
        """
    )
    assert host.result("arm") is None
    assert host.silent(0.2)
    assert host.result("echo", [1]) == 1
    assert "late" in host.stderr()


def test_signal_handler_that_raises_while_a_result_is_written(start: Start) -> None:
    """Half of a result is out: no second answer may follow it."""
    host = start(
        """
        import signal
        def ring(*_): raise TimeoutError("late")
        signal.signal(signal.SIGUSR2, ring)
        @command
        def make(): return "x" * 10_000_000
        """
    )
    host.send(host.request("make"))
    first = os.read(host.fd_in, 10)  # it is writing now, and the pipe is full
    os.kill(host.pid, signal.SIGUSR2)
    assert host.wait() == 1
    rest = first + b"".join(iter(lambda: os.read(host.fd_in, 1 << 20), b""))
    assert rest.startswith(b'{"id":') and b"\n" not in rest and rest.count(b'"id"') == 1


def test_signals_that_strike_while_requests_are_read_lose_none(start: Start) -> None:
    """Each request is answered, or the worker ends: one that was read and forgotten would be waited for in vain."""
    source = """
        import signal
        def strike(*_): raise RuntimeError("struck")
        signal.signal(signal.SIGALRM, strike)
        @command
        def arm(seconds): signal.setitimer(signal.ITIMER_REAL, seconds)
        """
    host = start(source)
    for n in range(200):
        try:
            host.send(host.request("arm", [0.00001 + n % 37 * 0.000005]))
            host.receive()  # waits, for ever if need be
        except (BrokenPipeError, EOFError):
            assert host.wait() != 0
            host = start(source)
