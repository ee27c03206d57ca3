"""The @health functions: at the end of a start, and when the host pings; and what a function that
runs for its own sake may return.
"""

from __future__ import annotations

from . import _errors
from ._commands import HEALTH
from ._retire import RETIREMENT, retire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable


def check() -> None:
    """Run them all; raises what the first that fails raises."""
    for func in HEALTH:
        run(func)


def examine() -> None:
    """Run them for a ping: a worker that is not healthy asks to be replaced."""
    for func in HEALTH:
        if RETIREMENT.reason is not None:
            return
        try:
            run(func)
        except BaseException as error:
            retire("@health %s: %s: %s" % (name_of(func), _errors.names(type(error))[1], _errors.text_of(error)))
            _errors.note("@health %s failed:\n%s" % (name_of(func), _errors.format_traceback(error)))


def run(func: Callable[[], Any]) -> None:
    if is_false(finished(func, func())):
        raise RuntimeError("%s() has returned False" % name_of(func))


def finished(func: Callable[[], Any], result: Any, keeps: bool = False) -> Any:
    """What the function has come to, with what it returned awaited; `keeps`: what that sets in context
    variables stays. Raises TypeError where it is something whose code has not run: a decorator can
    hide that a function is a generator.
    """
    if hasattr(type(result), "__await__"):
        from . import _async  # imports asyncio

        result = _async.run_here(result) if keeps else _async.run(result)
    body = result.gen if type(result).__module__ == "contextlib" and hasattr(result, "gen") else result
    for frame in ("gi_frame", "ag_frame", "cr_frame"):
        if hasattr(type(body), frame):
            kind = type(result).__name__.strip("_")
            raise TypeError(
                "%s() has returned a %s, whose code never runs: it is to do its work when it is called" % (name_of(func), kind)
            )
    return result


def is_false(result: Any) -> bool:
    """Whether it is False, or NumPy's or torch's: `np.isfinite(weights).all()` is one."""
    if result is False:
        return True
    return str(getattr(result, "dtype", "")).endswith("bool") and getattr(result, "ndim", 1) == 0 and not result


def name_of(func: Any) -> str:
    return str(getattr(func, "__name__", type(func).__name__))
