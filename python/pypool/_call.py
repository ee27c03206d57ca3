"""The call that is running. A worker that is not shared runs one at a time, so one global tells it, to
every thread of the handler too. Of the calls that a shared one runs side by side contexts tell.
"""

from __future__ import annotations

from time import monotonic

try:
    from _contextvars import ContextVar
except ImportError:
    from contextvars import ContextVar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional, Tuple

    from ._wire import Request


class Call:
    """What a handler may know about the call it serves. Read only."""

    __slots__ = ("id", "session_id", "deadline", "trace")

    def __init__(
        self, id: int, session_id: Optional[str] = None, deadline: Optional[float] = None, trace: Optional[str] = None
    ) -> None:
        #: The request's number, unique in this process.
        self.id = id
        #: The session label the caller gave; None for an anonymous call.
        self.session_id = session_id
        #: When the caller's patience ends, on the clock of ``time.monotonic()``, in seconds; None
        #: without a deadline. The worker is killed a little later, whatever it does.
        self.deadline = deadline
        #: The W3C traceparent of the caller; None when it sent none.
        self.trace = trace

    @property
    def canceled(self) -> bool:
        """Whether the caller has gone, and the call is to stop: for loops that look for themselves,
        in a thread or under `pypool.shield`.
        """
        task = RUNNING.tasks.get(self.id)
        return RUNNING.canceled(self.id) if task is None else task.canceled

    def remaining(self) -> Optional[float]:
        """Seconds until the deadline, never below 0.0; None without a deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - monotonic())

    def __repr__(self) -> str:
        return "Call(id=%r, session_id=%r, deadline=%r)" % (self.id, self.session_id, self.deadline)


def _never(id: int) -> bool:
    return False


class _Running:
    """The loop stores what it has at hand; a Call is made of it only for those who ask."""

    __slots__ = ("request", "began", "canceled", "tasks")

    def __init__(self) -> None:
        self.request: Optional[Request] = None
        self.began = 0  # monotonic_ns()
        self.canceled: Callable[[int], bool] = _never  # by id; where the host can say so, `_cancel`'s
        self.tasks: Dict[int, TaskCall] = {}  # by id, the calls of a shared worker

    def task(self) -> Optional[TaskCall]:
        """The call, of those side by side, whose code runs here."""
        known: Any = CALL.get(None) if self.tasks else None
        return None if known is None else self.tasks.get(known[0])


class TaskCall:
    """One of several calls side by side, each a task of the loop's."""

    __slots__ = ("request", "began", "task", "canceled", "shields", "credit", "wanted", "items", "ended")

    def __init__(self, request: Request, began: int) -> None:
        self.request = request
        self.began = began
        self.task: Any = None
        self.canceled = False  # its caller has gone
        self.shields = 0
        self.credit = 0  # items that the host takes now
        self.wanted: Any = None  # a future that waits for more credit
        self.items: Any = None  # the generator of a stream
        self.ended = False  # its final line is made


#: What a worker serves while it is shared, for those who ask whether it serves. No request has this
#: id.
SHARED_REQUEST: Request = (1 << 64, "", None, None, None, False, None)

RUNNING = _Running()
#: Id, session and command of the call for which a task of asyncio was made. Elsewhere it has no
#: value: the loop saves the time.
CALL: ContextVar[Optional[Tuple[int, Optional[str], str]]] = ContextVar("pypool_call")


def current_call() -> Call:
    """The call that is being served. Raises LookupError outside a call: at import, in a setup, in
    what a call left behind.
    """
    request: Any = RUNNING.request
    began = RUNNING.began
    known: Any = CALL.get(None)
    if request is SHARED_REQUEST:
        task = RUNNING.task()
        if task is None:
            raise LookupError(
                "current_call() works in a concurrent command's own tasks, and until its end: a thread gets it handed over"
            )
        request, began = task.request, task.began
    if request is None or (known is not None and known[0] != request[0]):
        raise LookupError("no call is running: current_call() works inside a command or a program only")
    id, _, _, session_id, timeout_ms, _, trace = request
    deadline = None if timeout_ms is None else began / 1e9 + timeout_ms / 1000.0
    return Call(id, session_id, deadline, trace)
