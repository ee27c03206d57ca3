"""From a request's args to a call: which parameters, and which of them the author wants converted.

Most commands need neither a signature nor a conversion: Python itself binds their keyword
arguments, and `inspect` and `typing` are never imported. What a command needs is found out once,
upon its first call.
"""

from __future__ import annotations

from ._signatures import by_signature, refused, split
from ._wire import BindError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict

    from ._commands import Command
    from ._hints import Plan
    from ._signatures import Bound

#: Words of hints that convert nothing: a hint made of these alone needs no look at `typing`.
_PLAIN = frozenset("int str bool object None NoneType Any Optional Union typing t".split())
_FUNCTION = type(lambda: None)


class Unprepared(BindError):
    """What the call of a command needs cannot be had: no descriptor is left, say, to load it."""

    def fields(self) -> Dict[str, Any]:
        from . import _errors  # loaded with the first error

        cause: Any = self.__cause__
        return {"kind": "python_exception", "entered": False, **_errors.exception_fields(cause)}


def bind(entry: Command, args: Any) -> Bound:
    """Positional and keyword arguments for entry.func; raises BindError, before the handler begins."""
    if entry.adapt is None and entry.direct is None:
        try:
            _prepare(entry)
        except BindError:
            raise
        except Exception as error:
            raise Unprepared(entry.name) from error
    if entry.adapt is not None:
        bound: Bound = entry.adapt(args)
        return bound
    return split(entry, args)


def outgoing(entry: Command, items: bool = False) -> Any:
    """What a result, or each item, goes through before it is encoded, see `_hints_results`; False for
    nothing. Found out once.
    """
    found = entry.each if items else entry.outgoing
    if found is None:
        found, change = False, None
        if _has_odd_keys(entry.func):
            from ._hints_results import change_of  # imports typing, which most commands need not

            change = change_of(entry, items)
            found = change or False
        if entry.lacking:
            from ._convert import without_nan  # most results are plain

            found = (lambda value: without_nan(change(value))) if change else without_nan
        if items:
            entry.each = found
        else:
            entry.outgoing = found
    return found


def _has_odd_keys(func: Any) -> bool:
    """Whether the hint of the result may have keys in it that are no text, judged by its words."""
    if type(func) is not _FUNCTION or hasattr(func, "__wrapped__"):
        from ._callables import unwrap  # most commands are plain functions

        func = unwrap(func)
    try:
        hint = func.__annotations__.get("return")
    except Exception:  # evaluated only now, since Python 3.14, and may name what does not exist
        return hasattr(func, "__annotate__")
    if hint is None or isinstance(hint, type) and hint.__module__ == "builtins" and not hasattr(hint, "__args__"):
        return False
    text = hint if isinstance(hint, str) else _words(hint)
    mappings = text.split("ict[")[1:]
    text = text.replace("typing.", "")
    for mark in "[],.|'\"":
        text = text.replace(mark, " ")
    plain = _PLAIN.union(("float", "list", "dict", "List", "Dict", "bytes"))
    return not plain.issuperset(text.split()) or not all(part.startswith(("str,", "typing.Any,", "Any,")) for part in mappings)


def exact(entry: Command) -> bool:
    """Whether the numbers in the arguments are wanted with their text: some hint is a Decimal."""
    if entry.adapt is None and entry.direct is None:
        try:
            _prepare(entry)
        except Exception:
            return False  # which is not the arguments' fault: `bind` fails of it, too
    return entry.exact


def inputs_of(entry: Command, inputs: Any) -> Any:
    """A program's inputs, with the texts of their numbers where a hint of its wants them: they come
    where any program does. Raises BindError.
    """
    if exact(entry):
        return inputs
    from ._forms import plain_numbers  # where there are programs

    try:
        return plain_numbers(inputs)
    except RecursionError:
        raise BindError("%s: the inputs are nested too deeply" % entry.name) from None
    except ValueError as error:
        raise BindError("%s: the inputs cannot be read: %s" % (entry.name, error)) from None


def _prepare(entry: Command) -> None:
    if entry.batch is not None and entry.columns is None:
        from . import _columns  # registered after the start

        _columns.prepare(entry)
    function = _python_function(entry.func)
    if function is not None and _is_plain(function):
        entry.direct = entry.func
        return
    if function is None:
        from . import _wrapped  # most commands are plain functions

        if _wrapped.is_wrapped(entry.func):
            entry.adapt = _wrapped.adapter(entry)
            return
    # With typing 15 ms, and most commands need none of it
    from ._callables import signature_of
    from ._hints import ConversionError, Plan

    signature = signature_of(entry.func)
    plan = Plan(entry.func, signature)
    entry.exact = plan.exact
    if not plan and function is not None:
        entry.direct = entry.func
        return

    def adapt(args: Any) -> Bound:
        positional, keyword = split(entry, args)
        bound = by_signature(entry, signature, positional, keyword)
        if signature is not None and bound is not None and plan:
            try:
                plan.bound(signature, bound.arguments)
            except ConversionError as error:
                raise refused(entry, error, bound.arguments) from None
        return (bound.args, bound.kwargs) if bound is not None else (positional, keyword)

    entry.adapt = adapt
    if entry.columns is not None:
        entry.columns.prepare_calls(entry, plan)
    elif function is not None:
        entry.direct = _converting(entry, plan)


def _converting(entry: Command, plan: Plan) -> Callable[..., Any]:
    """entry.func with its arguments converted on the way; what else does not fit is left to Python
    (see `_failure`).
    """
    from ._hints_scalars import ConversionError, exactly_float  # loaded by now

    func = entry.func
    #: Mostly a float comes as one, and then there is nothing to do.
    floats = tuple(name for name, convert in plan.names.items() if convert is exactly_float)
    always = plan.extra is not None or len(floats) < len(plan.names)

    def converting(*positional: Any, **keyword: Any) -> Any:
        change = always or bool(positional)
        for name in floats:
            if name in keyword and type(keyword[name]) is not float:
                change = True
        if change:
            try:
                if keyword:
                    plan.keyword(keyword)
                if positional:
                    positional = plan.positional(positional)  # type: ignore[assignment]
            except ConversionError as error:
                raise refused(entry, error, plan.named(positional, keyword)) from None
        return func(*positional, **keyword)

    return converting


def _python_function(func: Any) -> Any:
    """The function whose parameters Python itself checks when func is called; None where that is
    hidden or unknown.
    """
    if type(func) is not _FUNCTION:
        if _stands_for_another(func):
            return None
        func = getattr(func, "__func__", None) or type(func).__call__
    if type(func) is not _FUNCTION or _stands_for_another(func):
        return None
    return func


def _stands_for_another(func: Any) -> bool:
    """Whether it says so itself: a decorator's function, or its object."""
    return hasattr(func, "__wrapped__") or hasattr(func, "__signature__")


def _is_plain(function: Any) -> bool:
    """Whether no hint of a parameter can ask for a conversion, judged by its words."""
    try:
        hints = function.__annotations__
    except Exception:  # evaluated only now, since Python 3.14, and may name what does not exist
        return False
    for name, hint in hints.items():
        if name == "return":
            continue
        if isinstance(hint, type) and not hasattr(hint, "__args__"):
            text = hint.__name__ if hint.__module__ == "builtins" else "?"
        else:
            text = hint if isinstance(hint, str) else _words(hint)
        for mark in "[],.|'\"":
            text = text.replace(mark, " ")
        if not _PLAIN.issuperset(text.split()):
            return False
    return True


def _words(hint: Any) -> str:
    try:
        return repr(hint)
    except BaseException:  # somebody's, who put an object there
        return "?"
