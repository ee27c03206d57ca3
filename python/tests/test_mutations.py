"""Whatever a line says, the loop answers it in form, at most once, and is there for the next one.

The lines are requests of the transcripts, mutated at random. PYPOOL_MUTATIONS sets how many, PYPOOL_SEED where they begin; a run
that fails names the line, which then belongs into KNOWN.
"""

from __future__ import annotations

import os
import random
import re
from typing import List

from host import Host
from test_transcripts import TESTDATA, TRANSCRIPTS, lines_of

COUNT = int(os.environ.get("PYPOOL_MUTATIONS", "1500"))
FIRST = int(os.environ.get("PYPOOL_SEED", "1"))
#: Lines that once were too much.
KNOWN: List[bytes] = [
    b'{"shared":{"id":1,"command":"add","args":[1]}',  # its missing end was looked for again and again
    b'{"id":{"commandR:"brokennd":"add","args":{"a":2,"b":3}}',  # json.decoder was not loaded: SystemError, and no answer
]

REQUESTS = sorted(
    {
        text.encode()
        for path in TRANSCRIPTS
        for mark, text in lines_of(path)
        if mark == ">" and '"hello"' not in text and "shutdown" not in text
    }
)
TOKENS = [
    b'"', b"{", b"}", b"[", b"]", b",", b":", b"null", b"true", b"1e999", b"-0", b"1" * 400, b"NaN", b"18446744073709551616",
    b"\\ud800", b"\\u0000", b"\xff", b"\xc3", b"\r", b"\x00", b" ", b"\t", b"\xe2\x80\xa8", b"[" * 2000, b'{"a":' * 1200,
    b'"id":', b',"id":7', b',"args":', b',"command":"echo"', b',"stream":true', b',"cancel":true', b',"timeout_ms":0',
    b',"session_id":"s"',
]  # fmt: skip


def mutant(seed: int) -> bytes:
    source = random.Random(seed)
    line = bytearray(source.choice(REQUESTS))
    for _ in range(source.choice((1, 1, 2, 3, 8))):
        at = source.randrange(len(line) + 1)
        end = min(len(line), at + source.choice((1, 2, 5, 40)))
        kind = source.randrange(6)
        if kind == 0:
            line[at:at] = source.choice(TOKENS)
        elif kind == 1:
            line[at:end] = source.choice(TOKENS)
        elif kind == 2:
            del line[at:end]
        elif kind == 3:
            line[at:end] = bytes(source.randrange(256) for _ in range(end - at))
        elif kind == 4:
            line[at:at] = line[at:end] * source.randrange(4)
        else:
            other = source.choice(REQUESTS)
            line[at:] = other[source.randrange(len(other)) :]
    return bytes(line).replace(b"\n", b"")


class Exchange:
    """A worker, and what it has been asked."""

    def __init__(self) -> None:
        self.host = Host(str(TESTDATA / "workers" / "transcript.py"), log_level=50)

    def survive(self, seed: int, line: bytes) -> None:
        self.host._id += 1
        proof = {"id": self.host._id, "command": "echo", "args": ["proof"]}
        self.host.write(line + b"\n")
        shared = line.startswith(b'{"shared":')
        for id in re.findall(rb'"id":\s*(\d{1,20})', line) if shared else ():
            self.host.write(b'{"id":%s,"cancel":true}\n' % id)  # a stream waits for credit
        self.host.send(proof)
        finals = items = 0
        while True:
            frame = self.host.receive()
            if frame["id"] == proof["id"] and "item" not in frame:
                assert frame == {"id": proof["id"], "success": True, "result": "proof"}, (seed, line, frame)
                break
            if "item" in frame:
                assert set(frame) == {"id", "item"}, (seed, line, frame)
                items += 1
                if items == 20:  # a stream without end; its end must not wait for the proof, which stands behind the cancel then
                    self.host.send({"id": frame["id"], "cancel": True})
                continue
            finals += 1
            assert set(frame) == {"id", "success", "result" if frame["success"] else "error"}, (seed, line, frame)
            if not frame["success"]:
                assert frame["error"]["kind"] != "internal", (seed, line, frame)
                assert frame["error"]["message"] or shared, (seed, line, frame)
        assert finals <= (line.count(b"{") if line.startswith(b'{"batch":[') else 1), (seed, line)

    def close(self) -> None:
        self.host.close()


def test_lines_mutated_at_random() -> None:
    exchange = Exchange()
    try:
        for line in KNOWN:
            exchange.survive(0, line)
        for seed in range(FIRST, FIRST + COUNT):
            exchange.survive(seed, mutant(seed))
    finally:
        exchange.close()
