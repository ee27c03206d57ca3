"""A worker that a fork server makes, with the few attributes of a subprocess.Popen that a Host uses."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import time
from pathlib import Path
from typing import IO, Any, Dict, List, Optional, Tuple

#: The numbers that the server finds its descriptors by.
FDS = {"stack_fd": 3, "page_fd": 4, "leash_fd": 5, "ask_fd": 6, "fork_fd": 7}
TIMEOUT = 30.0


def spawn(command: List[str], fds: List[int], preexec: Any = None, **options: Any) -> subprocess.Popen[bytes]:
    """An interpreter in a group of its own, which has these descriptors as 3, 4 and so on, and no others; with none of them it
    has what Popen leaves it.
    """

    def prepare() -> None:
        if fds:
            # Copies first, in rising numbers: none of them is written over before it has been copied itself
            for number, copy in enumerate([os.dup(fd) for fd in fds], 3):
                os.dup2(copy, number)
            os.closerange(3 + len(fds), 1024)
        if preexec is not None:
            preexec()

    ways: Dict[str, Any] = {"start_new_session": True, **options}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, bufsize=0, close_fds=not fds, preexec_fn=prepare, **ways)


class ForkServer:
    """A server process. `answer` is hello's, after which `fork` makes workers if it was a success."""

    def __init__(self, command: List[str], hello: Dict[str, Any], stderr: int, stacks: int, **options: Any) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(TIMEOUT)
        self.stderr = stderr
        self.held: List[int] = []  # our ends, which close with the server
        self.answer: Dict[str, Any] = {"success": False}
        ask, leash = self._pipes()
        page = os.memfd_create("page")
        os.ftruncate(page, 4096)
        self.process = spawn(command, [stacks, page, leash, ask, theirs.fileno()], stderr=stderr, **options)
        for fd in (ask, leash, page):
            os.close(fd)
        theirs.close()
        args = {**hello, **FDS, "pid": self.process.pid}
        assert self.process.stdin is not None and self.process.stdout is not None
        line = json.dumps({"id": 0, "command": "hello", "args": args}).encode() + b"\n"
        try:
            while line:
                line = line[self.process.stdin.write(line) or 0 :]
        except BrokenPipeError:
            pass  # which the answer tells
        if not select.select([self.process.stdout], [], [], TIMEOUT)[0]:
            self.close()
            raise TimeoutError("no answer from the fork server: " + self.said())
        answer = self.process.stdout.readline()
        if not answer:
            self.close()
            raise EOFError("the fork server is gone: " + self.said())
        self.answer = json.loads(answer)

    def said(self) -> str:
        return os.pread(self.stderr, 1 << 20, 0).decode("utf-8", "replace")

    def _pipes(self) -> Tuple[int, int]:
        """The child's ends of the pipe that asks for stacks, and of the leash."""
        ask, our_ask = os.pipe()
        our_leash, leash = os.pipe()
        self.held += [our_ask, our_leash]
        return ask, leash

    def ask(self, words: str, fds: Optional[List[int]] = None) -> str:
        socket.send_fds(self.socket, [words.encode()], fds or [])
        data = self.socket.recv(2048)
        assert data, "the fork server is gone: " + self.said()
        return data.decode()

    def wait_for_spare(self) -> None:
        """Return when the next worker is forked ahead."""
        end = time.monotonic() + TIMEOUT
        pid = self.process.pid
        while not Path("/proc/%d/task/%d/children" % (pid, pid)).read_text():
            assert time.monotonic() < end, "nothing is forked ahead: " + self.said()
            time.sleep(0.001)

    def fork(self, stacks: int, page: int, stderr: int) -> Forked:
        ask, leash = self._pipes()
        stdin, our_stdin = os.pipe()
        our_stdout, stdout = os.pipe()
        try:
            said = self.ask("fork", [stdin, stdout, stderr, stacks, ask, leash, page])
        finally:
            for fd in (stdin, stdout, ask, leash):
                os.close(fd)
        word, pid = said.split(" ", 1)
        assert word == "forked", said
        return Forked(self, int(pid), os.pidfd_open(int(pid)), os.fdopen(our_stdin, "wb", 0), os.fdopen(our_stdout, "rb", 0))

    def close(self) -> None:
        """Have the server leave, which takes its spare along."""
        self.socket.close()
        try:
            code = self.process.wait(TIMEOUT)
        finally:
            self.process.kill()
            self.process.wait()
            for stream in (self.process.stdin, self.process.stdout):
                assert stream is not None
                stream.close()
            for fd in self.held:
                os.close(fd)
        assert code == 0 or not self.answer["success"], "the fork server has left with %d: %s" % (code, self.said())


class Forked:
    def __init__(self, server: ForkServer, pid: int, handle: int, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self.server = server
        self.pid = pid
        self.handle = handle  # a pidfd
        self.stdin = stdin
        self.stdout = stdout
        self.returncode: Optional[int] = None

    def wait(self, timeout: float = TIMEOUT) -> int:
        if self.returncode is None:
            if not select.select([self.handle], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a forked worker", timeout)
            said = self.server.ask("reap %d" % self.pid)
            word, pid, status, user, system = said.split()
            assert (word, int(pid)) == ("reaped", self.pid) and int(user) + int(system) >= 0, said
            code = int(status)
            os.close(self.handle)
            self.returncode = -os.WTERMSIG(code) if os.WIFSIGNALED(code) else os.WEXITSTATUS(code)
        return self.returncode
