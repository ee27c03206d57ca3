"""The @health functions: at the end of a start, and when the host pings."""

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
    result = func()
    if hasattr(result, "__await__"):
        from . import _async  # imports asyncio

        result = _async.run(result)
    if is_false(result):
        raise RuntimeError("%s() has returned False" % name_of(func))


def is_false(result: Any) -> bool:
    """Whether it is False, or NumPy's or torch's: `np.isfinite(weights).all()` is one."""
    if result is False:
        return True
    return str(getattr(result, "dtype", "")).endswith("bool") and getattr(result, "ndim", 1) == 0 and not result


def name_of(func: Any) -> str:
    return str(getattr(func, "__name__", type(func).__name__))
