"""The registry: what the user's script offers, and the decorators that put it there.

Nothing here looks into a signature: that is `_bind`'s, when a call needs it. Only registered names
run; a lookup is one dict access, never getattr.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, TypeVar, Union, overload

    F = TypeVar("F", bound=Callable[..., Any])
    T = TypeVar("T")

#: Names the runtime answers itself; `hello` and `shutdown` belong to the host.
BUILTINS = ("hello", "ping", "get_stats", "list_commands", "list_programs", "execute_program", "shutdown")
MAX_NAME = 128

# inspect.CO_*, without importing inspect
_GENERATOR, _COROUTINE, _ASYNC_GENERATOR = 0x20, 0x80, 0x200


class Command:
    """One registered callable. `adapt` is None until the first call has looked at its parameters,
    see `_bind.prepare`.
    """

    __slots__ = (
        "name", "what", "func", "streams", "adapt", "direct", "exact", "lacking", "outgoing", "interruptible", "concurrency"
    )

    def __init__(self, name: str, what: str, func: Callable[..., Any]) -> None:
        self.name = name
        self.what = what  # "command" or "program"
        self.func = func
        flags = _flags(func)
        #: It cannot but return a generator. What a decorated function returns is seen when it has
        #: been called.
        self.streams = bool(flags & (_GENERATOR | _ASYNC_GENERATOR))
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
        #: Whether a caller who leaves may have it stopped in its midst.
        self.interruptible = True
        #: How many of its calls a worker may serve side by side; 0: one at a time.
        self.concurrency = 0


COMMANDS: Dict[str, Command] = {}
#: Commands that can be called with the JSON arguments as they are; filled by each one's first call
#: (`_dispatch`).
DIRECT: Dict[str, Callable[..., Any]] = {}
PROGRAMS: Dict[str, Command] = {}
SETUPS: List[Callable[[], Any]] = []


if TYPE_CHECKING:

    @overload
    def command(func: F) -> F: ...
    @overload
    def command(
        *,
        name: Optional[str] = None,
        nan: Optional[str] = None,
        interruptible: bool = True,
        concurrency: Optional[int] = None,
    ) -> Callable[[F], F]: ...


def command(
    func: Optional[F] = None,
    *,
    name: Optional[str] = None,
    nan: Optional[str] = None,
    interruptible: bool = True,
    concurrency: Optional[int] = None,
) -> Union[F, Callable[[F], F]]:
    """Register a function as a command: ``@command``, or ``@command(name="other")``.

    The function may be plain, ``async def``, a generator or an async generator (streamed to the
    host), and is returned unchanged. Its arguments are JSON values, converted where its hints name
    a dataclass, an Enum, a datetime and the like; its result must be JSON, or one of those. NaN and
    the infinities are none and are refused; with ``nan="null"`` they are null in this command's
    results, and so is what pandas and numpy have for a missing value.

    When the caller leaves, `Canceled` is raised in the function, see there; one that is not
    ``interruptible`` is left to finish, as long as the host's OperationTimeout allows.

    With ``concurrency=64``, for ``async def`` and async generators, a worker serves up to 64 calls
    of the command side by side, each a task of one event loop, beside those of other such commands:
    for what waits (HTTP, databases, models behind an API), never for what computes, which holds up
    all of them.

    Raises ValueError when the name is taken, is a built-in's, or is not 1 to 128 printable
    characters without white space; TypeError when what is decorated cannot be called.
    """

    def register(target: F) -> F:
        if not callable(target):
            raise TypeError("@command goes on a function, or as @command(name=...); got %r" % (target,))
        chosen = getattr(target, "__name__", None) if name is None else name
        entry = _add(COMMANDS, "command", chosen, target)
        entry.lacking, entry.interruptible = lacking, interruptible
        entry.concurrency = _concurrency(concurrency, entry)
        return target

    lacking = _lacking(nan)
    _concurrency(concurrency, None)

    return register if func is None else register(func)


def program(id: str, *, nan: Optional[str] = None, interruptible: bool = True) -> Callable[[T], T]:
    """Register a program under an id, for ``execute_program``: ``@program("answer")``.

    Goes on a function, on a class with ``__call__`` (one object of it is made, without arguments,
    after the setups), or on an object: ``program("answer")(obj)``. Returns it unchanged. ``nan``,
    ``interruptible`` and what is raised are `command`'s.
    """

    def register(target: T) -> T:
        if isinstance(target, type):
            if "__call__" not in dir(target):
                raise TypeError("@program(%r): class %s has no __call__" % (id, target.__name__))
        elif not callable(target):
            raise TypeError("@program(%r): %r cannot be called" % (id, target))
        entry = _add(PROGRAMS, "program", id, target)
        entry.lacking, entry.interruptible = lacking, interruptible
        return target

    lacking = _lacking(nan)

    if not isinstance(id, str):
        raise TypeError('@program needs an id: @program("answer")')
    return register


def setup(func: F) -> F:
    """Run a function without arguments once, before the worker is ready; it may be ``async def``.
    Returns it unchanged.

    Setups run in the order of their registration. One that raises fails the start of the worker.
    """
    if not callable(func):
        raise TypeError("@setup goes on a function; got %r" % (func,))
    SETUPS.append(func)
    return func


def instantiate_programs() -> None:
    """Replace program classes by their one object; called after the setups."""
    made: Dict[type, Any] = {}
    for name, entry in list(PROGRAMS.items()):
        kind = entry.func
        if isinstance(kind, type):
            if kind not in made:
                made[kind] = kind()
            PROGRAMS[name] = Command(name, "program", made[kind])
            PROGRAMS[name].lacking, PROGRAMS[name].interruptible = entry.lacking, entry.interruptible


def _lacking(nan: Optional[str]) -> str:
    if nan not in (None, "null"):
        raise ValueError('nan is "null", or left out: got %r' % (nan,))
    return nan or ""


def _concurrency(limit: Any, entry: Optional[Command]) -> int:
    if limit is None:
        return 0
    if type(limit) is not int or limit < 1:
        raise ValueError("concurrency is how many calls a worker may serve side by side, 1 or more: got %r" % (limit,))
    if entry is not None and not _flags(entry.func) & (_COROUTINE | _ASYNC_GENERATOR):
        del COMMANDS[entry.name]
        raise TypeError("concurrency=%d is for async def and async generators, and %r is neither" % (limit, entry.name))
    return limit


def _add(registry: Dict[str, Command], what: str, name: Any, func: Any) -> Command:
    if not isinstance(name, str):
        raise ValueError("a %s needs a name: %r has none, use name=..." % (what, func))
    if not (1 <= len(name) <= MAX_NAME and name.isprintable() and not any(char.isspace() for char in name)):
        raise ValueError(
            "%s name %r is not allowed: 1 to %d printable characters, no white space" % (what, name, MAX_NAME)
        )
    if what == "command" and name in BUILTINS:
        raise ValueError("command name %r is pypool's own: choose another" % name)
    if name in registry:
        from ._callables import twice  # seldom needed

        problem = twice(registry[name].func, func)
        if problem:
            raise ValueError("%s %r is registered twice%s" % (what, name, problem))
        DIRECT.pop(name, None)
        if isinstance(func, type) and not isinstance(registry[name].func, type):
            func = func()  # a reload after the setups
    entry = registry[name] = Command(name, what, func)
    return entry


def _flags(func: Any) -> int:
    if hasattr(func, "__wrapped__") or not hasattr(func, "__code__"):
        from ._callables import called  # most commands are plain functions

        func = called(func)
    code = getattr(func, "__code__", None)
    return code.co_flags if code is not None else 0
