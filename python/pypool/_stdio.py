"""sys.stdout and sys.stderr of a worker, until somebody writes to them: then `_output` takes over,
see there.
"""

from __future__ import annotations

import sys
from _io import FileIO, TextIOWrapper
from _thread import get_ident
from os import fstat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Tuple

#: The keys of lines that were begun and not ended, by descriptor, `_output.flow`, and the call's id
#: where several run side by side, else 0.
OPEN: Dict[Tuple[int, int, int], int] = {}


class _Log:
    mark = b""  # begins each line of the runtime's own; empty while the host has told no word
    err = 2  # the private copy of stderr
    file: Any = None  # what it refers to
    thread = 0  # the loop's
    looping = False  # its event loop runs: whose callback it is, contexts tell, see `_async`
    forked = False


LOG = _Log()


class Printed(FileIO):
    """Descriptor 1 or 2. While it is the worker's stderr, each line says which call has printed it."""

    known: Any = (), ""  # the call that has printed last, and what its lines begin with


def mark(word: str, err: int) -> None:
    """Learn how the host knows this worker's own lines, and which file it reads."""
    found = fstat(err)
    LOG.mark, LOG.file = b"\x1epypool:" + word.encode(), (found.st_dev, found.st_ino)


def install(word: str, err: int, write: Callable[[Any, Any], int]) -> None:
    """Put streams in the place of sys.stdout and sys.stderr. They are as before, but for where the
    bytes go: to `write`, which is `_output.write_text` or loads it.
    """
    LOG.err, LOG.thread = err, get_ident()
    Printed.write = write  # type: ignore[method-assign]
    if not word:
        return
    mark(word, err)
    for name, fd in (("stdout", 1), ("stderr", 2)):
        old = getattr(sys, name)
        if type(old) is not TextIOWrapper:
            continue  # closed when the process began; or some sitecustomize's own
        raw: Any = Printed(fd, "w", closefd=False)
        raw.name = "<%s>" % name
        new: Any = TextIOWrapper(raw, old.encoding, old.errors, "\n", False, True)
        new.mode = "w"
        setattr(sys, name, new)
        setattr(sys, "__%s__" % name, new)
