"""The registry: what the user's script offers, and the decorators that put it there.

Nothing here looks into a signature: that is `_bind`'s, when a call needs it. Only registered names
run; a lookup is one dict access, never getattr.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Tuple, Type, TypeVar, Union, overload

    F = TypeVar("F", bound=Callable[..., Any])
    T = TypeVar("T")
    Exceptions = Union[Type[BaseException], Tuple[Type[BaseException], ...]]

#: Names the runtime answers itself; `hello` and `shutdown` belong to the host.
BUILTINS = ("hello", "ping", "get_stats", "list_commands", "list_programs", "execute_program", "shutdown")
#: What the host's figures and circuits of a program go by, with its id behind it.
PROGRAM_KEY = "execute_program:"
MAX_NAME = 128
#: Of a batch, and of the wait for its company: more is a mistake.
MAX_BATCH, MAX_WAIT_MS = 65_536, 60_000
#: More tasks than any event loop has use for; the host counts them in an int, of 32 bits on some.
MAX_CONCURRENCY = 1_000_000

# inspect.CO_*, without importing inspect
_GENERATOR, _COROUTINE, _ASYNC_GENERATOR = 0x20, 0x80, 0x200


class Command:
    """One registered callable. `adapt` is None until the first call has looked at its parameters,
    see `_bind.prepare`.
    """

    __slots__ = (
        *("name", "what", "func", "streams", "adapt", "direct", "exact", "lacking", "outgoing", "each", "interruptible"),
        *("awaits", "batch", "columns", "concurrency", "retire_on"),
    )

    def __init__(self, name: str, what: str, func: Callable[..., Any]) -> None:
        self.name = name
        self.what = what  # "command" or "program"
        self.func = func
        flags = _flags(func)
        #: It cannot but return a generator. What a decorated function returns is seen when it has
        #: been called.
        self.streams = bool(flags & (_GENERATOR | _ASYNC_GENERATOR))
        self.awaits = bool(flags & _COROUTINE)
        #: Makes (positional, keyword) arguments of a request's args; raises BindError.
        self.adapt: Optional[Callable[[Any], Any]] = None
        #: The callable itself, once it is known that calling it with the plain JSON arguments is
        #: right; else None.
        self.direct: Optional[Callable[..., Any]] = None
        #: Whether numbers come with their text, for Decimals.
        self.exact = False
        #: What NaN and its like are in a result: "null", or "" where they are an error.
        self.lacking = ""
        #: What a result goes through before it is encoded, see `_hints_results`; None until it was
        #: looked for, False for nothing.
        self.outgoing: Any = None
        self.each: Any = None
        #: Whether a caller who leaves may have it stopped in its midst.
        self.interruptible = True
        #: How many calls may be one batch, and for how many milliseconds the first of them waits for
        #: company; None: it takes one call at a time.
        self.batch: Optional[Tuple[int, float]] = None
        #: What a batch's handler takes, see `_columns`, which puts a function for one call into
        #: `func`.
        self.columns: Any = None
        #: How many of its calls a worker may serve side by side; 0: one at a time.
        self.concurrency = 0
        #: Exceptions after which the worker is to be replaced.
        self.retire_on: Tuple[Type[BaseException], ...] = ()


COMMANDS: Dict[str, Command] = {}
#: Commands that can be called with the JSON arguments as they are; filled by each one's first call
#: (`_dispatch`).
DIRECT: Dict[str, Callable[..., Any]] = {}
PROGRAMS: Dict[str, Command] = {}
SETUPS: List[Callable[[], Any]] = []
HEALTH: List[Callable[[], Any]] = []


if TYPE_CHECKING:

    @overload
    def command(func: F) -> F: ...
    @overload
    def command(
        *,
        name: Optional[str] = None,
        nan: Optional[str] = None,
        interruptible: bool = True,
        max_batch_size: Optional[int] = None,
        max_wait_ms: float = 0,
        concurrency: Optional[int] = None,
        retire_on: Optional[Exceptions] = None,
    ) -> Callable[[F], F]: ...


def command(
    func: Optional[F] = None,
    *,
    name: Optional[str] = None,
    nan: Optional[str] = None,
    interruptible: bool = True,
    max_batch_size: Optional[int] = None,
    max_wait_ms: float = 0,
    concurrency: Optional[int] = None,
    retire_on: Optional[Exceptions] = None,
) -> Union[F, Callable[[F], F]]:
    """Register a function as a command: ``@command``, or ``@command(name="other")``.

    The function may be plain, ``async def``, a generator or an async generator (streamed to the
    host), and is returned unchanged. Its arguments are JSON values, converted where its hints name
    a dataclass, an Enum, a datetime and the like; its result must be JSON, or one of those. NaN and
    the infinities are none and are refused; with ``nan="null"`` they are null in this command's
    results, and so is what pandas and numpy have for a missing value.

    When the caller leaves, `Canceled` is raised in the function, see there; one that is not
    ``interruptible`` is left to finish, as long as the host's OperationTimeout allows.

    With ``max_batch_size=32`` calls that wait at the same time are served together, 32 at most. The
    function gets each parameter as a list with one entry for each call, and returns a list of as
    many results in the same order; an exception in it fails that call alone, one that is raised
    fails them all. A hint ``list[T]`` says that a call's argument is a T, and is the only kind of
    hint that such a parameter may have; a default is what a call has that leaves it out. Callers
    notice nothing of it. A call that finds a worker idle is served at once, in a batch of one;
    with ``max_wait_ms`` the first of a batch waits so long for others, unless it is full before.
    `current_calls` tells the calls of a batch.

    With ``concurrency=64``, for ``async def`` and async generators, a worker serves up to 64 calls
    of the command side by side, each a task of one event loop, beside those of other such commands:
    for what waits (HTTP, databases, models behind an API), never for what computes, which holds up
    all of them.

    With ``retire_on=(SomeError,)`` a worker in which the function raises such an exception is
    replaced, as after `retire`: for errors behind which nothing works any more, such as a lost CUDA
    context. The caller gets the exception like any other.

    Raises ValueError when the name is taken, is a built-in's, begins with ``execute_program:`` (the
    host counts the calls of a program under that), or is not 1 to 128 printable characters without
    white space; for a max_batch_size that is not 1 to 65536, a max_wait_ms that is not 0 to 60000,
    a concurrency that is not 1 to 1000000; TypeError when what is decorated cannot be called, or
    what is in retire_on is no exception class.
    """

    def register(target: F) -> F:
        if not callable(target):
            raise TypeError("@command goes on a function, or as @command(name=...); got %r" % (target,))
        chosen = getattr(target, "__name__", None) if name is None else name
        entry = _add(COMMANDS, "command", chosen, target, batch)
        entry.lacking, entry.interruptible, entry.retire_on = lacking, interruptible, fatal
        entry.concurrency = _concurrency(concurrency, entry)
        return target

    lacking, batch, fatal = _lacking(nan), _batch(max_batch_size, max_wait_ms), _exceptions(retire_on)
    _concurrency(concurrency, None)
    if batch is not None and concurrency is not None:
        raise ValueError("a command takes batches (max_batch_size) or is concurrent (concurrency), not both")

    return register if func is None else register(func)


def program(
    id: str,
    *,
    nan: Optional[str] = None,
    interruptible: bool = True,
    max_batch_size: Optional[int] = None,
    max_wait_ms: float = 0,
    retire_on: Optional[Exceptions] = None,
) -> Callable[[T], T]:
    """Register a program under an id, for ``execute_program``: ``@program("answer")``.

    Goes on a function, on a class with ``__call__`` (one object of it is made, without arguments,
    after the setups), or on an object: ``program("answer")(obj)``. Returns it unchanged. The
    other arguments, and what is raised, are `command`'s.
    """

    def register(target: T) -> T:
        if isinstance(target, type):
            if "__call__" not in dir(target):
                raise TypeError("@program(%r): class %s has no __call__" % (id, target.__name__))
        elif not callable(target):
            raise TypeError("@program(%r): %r cannot be called" % (id, target))
        entry = _add(PROGRAMS, "program", id, target, batch)
        entry.lacking, entry.interruptible, entry.retire_on = lacking, interruptible, fatal
        return target

    lacking, batch, fatal = _lacking(nan), _batch(max_batch_size, max_wait_ms), _exceptions(retire_on)

    if not isinstance(id, str):
        raise TypeError('@program needs an id: @program("answer")')
    return register


def setup(func: F) -> F:
    """Run a function without arguments once, before the worker is ready; it may be ``async def``.
    Returns it unchanged.

    Setups run in the order of their registration. One that raises fails the start of the worker.
    Raises TypeError for what cannot be called, and for a generator, which would never run.
    """
    _check_hook("@setup", func)
    SETUPS.append(func)
    return func


def health(func: F) -> F:
    """Run a function without arguments to see whether this worker is still fit to serve; it may be
    ``async def``. Returns it unchanged.

    It runs when the worker is about to be ready, and from then on while it is idle: for each of the
    host's HealthCheckIntervals, and for its HealthCheck. A worker in which it raises, or returns
    False, is replaced, as after `retire`; one that is only starting does not become ready. It holds
    the worker while it runs, and one that takes longer than 5 s is taken for a hang: be brief.
    Raises TypeError for what cannot be called, and for a generator, which would never run.
    """
    _check_hook("@health", func)
    HEALTH.append(func)
    return func


def instantiate_programs() -> None:
    """Replace program classes by their one object; called after the setups."""
    made: Dict[type, Any] = {}
    for name, entry in list(PROGRAMS.items()):
        kind = entry.func
        if isinstance(kind, type):
            if kind not in made:
                made[kind] = kind()
            made_of = PROGRAMS[name] = Command(name, "program", made[kind])
            made_of.lacking, made_of.interruptible, made_of.batch = entry.lacking, entry.interruptible, entry.batch
            made_of.retire_on = entry.retire_on


def _check_hook(decorator: str, func: Any) -> None:
    if not callable(func):
        raise TypeError("%s goes on a function; got %r" % (decorator, func))
    if _flags(func) & (_GENERATOR | _ASYNC_GENERATOR):
        name = getattr(func, "__name__", type(func).__name__)
        raise TypeError(
            "%s goes on a function that runs when it is called: %s is a generator, and would never run" % (decorator, name)
        )


def _lacking(nan: Optional[str]) -> str:
    if nan not in (None, "null"):
        raise ValueError('nan is "null", or left out: got %r' % (nan,))
    return nan or ""


def _exceptions(kinds: Any) -> Tuple[Type[BaseException], ...]:
    listed = () if kinds is None else kinds if type(kinds) is tuple else (kinds,)
    for kind in listed:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise TypeError("retire_on is an exception class, or a tuple of such classes: got %r" % (kind,))
    return listed


def _batch(size: Any, wait: Any) -> Optional[Tuple[int, float]]:
    if size is None:
        if wait != 0:
            raise ValueError("max_wait_ms goes with max_batch_size: got max_wait_ms=%r alone" % (wait,))
        return None
    if type(size) is not int or not 1 <= size <= MAX_BATCH:
        raise ValueError("max_batch_size is a number from 1 to %d: got %s" % (MAX_BATCH, _shown(size)))
    if type(wait) not in (int, float) or not 0 <= wait <= MAX_WAIT_MS:
        raise ValueError("max_wait_ms is a number of milliseconds from 0 to %d: got %s" % (MAX_WAIT_MS, _shown(wait)))
    return size, wait


def _concurrency(limit: Any, entry: Optional[Command]) -> int:
    if limit is None:
        return 0
    if type(limit) is not int or not 1 <= limit <= MAX_CONCURRENCY:
        raise ValueError(
            "concurrency is how many calls a worker may serve side by side, 1 to %d: got %s" % (MAX_CONCURRENCY, _shown(limit))
        )
    if entry is not None and not _flags(entry.func) & (_COROUTINE | _ASYNC_GENERATOR):
        del COMMANDS[entry.name]
        raise TypeError("concurrency=%d is for async def and async generators, and %r is neither" % (limit, entry.name))
    return limit


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:  # of an int with more digits than Python writes
        return "an %s that is too long to be written here" % type(value).__name__


def _add(registry: Dict[str, Command], what: str, name: Any, func: Any, batch: Optional[Tuple[int, float]] = None) -> Command:
    if not isinstance(name, str):
        raise ValueError("a %s needs a name: %r has none, use name=..." % (what, func))
    if not (1 <= len(name) <= MAX_NAME and name.isprintable() and not any(char.isspace() for char in name)):
        raise ValueError("%s name %r is not allowed: 1 to %d printable characters, no white space" % (what, name, MAX_NAME))
    if what == "command" and name in BUILTINS:
        raise ValueError("command name %r is pypool's own: choose another" % name)
    if what == "command" and name.startswith(PROGRAM_KEY):
        raise ValueError("command name %r is that of a program's calls in the host's figures: choose another" % name)
    if name in registry:
        from ._callables import twice  # seldom needed

        known = registry[name]
        problem = twice(known.func if known.columns is None else known.columns.func, func)
        if problem:
            raise ValueError("%s %r is registered twice%s" % (what, name, problem))
        DIRECT.pop(name, None)
        if isinstance(func, type) and not isinstance(known.func, type):
            func = func()  # a reload after the setups
    entry = Command(name, what, func)
    if batch is not None and entry.streams:
        raise TypeError("max_batch_size goes on a function that returns a list: %s %r is a generator" % (what, name))
    entry.batch = batch
    registry[name] = entry
    return entry


def _flags(func: Any) -> int:
    if hasattr(func, "__wrapped__") or not hasattr(func, "__code__"):
        from ._callables import called  # most commands are plain functions

        func = called(func)
    code = getattr(func, "__code__", None)
    return code.co_flags if code is not None else 0
