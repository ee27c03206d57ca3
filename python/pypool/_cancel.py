"""Stopping what runs, because its caller has gone.

The host writes the number of the last request that it wants stopped into the page (CANCELED), and
sends SIGURG, whose default is to be ignored, again and again until it has the final line. The
signal's handler raises `Canceled`, but only in code that a command runs: never in the runtime's own,
nor where that would break more than the call.
"""

from __future__ import annotations

import sys

from ._call import CALL, RUNNING, named
from ._life import STDLIB
from ._page import CANCELED, SHIELDED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, Callable, Optional

#: The modules that call what a user has written and take whatever that raises for its outcome.
ENTRIES = frozenset("pypool." + name for name in ("_async", "_batch", "_bind", "_columns", "_dispatch", "_stream", "_worker"))
#: The modules in which a handler waits for a function of the host's.
WAITING = ("pypool._host", "pypool._host_calls", "pypool._page", "pypool._replies")
#: An import that is broken off leaves half a module behind, a log record half a line and its lock.
HELD = frozenset(
    ("_frozen_importlib", "_frozen_importlib_external", "importlib._bootstrap", "importlib._bootstrap_external", "logging")
)


class Canceled(BaseException):
    """Raised in a handler whose caller has gone: its context has ended, or its time is over.

    It is no `Exception`, so that ``except Exception`` lets it pass; ``finally`` blocks and context
    managers run undisturbed. What the handler answers then reaches nobody. A coroutine gets an
    `asyncio.CancelledError` instead, a generator that waits for its next item a `GeneratorExit`.
    """


class _State:
    """`shields` counts the shields that request `owner` is in. `task` cancels the coroutine that
    runs, once; None when none runs. Then `current` tells the task whose code runs, and `own` is the
    call's.
    """

    page: Any = None
    waiting = False  # the main thread waits for a function of the host's, and has nothing in hand
    shields = 0
    owner = 0
    task: Optional[Callable[[], Any]] = None
    current: Any = None
    own: Any = None
    struck: Any = None  # the task of the call's beside its own in which Canceled has been raised last
    told = 0  # the request whose task has been cancelled
    skipped = 0  # chances to raise that were let pass, see _unprotected
    raised = 0  # the request whose own task has been told by now: it may clean up undisturbed


STATE = _State()
#: How often a loop may be found at its end before that does not matter any more: a quarter of a
#: second.
PATIENCE = 10


def install(page: Any) -> bool:
    """Have the host's signal stop what runs; whether that can be. Must be called in the main thread."""
    import _signal  # type: ignore[import-not-found]  # signal itself would import enum

    try:
        _signal.signal(_signal.SIGURG, _strike)
    except (AttributeError, OSError, ValueError):
        return False  # no such signal here
    STATE.page, RUNNING.canceled, RUNNING.strike = page, canceled, _strike_in
    return True


def canceled(id: int) -> bool:
    """Whether the host wants this request stopped."""
    return bool(STATE.page[CANCELED] == id)


class holding:
    """What is never interrupted, nor at its end. It counts for the call that enters it: one that is
    left open, in a thread perhaps, does not protect later calls.
    """

    def __enter__(self) -> None:
        self._task = task = RUNNING.task()
        if task is not None:
            task.shields += 1
        self._owner = _running()
        if STATE.owner != self._owner:
            STATE.owner, STATE.shields = self._owner, 0
        STATE.shields += 1
        _show()

    def __exit__(self, *_: Any) -> None:
        if self._task is not None:
            self._task.shields -= 1
        if STATE.owner == self._owner:
            STATE.shields -= 1
            _show()


class shield(holding):
    """Hold a cancellation off: ``with pypool.shield(): commit()``. It takes effect at the end of the
    block, and the host waits for that until its OperationTimeout, and Config.CancelGrace, are over.

    It protects code of the handler's main thread, or of its coroutine; other threads are not
    interrupted anyway.
    """

    def __exit__(self, kind: Any = None, *_: Any) -> None:
        super().__exit__()
        task = self._task
        if task is not None:
            if kind is None and not task.shields and task.canceled and not task.ended:
                task.task.cancel()
            return
        id = _running()
        if kind is None and id and id == self._owner and not STATE.shields and RUNNING.canceled(id):
            if STATE.task is not None:
                _cancel_task(id)
            else:
                raise Canceled("the caller has gone")


def _running() -> int:
    """The id of the request that runs, 0 when none does."""
    request = RUNNING.request
    return 0 if request is None else request[0]


def _show() -> None:
    if STATE.page is not None:
        STATE.page[SHIELDED] = STATE.shields


def _strike(signum: int, frame: Optional[FrameType]) -> None:
    id = _running()
    if not id or not RUNNING.canceled(id):
        return  # nothing runs, or something else: the signal came late
    if STATE.owner != id:
        STATE.owner, STATE.shields = id, 0
        _show()
    if STATE.shields:
        return
    if STATE.task is not None and STATE.told != id:
        _cancel_task(id)
    elif _may_raise(frame):
        current = None if STATE.task is None else STATE.current()
        if STATE.task is None or current is STATE.own:
            STATE.raised = id
        elif STATE.raised == id:
            return  # its own task cleans up, with the help of this one perhaps
        else:
            STATE.struck = current  # which says nothing of the call's own task, see `_async`
        raise Canceled("the caller has gone")


def _strike_in(frame: FrameType) -> None:
    """Strike the code that has called the runtime's own, in which the signals found it."""
    _strike(0, frame)


def enter(func: Callable[..., Any], positional: Any, keyword: Any) -> Any:
    """Call what may be C code, which has no frame of its own to be interrupted in."""
    return func(*positional, **keyword)


def _cancel_task(id: int) -> None:
    STATE.told = id
    if STATE.task is not None:
        STATE.task()


def _may_raise(frame: Optional[FrameType]) -> bool:
    """Whether what is interrupted is code of the running command's, and not its cleaning up after
    this very cancellation.
    """
    if STATE.task is not None and not _is_its():
        return False
    error = sys.exc_info()[1]
    while error is not None:
        if isinstance(error, (Canceled, GeneratorExit)) or type(error).__name__ == "CancelledError":
            return False
        error = error.__context__
    inner = frame
    while STATE.waiting and frame is not None and frame.f_globals.get("__name__") in WAITING:
        frame = frame.f_back
    while frame is not None:
        name = frame.f_globals.get("__name__")
        if name in HELD or (STATE.task is not None and _is_asyncio(name)):
            return False
        if type(name) is str and name.startswith("pypool."):
            entered = frame.f_code is enter.__code__ or (frame is not inner and name in ENTRIES)
            return entered and not _unprotected(inner)
        if STATE.task is not None and not _is_library(frame):
            return not _unprotected(inner)
        frame = frame.f_back
    return False


def _is_its() -> bool:
    """Whether it is code of the running call's that the event loop runs here, and not of a task that
    another one, or a setup, has left in it: a signal's handler has the context of what it interrupts.
    """
    request, known = RUNNING.request, CALL.get(None)
    return request is not None and known is not None and known[0] == named(request)[0]


def _endless() -> None:
    while True:
        pass


#: The instruction that ends a loop.
JUMP_BACK = [code for code in _endless.__code__.co_code[::2] if code][-1]


def _unprotected(frame: Any) -> bool:
    """Whether it stands at the end of a loop. Since Python 3.13 the jump back from the last one in a
    try block is outside of that block: what is raised there passes its finally by. A loop that is
    found nowhere else is interrupted all the same.
    """
    if sys.version_info < (3, 13) or frame.f_code.co_code[frame.f_lasti] != JUMP_BACK:
        return False
    STATE.skipped += 1
    return STATE.skipped % PATIENCE != 0


def _is_asyncio(name: Any) -> bool:
    return type(name) is str and name.partition(".")[0] in ("asyncio", "selectors", "uvloop")


def _is_library(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(STDLIB) and "site-packages" not in frame.f_code.co_filename
