"""From a request's args to a call: which parameters, and which of them the author wants converted.

Most commands need neither a signature nor a conversion: Python itself binds their keyword arguments, and `inspect` and
`typing` are never imported. What a command needs is found out once, upon its first call.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import inspect
    from typing import Any, Callable, Dict, Iterator, Mapping, Optional, Sequence, Tuple

    from ._commands import Command
    from ._hints import Plan
    from ._hints_scalars import ConversionError

    Bound = Tuple[Sequence[Any], Dict[str, Any]]

#: Words of hints that convert nothing: a hint made of these alone needs no look at `typing`.
_PLAIN = frozenset("int str bool object None NoneType Any Optional Union typing t".split())
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


def outgoing(entry: Command) -> Any:
    """What a result goes through before it is encoded, see `_results`; False for nothing. Found out once."""
    if entry.outgoing is None:
        look = _has_odd_keys(entry.func)
        entry.outgoing = False
        if look or entry.lacking:
            from . import _results

            entry.outgoing = _results.outgoing(entry, look)
    return entry.outgoing


def _has_odd_keys(func: Any) -> bool:
    """Whether the hint of the result may have keys in it that are no text, judged by its words."""
    if type(func) is not _FUNCTION or hasattr(func, "__wrapped__"):
        from ._callables import unwrap

        func = unwrap(func)
    try:
        hint = func.__annotations__.get("return")
    except Exception:
        return False
    if hint is None or isinstance(hint, type) and hint.__module__ == "builtins" and not hasattr(hint, "__args__"):
        return False
    text = hint if isinstance(hint, str) else _words(hint)
    mappings = text.split("ict[")[1:]
    text = text.replace("typing.", "")
    for mark in "[],.|'\"":
        text = text.replace(mark, " ")
    plain = _PLAIN.union(("float", "list", "dict", "List", "Dict", "bytes"))
    return not plain.issuperset(text.split()) or not all(part.startswith(("str,", "typing.Any,", "Any,")) for part in mappings)


def _split(entry: Command, args: Any) -> Bound:
    if args is None:
        return (), {}
    if type(args) is dict:
        return (), args
    if type(args) is list:
        return args, {}
    message = "args must be an object (keyword arguments), an array (positional arguments) or null, not %s" % type_name(args)
    raise BindError("%s: %s" % (entry.name, message), [{"loc": [], "msg": message, "type": "arguments"}])


def exact(entry: Command) -> bool:
    """Whether the numbers in the arguments are wanted with their text: some hint is a Decimal."""
    if entry.adapt is None and entry.direct is None:
        _prepare(entry)
    return entry.exact


def plain(args: Any) -> Any:
    """Arguments without the texts of their numbers, which another program wants."""
    from ._hints_scalars import plain_numbers

    return plain_numbers(args)


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

    plan = _hints.Plan(entry.func, signature)
    entry.exact = plan.exact
    if not plan and function is not None:
        entry.direct = entry.func
        return

    def adapt(args: Any) -> Bound:
        positional, keyword = _split(entry, args)
        bound = _bind_by_signature(entry, signature, positional, keyword)
        if signature is not None and bound is not None and plan:
            try:
                plan.bound(signature, bound.arguments)
            except _hints.ConversionError as error:
                raise _refused(entry, error, bound.arguments) from None
        return (bound.args, bound.kwargs) if bound is not None else (positional, keyword)

    entry.adapt = adapt
    if function is not None:
        entry.direct = _converting(entry, plan)


def _converting(entry: Command, plan: Plan) -> Callable[..., Any]:
    """entry.func with its arguments converted on the way; what else does not fit is left to Python (see `_failure`)."""
    from ._hints_scalars import ConversionError, exactly_float

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
                raise _refused(entry, error, plan.named(positional, keyword)) from None
        return func(*positional, **keyword)

    return converting


def _refused(entry: Command, error: ConversionError, arguments: Mapping[str, Any]) -> BindError:
    from . import _refusal

    message = "%s: argument %s; signature: %s" % (entry.name, error, shown(entry))
    return BindError(message, _refusal.conversion(error, arguments))


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
                hint = _ARRAY if name in first else nearest(name, by_name)
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


def nearest(name: str, names: Any) -> str:
    """A hint at the name that was probably meant, to stand behind what is wrong."""
    try:
        if not name.isascii():
            from unicodedata import normalize

            if normalize("NFKC", name) in names:
                return ": it is %r in another Unicode form; Python's names are in NFKC" % ascii(normalize("NFKC", name))[1:-1]
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
    from . import _hints_scalars

    return _hints_scalars.type_name(value)
