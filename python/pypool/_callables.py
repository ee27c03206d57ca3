"""What lies behind a callable that is not a plain function."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def where(func: Any) -> str:
    func = unwrap(func)
    code = getattr(func, "__code__", None)
    name = getattr(func, "__qualname__", None) or repr(func)
    return "%s (%s:%d)" % (name, code.co_filename, code.co_firstlineno) if code is not None else str(name)


def unwrap(func: Any) -> Any:
    """The function behind functools.wraps, functools.partial, a method, or an object with __call__."""
    for _ in range(32):
        if hasattr(func, "__wrapped__"):
            func = func.__wrapped__
        elif hasattr(func, "__func__"):
            func = func.__func__
        elif not hasattr(func, "__code__") and type(func).__name__ == "partial":
            func = func.func
        elif not hasattr(func, "__code__") and not isinstance(func, type) and hasattr(type(func).__call__, "__code__"):
            func = type(func).__call__
        else:
            break
    return func
