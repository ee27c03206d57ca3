"""A ZeroMQ REP socket at argv[1], one process. A request is two frames: the way, and what comes with it."""

import sys
from functools import lru_cache

import zmq
from peer import listening


@lru_cache(maxsize=1)
def zeros(size: int) -> bytes:
    """Make so many bytes."""
    return bytes(size)


socket = zmq.Context().socket(zmq.REP)
socket.bind(sys.argv[1])
listening(0)
while True:
    way, body = socket.recv_multipart(copy=False)  # frames: the bytes themselves are not copied
    if way.bytes == b"in":
        socket.send(str(len(body.buffer)).encode())
    elif way.bytes == b"out":
        socket.send(zeros(int(body.bytes)), copy=False)
    else:
        socket.send(body, copy=False)
