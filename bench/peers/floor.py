"""The floor: send each message of argv[1] bytes back. No JSON, no lines."""

import os
import sys

size = int(sys.argv[1])

while True:
    data = os.read(0, min(size, 1 << 20))
    if not data:
        break
    if len(data) < size:  # larger than the pipe: the whole of it first, or both sides wait with full pipes
        parts, left = [data], size - len(data)
        while left:
            data = os.read(0, min(left, 1 << 20))
            if not data:
                sys.exit(1)
            parts.append(data)
            left -= len(data)
        data = b"".join(parts)
    sent = os.write(1, data)
    while sent < size:
        sent += os.write(1, memoryview(data)[sent:])
