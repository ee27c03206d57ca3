"""Room on the stack: what the runtime does in the midst of a handler's calls must not end for lack
of frames where something has been read, and would be lost, or a module is half imported.
"""

from __future__ import annotations

import sys
from _thread import allocate_lock, start_new_thread
from sys import _getframe, getrecursionlimit

from ._finder import imported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List

#: Frames that a call of the host's takes at most, with the imports of modules of our own.
CALL = 80
#: Frames that an import of a large library takes: NumPy's has 150.
IMPORT = 400
#: The libraries that are not there, by what imports went by: to look for one takes longer than an
#: array does.
_ABSENT: Dict[str, Any] = {}


def deep() -> bool:
    """Whether the stack may be what is too deep, and not what lies at hand."""
    try:
        _getframe(getrecursionlimit() // 4)
    except ValueError:
        return False  # there are not so many
    return True


def need(frames: int) -> None:
    """Raise RecursionError where fewer frames are left, now, while nothing can be lost by it."""
    if deep():
        _descend(frames)


def _descend(frames: int) -> None:
    if frames:
        _descend(frames - 1)


def library(name: str) -> Any:
    """A library, imported for what travels; by a thread, which has a stack of its own, where a handler
    stands too deep in its calls: many cannot be imported again after an import that has failed.
    """
    if imported(name) is not None:
        return __import__(name)
    ways = _ways()
    if _ABSENT.get(name, ()) == ways:
        raise ModuleNotFoundError("No module named %r" % name, name=name)
    try:
        if deep() or getrecursionlimit() < 2 * IMPORT:
            try:
                _descend(IMPORT)
            except RecursionError:
                return _by_a_thread(name)
        return __import__(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            _ABSENT[name] = ways
        raise


def _ways() -> Any:
    """What imports go by."""
    try:
        return tuple(sys.path), tuple(sys.meta_path)
    except Exception:
        return None  # a script has put something odd in their place


def _by_a_thread(name: str) -> Any:
    found: List[Any] = []
    failures: List[BaseException] = []
    done = allocate_lock()
    done.acquire()

    def run() -> None:
        try:
            found.append(__import__(name))
        except BaseException as error:
            failures.append(error)
        finally:
            done.release()

    start_new_thread(run, ())
    done.acquire()
    if failures:
        raise failures[0]
    return found[0]
