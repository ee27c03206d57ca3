"""What the servers among the peers share: they say where they listen, and end with the benchmark."""

import os
import sys
import threading


def listening(port: int) -> None:
    """Tell the benchmark the port on its pipe; when that pipe's other half ends, so does this process."""

    def watch() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
    print(port, flush=True)
