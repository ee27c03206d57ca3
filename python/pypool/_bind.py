"""From a request's args to a call: which parameters, and which of them the author wants converted.

Most commands need neither a signature nor a conversion: Python itself binds their keyword arguments, and `inspect` and
`typing` are never imported. What a command needs is found out once, upon its first call.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import inspect
    from typing import Any, Dict, Iterator, Optional, Sequence, Tuple

    from ._commands import Command

    Bound = Tuple[Sequence[Any], Dict[str, Any]]

#: Words of hints that convert nothing: a hint made of these alone needs no look at `typing`.
_PLAIN = frozenset("int str float bool dict list object None NoneType Any Optional Union Dict List typing t".split())
_FUNCTION = type(lambda: None)
_ARRAY = ", which is positional only: send the arguments as an array"


class BindError(Exception):
    """The arguments do not fit; its text is for the caller, and so is `errors`, see `_refusal`."""

    def __init__(self, message: str, errors: Sequence[Dict[str, Any]] = ()) -> None:
        super().__init__(message)
        self.errors = list(errors)

    def fields(self) -> Dict[str, Any]:
        """The error object."""
        fields: Dict[str, Any] = {"kind": "invalid_arguments", "message": str(self)}
        if self.errors:
            fields["errors"] = self.errors
        return fields


def bind(entry: Command, args: Any) -> Bound:
    """Positional and keyword arguments for entry.func; raises BindError, before the handler begins."""
    if entry.adapt is None and entry.direct is None:
        _prepare(entry)
    if entry.adapt is not None:
        bound: Bound = entry.adapt(args)
        return bound
    return _split(entry, args)


def mismatch(entry: Command, args: Any) -> Optional[BindError]:
    """Why Python refused to call entry.func with args; None when the arguments are not to blame."""
    try:
        positional, keyword = _split(entry, args)
        _bind_by_signature(entry, _signature(entry), positional, keyword)
    except BindError as error:
        return error
    return None


def _split(entry: Command, args: Any) -> Bound:
    if args is None:
        return (), {}
    if type(args) is dict:
        return (), args
    if type(args) is list:
        return args, {}
    message = "args must be an object (keyword arguments), an array (positional arguments) or null, not %s" % type_name(args)
    raise BindError("%s: %s" % (entry.name, message), [{"loc": [], "msg": message, "type": "arguments"}])


def _prepare(entry: Command) -> None:
    function = _python_function(entry.func)
    if function is not None and _is_plain(function):
        entry.direct = entry.func
        return
    if function is None:
        from . import _wrapped

        if _wrapped.is_wrapped(entry.func):
            entry.adapt = _wrapped.adapter(entry)
            return
    signature = _signature(entry)
    from . import _hints

    converters = _hints.converters(entry.func, signature)
    if not converters and function is not None:
        entry.direct = entry.func
        return

    def adapt(args: Any) -> Bound:
        positional, keyword = _split(entry, args)
        bound = _bind_by_signature(entry, signature, positional, keyword)
        if signature is not None and bound is not None and converters:
            try:
                _hints.apply(converters, signature, bound)
            except _hints.ConversionError as error:
                from . import _refusal

                message = "%s: argument %s; signature: %s" % (entry.name, error, shown(entry))
                raise BindError(message, _refusal.conversion(error, bound.arguments)) from None
        return (bound.args, bound.kwargs) if bound is not None else (positional, keyword)

    entry.adapt = adapt


def _python_function(func: Any) -> Any:
    """The function whose parameters Python itself checks when func is called; None where that is hidden or unknown."""
    if type(func) is not _FUNCTION:
        func = getattr(func, "__func__", None) or type(func).__call__
    if type(func) is not _FUNCTION or hasattr(func, "__wrapped__") or hasattr(func, "__signature__"):
        return None
    return func


def _is_plain(function: Any) -> bool:
    """Whether no hint of a parameter can ask for a conversion, judged by its words."""
    try:
        hints = function.__annotations__
    except Exception:  # evaluated lazily since Python 3.14, and may name what does not exist
        return False
    for name, hint in hints.items():
        if name == "return":
            continue
        if isinstance(hint, type) and not hasattr(hint, "__args__"):
            text = hint.__name__ if hint.__module__ == "builtins" else "?"
        else:
            text = hint if isinstance(hint, str) else repr(hint)
        for mark in "[],.|'\"":
            text = text.replace(mark, " ")
        if not _PLAIN.issuperset(text.split()):
            return False
    return True


def _signature(entry: Command) -> Optional[inspect.Signature]:
    import inspect

    try:
        return inspect.signature(entry.func)
    except (ValueError, TypeError):
        return None  # some C functions do not tell


def _bind_by_signature(
    entry: Command, signature: Optional[inspect.Signature], positional: Sequence[Any], keyword: Dict[str, Any]
) -> Optional[inspect.BoundArguments]:
    if signature is None:
        return None
    try:
        return signature.bind(*positional, **keyword)
    except TypeError as error:
        errors = list(_reasons(signature, positional, keyword))
        reason = errors[0]["msg"] if errors else str(error)
        raise BindError("%s: %s; signature: %s" % (entry.name, reason, shown(entry)), errors) from None


def _reasons(signature: inspect.Signature, positional: Sequence[Any], keyword: Dict[str, Any]) -> Iterator[Dict[str, Any]]:
    """All that is wrong, naming the argument and what was expected; nothing where Python's own words are as good."""
    parameters = signature.parameters.values()
    kinds = {parameter.kind for parameter in parameters}
    by_position = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    by_name = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    first = {p.name for p in by_position if p.kind is p.POSITIONAL_ONLY}
    if len(positional) > len(by_position) and not any(kind.name == "VAR_POSITIONAL" for kind in kinds):
        plural = "" if len(by_position) == 1 else "s"
        message = "takes at most %d argument%s, got %d" % (len(by_position), plural, len(positional))
        yield {"loc": [len(by_position)], "msg": message, "type": "too_many"}
    given = {p.name for p in by_position[: len(positional)]}
    if not any(kind.name == "VAR_KEYWORD" for kind in kinds):
        for name in keyword:
            if name not in by_name:
                hint = _ARRAY if name in first else _nearest(name, by_name)
                yield {"loc": [name], "msg": "unknown argument %r%s" % (name, hint), "type": "unknown"}
    for p in parameters:
        if p.kind.name.startswith("VAR_") or p.name in given or p.default is not p.empty:
            continue
        if p.name not in keyword or p.kind is p.POSITIONAL_ONLY:
            how = _ARRAY if p.kind is p.POSITIONAL_ONLY else ""
            yield {"loc": [p.name], "msg": "missing argument %r%s%s" % (p.name, _expected(p), how), "type": "missing"}


def _expected(parameter: inspect.Parameter) -> str:
    if parameter.annotation is parameter.empty:
        return ""
    from . import _describe

    return " (%s)" % _describe.annotation_text(parameter.annotation)


def _nearest(name: str, names: Any) -> str:
    try:
        from difflib import get_close_matches
    except Exception:
        return ""  # no descriptor is left to load it with, say

    close = get_close_matches(name, list(names), 1)
    return ", did you mean %r?" % close[0] if close else ""


def shown(entry: Command) -> str:
    """name(parameters) -> result, as a person would write it."""
    from . import _describe

    return entry.name + _describe.signature_text(entry.func)


def type_name(value: Any) -> str:
    """A JSON value's type, in JSON's words."""
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array", dict: "an object"}
    return names.get(type(value), type(value).__name__)


