"""The call that is running. A worker that is not shared runs one at a time, so one global tells it, to
every thread of the handler too. Of the calls that a shared one runs side by side contexts tell.
"""

from __future__ import annotations

from _thread import get_ident
from time import monotonic

try:
    from _contextvars import ContextVar
except ImportError:
    from contextvars import ContextVar

from . import _finder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

    from ._wire import Request


class Call:
    """What a handler may know about the call it serves. Read only."""

    __slots__ = ("id", "session_id", "deadline", "trace", "_serving")

    def __init__(
        self, id: int, session_id: Optional[str] = None, deadline: Optional[float] = None, trace: Optional[str] = None
    ) -> None:
        #: The request's number, unique in this process.
        self.id = id
        #: The session label the caller gave; None for an anonymous call.
        self.session_id = session_id
        #: When the caller's patience ends, on the clock of ``time.monotonic()``, in seconds; None
        #: without a deadline. Then `Canceled` is raised in the handler; a worker whose handler does
        #: not stop within the host's CancelGrace is killed.
        self.deadline = deadline
        #: The W3C traceparent of the caller; None when it sent none.
        self.trace = trace
        #: What the host knows it by while it runs: the number of its batch, or its own.
        self._serving = id

    @property
    def canceled(self) -> bool:
        """Whether the caller has gone (of a batch: all callers), and the call is to stop: for loops
        that look for themselves, in a thread or under `pypool.shield`.
        """
        task = RUNNING.tasks.get(self.id)
        return RUNNING.canceled(self._serving) if task is None else task.canceled

    @property
    def host(self) -> Any:
        """`pypool.host` for this very call, in whatever thread: once the call is over, its functions
        raise LookupError.
        """
        return RUNNING.host(self._serving)

    def remaining(self) -> Optional[float]:
        """Seconds until the deadline, never below 0.0; None without a deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - monotonic())

    def __repr__(self) -> str:
        return "Call(id=%r, session_id=%r, deadline=%r)" % (self.id, self.session_id, self.deadline)


class Worker:
    """This process, as its host knows it. Read only."""

    __slots__ = ("id", "slot")

    def __init__(self, id: str = "", slot: int = 0) -> None:
        #: Its name in the host's log; empty where there is no host.
        self.id = id
        #: Its place in the pool, 0 to Size-1, and beyond that for overflow; whoever replaces it has
        #: the same.
        self.slot = slot

    def __repr__(self) -> str:
        return "Worker(id=%r, slot=%r)" % (self.id, self.slot)


class _This:
    """The worker that this process is, as far as that has been asked, or told. `many`: it is a fork
    server, which imports for workers that are still to come.
    """

    worker: Optional[Worker] = None
    many = False


THIS = _This()


def current_worker() -> Worker:
    """The worker that this is, also at import and in a setup: ``current_worker().slot`` is what the
    host's WorkerEnv was called with. Where there is no host, its slot is 0.

    Raises LookupError at import in a fork server, which imports once for all workers: a setup runs
    in each.
    """
    if THIS.many:
        raise LookupError("the script is imported once for all workers (Config.ForkServer): ask in a @setup, or in a command")
    if THIS.worker is None:
        finder = _finder.installed()  # multiprocessing's children have the worker's
        THIS.worker = Worker(*(finder.worker if finder is not None else ()))
    return THIS.worker


def _never(id: int) -> bool:
    return False


def _nothing(frame: Any) -> None:
    pass


def _nobody(id: int) -> Any:
    raise LookupError("there is no host: this is no worker's own process")


class _Running:
    """The loop stores what it has at hand; a Call is made of it only for those who ask. While a batch
    runs, `request` is one of no arguments with the highest of its ids, and `calls` are its requests;
    else those are None.
    """

    __slots__ = ("request", "calls", "began", "canceled", "strike", "host", "retires", "tasks", "loop", "telemetry")

    def __init__(self) -> None:
        self.request: Optional[Request] = None
        self.calls: Optional[Sequence[Request]] = None
        self.began = 0  # monotonic_ns()
        self.host: Callable[[int], Any] = _nobody  # by id, `_host`'s
        self.retires: Callable[[int], bool] = _never  # by id, whether it asks for a successor; `_retire`'s
        self.canceled: Callable[[int], bool] = _never  # by id; where the host can say so, `_cancel`'s
        self.strike: Callable[[Any], None] = _nothing  # stop what runs, in this frame; `_cancel`'s
        self.tasks: Dict[int, TaskCall] = {}  # by id, the calls of a shared worker
        self.loop: Any = None  # `_tasks`' own, that serves them; None: the worker is not shared
        self.telemetry: Any = None  # `_telemetry`'s, once a script has imported OpenTelemetry's API

    def task(self) -> Optional[TaskCall]:
        """The call, of those side by side, whose code runs here."""
        known: Any = CALL.get(None) if self.tasks else None
        return None if known is None else self.tasks.get(known[0])


class TaskCall:
    """One of several calls side by side, each a task of the loop's."""

    __slots__ = ("request", "began", "task", "canceled", "shields", "credit", "wanted", "items", "ended", "retires")

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
        self.retires = False  # it has asked that this worker be replaced


#: What a worker serves while it is shared, for those who ask whether it serves. No request has this
#: id.
SHARED_REQUEST: Request = (1 << 64, "", None, None, None, False, None)

RUNNING = _Running()
#: `named` of the call for which a task of asyncio was made. Elsewhere it has no value: the loop saves
#: the time.
CALL: ContextVar[Optional[Tuple[int, Optional[str], str]]] = ContextVar("pypool_call")


def enter_task(request: Request) -> None:
    """Make the call of a task's the one of this context."""
    CALL.set((request[0], request[3], request[1]))
    if request[6] is not None and RUNNING.telemetry is not None:
        RUNNING.telemetry.enter(request[6])


def named(request: Request) -> Tuple[int, Optional[str], str]:
    """Id, session and command of what runs; of a batch the highest id, negated: it is no call's."""
    return (request[0] if RUNNING.calls is None else -request[0], request[3], request[1])


def current_call() -> Call:
    """The call that is being served. Raises LookupError outside a call: at import, in a setup, in
    what a call left behind; and in a batch, which serves several (see `current_calls`).
    """
    request = _running("current_call")
    if RUNNING.calls is not None:
        raise LookupError("a batch is running: current_calls() lists its calls")
    return _call_of(request)


def current_calls() -> List[Call]:
    """The calls that are being served: in a batch command those of the batch, in the order of the
    entries of its lists; elsewhere the one of `current_call`. Raises LookupError outside a call.
    """
    request = _running("current_calls")
    calls = [_call_of(one) for one in (RUNNING.calls or (request,))]
    for call in calls:
        call._serving = request[0]
    return calls


def _running(who: str) -> Request:
    request: Any = RUNNING.request
    known: Any = CALL.get(None)
    if request is SHARED_REQUEST:
        task = RUNNING.task()
        if task is None:
            raise LookupError(
                "%s() works in a concurrent command's own tasks, and until its end: a thread gets it handed over" % who
            )
        return task.request
    if request is None or (_left_behind(named(request)[0]) if known is None else known[0] != named(request)[0]):
        raise LookupError("no call is running: %s() works inside a command or a program only" % who)
    return request  # type: ignore[no-any-return]


def this_thread() -> Any:
    """The Thread that runs here; None where `threading` knows none. It says by which call it was started:
    see `_start`.
    """
    active: Any = getattr(_finder.imported("threading"), "_active", None) or {}
    return active.get(get_ident())


def _left_behind(id: int) -> bool:
    """Whether this is a thread that another call has started. One of a pool, which serves
    whoever has work for it, is not.
    """
    thread = this_thread()
    if getattr(thread, "_pypool_call", None) in (None, id) or type(thread).__module__ == "multiprocessing.dummy":
        return False
    return thread not in getattr(_finder.imported("concurrent.futures.thread"), "_threads_queues", ())


def _call_of(request: Request) -> Call:
    task = RUNNING.tasks.get(request[0])
    began = RUNNING.began if task is None else task.began
    id, _, _, session_id, timeout_ms, _, trace = request
    deadline = None if timeout_ms is None else began / 1e9 + timeout_ms / 1000.0
    return Call(id, session_id, deadline, trace)
