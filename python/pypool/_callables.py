"""What lies behind a callable that is not a plain function."""

from __future__ import annotations

import sys

from ._finder import imported

TYPE_CHECKING = False
if TYPE_CHECKING:
    import inspect
    from typing import Any, Callable, Optional


_FUNCTION = type(lambda: None)
_METHOD = type((lambda self: None).__get__(0))


def where(func: Any) -> str:
    func = unwrap(func)
    code = getattr(func, "__code__", None)
    name = getattr(func, "__qualname__", None) or repr(func)
    return "%s (%s:%d)" % (name, code.co_filename, code.co_firstlineno) if code is not None else str(name)


def signature_of(func: Any, follow_wrapped: bool = True) -> Optional[inspect.Signature]:
    """What a callable takes; None where it does not tell, as some C functions."""
    import inspect  # takes 5 ms, and most commands need none

    def signature(**how: Any) -> inspect.Signature:
        return inspect.signature(func, follow_wrapped=follow_wrapped, **how)

    try:
        return signature() if sys.version_info < (3, 14) else _evaluated(lambda format: signature(annotation_format=format))
    except (ValueError, TypeError):
        return None


def annotations_of(target: Any) -> Any:
    """The annotations of a function, or of a class."""
    try:
        return target.__annotations__
    except Exception:
        if sys.version_info < (3, 14):
            raise
        return _evaluated(lambda format: __import__("annotationlib").get_annotations(target, format=format))


def _evaluated(get: Callable[[Any], Any]) -> Any:
    """What has annotations, which Python evaluates when they are asked for, since 3.14: a name that
    does not exist is left as one. Where they raise something else they are texts, so that one does
    not spoil the others.
    """
    formats = __import__("annotationlib").Format
    try:
        return get(formats.FORWARDREF)
    except Exception:
        return get(formats.STRING)


def twice(old: Any, new: Any) -> str:
    """What is wrong with a second registration of a name; empty where a module is being reloaded."""
    first, second = _home(old), _home(new)
    if first == second and _reloading(second):
        return ""
    if where(old) != where(new) or first == second:
        return ": by %s and %s" % (where(old), where(new))
    return (
        ", because its file is imported under two names, %r and %r: import it as %r everywhere, or start the workers with "
        "Config.Module %r instead of Config.Script" % (first, second, first, max(first, second, key=len))
    )


def _home(func: Any) -> str:
    return str(getattr(unwrap(func), "__module__", None))


def _reloading(module: str) -> bool:
    """Whether importlib.reload of this module is on the stack."""
    import sys

    reload = getattr(getattr(imported("importlib"), "reload", None), "__code__", None)
    frame: Any = sys._getframe(1)
    while frame is not None:
        if frame.f_code is reload and frame.f_locals.get("name") == module:
            return True
        frame = frame.f_back
    return False


def called(func: Any) -> Any:
    """The Python function that runs first when func is called: a decorator's wrapper is one. None
    where that cannot be seen.

    Methods, functools.partial and objects with __call__ hand the call on as it is; so does
    lru_cache.
    """
    for _ in range(32):
        kind = type(func)
        if kind is _FUNCTION:
            return func
        if kind.__name__ == "_lru_cache_wrapper":
            func = func.__wrapped__
        elif kind.__name__ == "partial" and kind.__module__ == "functools":
            func = func.func
        elif kind is _METHOD or kind in (staticmethod, classmethod):
            func = func.__func__
        elif not isinstance(func, type) and type(kind.__call__) is _FUNCTION:
            func = kind.__call__
        else:
            return None
    return None


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
