"""A small host: starts the runtime exactly as the Go side does and speaks the wire to it."""

from __future__ import annotations

import array
import base64
import fcntl
import functools
import json
import os
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
import zlib
from pathlib import Path
from typing import Any, Dict, List, Optional, Union

from forked import Forked, ForkServer, spawn

PACKAGE = Path(__file__).resolve().parents[1] / "pypool"
VERSION = re.findall(r'__version__ = "(.*)"', (PACKAGE / "__init__.py").read_text())[0]
TIMEOUT = 30.0
#: Whether workers are forked where a test does not decide, or start one in a way of its own.
FORKED = os.environ.get("PYPOOL_TEST_SOURCE") == "forkserver" and hasattr(os, "pidfd_open")
#: The word of the records on stderr. A real host takes a fresh one for each worker.
WORD = "SECRETWORD"


@functools.lru_cache(maxsize=None)  # it takes longer than a worker's start
def packed_runtime() -> str:
    """The sources that hello carries, packed as the Go side packs them: every module but the bootstrap and the command line."""
    skip = ("_boot", "__main__", "_packages")
    sources = {path.stem: without_notes(path.read_text("ascii")) for path in PACKAGE.glob("*.py") if path.stem not in skip}
    return base64.b64encode(zlib.compress("\0".join(text for pair in sources.items() for text in pair).encode())).decode()


def without_notes(source: str) -> str:
    """A module without comments, docstrings, and what is for type checkers alone; each line keeps its number."""
    lines, checking, doc = source.split("\n"), False, False
    for i, line in enumerate(lines):
        text = line.strip()
        checking = line == "if TYPE_CHECKING:" or (checking and line[:1] in ("", " "))
        if doc:
            doc = not text.endswith('"""')
            lines[i] = ""
        elif text.startswith('"""'):
            doc = text == '"""' or not text.endswith('"""')
            lines[i] = line[: line.index('"""')] + '""'
        elif checking or text.startswith("#"):
            lines[i] = ""
    return "\n".join(lines)


class Host:
    """One worker process. `lines` of its stdout are read with a deadline; stderr goes to a file."""

    def __init__(
        self,
        script: Optional[str] = None,
        *,
        module: Optional[str] = None,
        python: str = sys.executable,
        env: Optional[Dict[str, str]] = None,
        cwd: Optional[str] = None,
        hello: bool = True,
        extras: bool = True,
        preexec: Any = None,
        leader: bool = True,
        prelude: str = "",
        forked: Optional[bool] = None,
        server: Optional[ForkServer] = None,
        ahead: bool = False,
        **args: Any,
    ) -> None:
        """A forked worker is one of `server`'s if that is given; `ahead`: one that was forked ahead."""
        command = [python, "-I", "-u", "-X", "faulthandler", "-c", prelude + (PACKAGE / "_boot.py").read_text("ascii")]
        self.stderr_file = tempfile.TemporaryFile()
        self.page = tempfile.TemporaryFile()
        self.page.write(bytes(4096))
        self.page.flush()
        self.stack_r, stack_w = os.pipe()
        os.set_blocking(stack_w, False)
        self._buffer = b""
        self._id = 1000
        self.hello: Dict[str, Any] = {}
        self.hello_args: Dict[str, Any] = {
            "protocol": [1],
            "version": VERSION,
            "capabilities": ["stream", "page", "log", "packed"],
            "pool": "pypool",
            "worker_id": "w1",
            "max_message_bytes": 1 << 26,
            "script": script,
            "module": module,
            "args": [],
            "log_level": 20,
            "runtime": packed_runtime(),
            "log_word": WORD,
            **args,
        }
        if forked is None:
            forked = FORKED and hello and extras and leader and preexec is None and not prelude
        self.process: Union[subprocess.Popen[bytes], Forked]
        self.server: Optional[ForkServer] = None  # its own
        if forked or server is not None:
            if server is None:
                server = ForkServer(command, self.hello_args, self.stderr_file.fileno(), stack_w, env=env, cwd=cwd)
                self.server = server
            if server.answer["success"]:
                if ahead:
                    server.wait_for_spare()
                self.process = server.fork(stack_w, self.page.fileno(), self.stderr_file.fileno())
                self.hello_args["pid"] = self.process.pid
                del self.hello_args["runtime"]
            else:
                self.process, self.hello = server.process, server.answer
        else:
            fds = [stack_w, self.page.fileno()] if extras else []
            options: Dict[str, Any] = {"start_new_session": leader, "env": env, "cwd": cwd}
            self.process = spawn(command, fds, preexec, stderr=self.stderr_file, **options)
            self.hello_args.update({"pid": self.process.pid, **({"stack_fd": 3, "page_fd": 4} if extras else {}), **args})
        os.close(stack_w)
        assert self.process.stdin is not None and self.process.stdout is not None
        self.fd_in = self.process.stdout.fileno()
        self.fd_out = self.process.stdin.fileno()
        self.pid = self.process.pid
        if hello and not self.hello:
            self.say_hello()

    # -- wire

    def say_hello(self) -> Dict[str, Any]:
        self.send({"id": 0, "command": "hello", "args": self.hello_args})
        self.hello = self.receive()
        return self.hello

    def send(self, value: Any) -> None:
        self.write(json.dumps(value, separators=(",", ":")).encode() + b"\n")

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self.fd_out, view) :]

    def read_line(self, timeout: float = TIMEOUT) -> bytes:
        """One line without its newline; b"" at end of file."""
        deadline = time.monotonic() + timeout
        parts = [self._buffer]
        while b"\n" not in parts[-1]:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.fd_in], [], [], left)[0]:
                raise TimeoutError("no answer; stderr: " + self.stderr())
            chunk = os.read(self.fd_in, 1 << 20)
            if not chunk:
                return b""
            parts.append(chunk)
        line, self._buffer = b"".join(parts).split(b"\n", 1)
        return line

    def receive(self) -> Any:
        line = self.read_line()
        if not line:
            raise EOFError("the worker is gone; stderr: " + self.stderr())
        assert line.isascii()
        return json.loads(line)

    def silent(self, seconds: float = 0.05) -> bool:
        """Whether nothing more comes: no byte within this time, or the end."""
        if not self._buffer and select.select([self.fd_in], [], [], seconds)[0]:
            self._buffer = os.read(self.fd_in, 1 << 16)
        return not self._buffer

    def request(self, command: str, args: Any = None, **more: Any) -> Dict[str, Any]:
        self._id += 1
        request = {"id": self._id, "command": command}
        if args is not None:
            request["args"] = args
        request.update(more)
        return request

    def call(self, command: str, args: Any = None, **more: Any) -> Dict[str, Any]:
        """Send, and the final answer; fails upon items."""
        request = self.request(command, args, **more)
        self.send(request)
        answer: Dict[str, Any] = self.receive()
        assert answer["id"] == request["id"], answer
        assert "item" not in answer
        return answer

    def result(self, command: str, args: Any = None, **more: Any) -> Any:
        answer = self.call(command, args, **more)
        assert answer["success"], (answer, self.stderr())
        return answer["result"]

    def error(self, command: str, args: Any = None, **more: Any) -> Dict[str, Any]:
        answer = self.call(command, args, **more)
        assert not answer["success"], answer
        error: Dict[str, Any] = answer["error"]
        return error

    def stream(self, command: str, args: Any = None, **more: Any) -> List[Dict[str, Any]]:
        """All frames of a streamed call; the final one last."""
        self.send(self.request(command, args, stream=True, **more))
        frames = [self.receive()]
        while "item" in frames[-1]:
            frames.append(self.receive())
        return frames

    def cancel(self, id: int) -> Dict[str, Any]:
        """Stop what runs as the host does, by signals until it has the final line. It needs the capability `cancel`."""
        os.pwrite(self.page.fileno(), struct.pack("=Q", id), 88)
        deadline, pause = time.monotonic() + TIMEOUT / 3, 0.001
        answer: Dict[str, Any] = {"item": None}
        while "item" in answer:
            while b"\n" not in self._buffer and time.monotonic() < deadline:
                os.kill(self.pid, signal.SIGURG)
                if select.select([self.fd_in], [], [], pause)[0]:
                    break
                pause = min(pause * 2, 0.05)
            answer = self.receive()
        os.pwrite(self.page.fileno(), bytes(8), 88)
        assert answer["id"] == id
        return answer

    # -- process

    def unread(self) -> int:
        """How many bytes of what was written the worker has not read: the proof of what did not begin."""
        count = array.array("i", [0])
        fcntl.ioctl(self.fd_out, termios.FIONREAD, count)
        return count[0]

    def worked(self) -> int:
        return self._word(0)

    def spin(self, ns: int, keep_cpu: bool = False) -> None:
        os.pwrite(self.page.fileno(), struct.pack("=Q", ns), 64)
        os.pwrite(self.page.fileno(), struct.pack("=Q", keep_cpu), 72)

    def ring(self) -> None:
        os.pwrite(self.page.fileno(), struct.pack("=Q", self._word(80) + 1), 80)

    def _word(self, offset: int) -> int:
        number: int = struct.unpack("=Q", os.pread(self.page.fileno(), 8, offset))[0]
        return number

    def stderr(self) -> str:
        fd = self.stderr_file.fileno()  # read without moving the offset: the worker writes at the same one
        return os.pread(fd, os.fstat(fd).st_size, 0).decode("utf-8", "replace")

    def records(self) -> List[Dict[str, Any]]:
        """The records of logging, put together as the host does."""
        mark, pieces, found = "\x1epypool:" + WORD, {}, []  # type: ignore[var-annotated]
        for line in self.stderr().split("\n"):
            head, printed, _ = line[line.find(mark) + len(mark) :].partition("\x1f")
            if mark not in line or printed:
                continue
            if head[0] in "+=":
                key, _, text = head[1:].partition(":")
                pieces[key] = pieces.get(key, "") + text
                if head[0] == "+":
                    continue
                head = pieces.pop(key)
            found.append(json.loads(head))
        return found

    def printed(self) -> List[Dict[str, Any]]:
        """The lines that were printed, with what they say of themselves, put together as the host does."""
        mark, begun, found = "\x1epypool:" + WORD, {}, []  # type: ignore[var-annotated]
        for line in self.stderr().split("\n"):
            before, known, rest = line.partition(mark)
            if before:
                found.append({"text": before, "raw": True})
            head, printed, text = rest.partition("\x1f")
            if not known or not printed:
                continue
            fields = json.loads(head)
            key, more = fields.pop("line", None), fields.pop("more", False)
            fields["text"] = text
            if key is not None:
                if key not in begun and not text and not more:
                    continue  # it was ended before
                begun.setdefault(key, fields)
                if begun[key] is not fields:
                    begun[key]["text"] += text
                if not more:
                    found.append(begun.pop(key))
            else:
                found.append(fields)
        return found

    def text(self) -> str:
        """What was printed and written past the runtime, without marks."""
        return "\n".join(line["text"] for line in self.printed())

    def wait_stderr(self, text: str, timeout: float = TIMEOUT) -> None:
        """Return when the worker has written this."""
        deadline = time.monotonic() + timeout
        while text not in self.stderr():
            if time.monotonic() > deadline:
                raise TimeoutError(self.stderr())
            time.sleep(0.002)

    def close_stdin(self) -> None:
        """What the host's death looks like to the worker."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def wait(self, timeout: float = TIMEOUT) -> int:
        return self.process.wait(timeout)

    def shutdown(self) -> int:
        assert self.call("shutdown")["success"]
        return self.wait()

    def close(self) -> None:
        for kill in (os.killpg, os.kill):
            try:
                kill(self.pid, signal.SIGKILL)
            except OSError:
                pass  # it is gone, or leads no group
        try:
            self.process.wait()
        finally:
            for stream in (self.process.stdin, self.process.stdout):
                if stream is not None:
                    stream.close()
            if self.server is not None:
                self.server.close()
            self.stderr_file.close()
            self.page.close()
            os.close(self.stack_r)

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()
