"""What a command may be called with, and in words why it may not: by its signature alone.

What only a refusal needs is imported for it: each worker loads this module for its first call.
"""

from __future__ import annotations

from ._wire import BindError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import inspect
    from typing import Any, Dict, Iterator, Mapping, Optional, Sequence, Tuple

    from ._commands import Command
    from ._hints_scalars import ConversionError

    Bound = Tuple[Sequence[Any], Dict[str, Any]]

_ARRAY = ", which is positional only: send the arguments as an array"


def split(entry: Command, args: Any) -> Bound:
    """A request's args as positional and keyword arguments; raises BindError."""
    if args is None:
        return (), {}
    if type(args) is dict:
        return (), args
    if type(args) is list:
        return args, {}
    from ._forms import type_name

    message = "args must be an object (keyword arguments), an array (positional arguments) or null, not %s" % type_name(args)
    raise BindError("%s: %s" % (entry.name, message), [{"loc": [], "msg": message, "type": "arguments"}])


def by_signature(
    entry: Command, signature: Optional[inspect.Signature], positional: Sequence[Any], keyword: Dict[str, Any]
) -> Optional[inspect.BoundArguments]:
    """The arguments as the signature binds them; raises BindError. None where there is no
    signature.
    """
    if signature is None:
        return None
    try:
        return signature.bind(*positional, **keyword)
    except TypeError as error:
        errors = list(_reasons(signature, positional, keyword))
        reason = errors[0]["msg"] if errors else str(error)
        raise BindError("%s: %s; signature: %s" % (entry.name, reason, shown(entry)), errors) from None


def _reasons(signature: inspect.Signature, positional: Sequence[Any], keyword: Dict[str, Any]) -> Iterator[Dict[str, Any]]:
    """All that is wrong, naming the argument and what was expected; nothing where Python's own
    words are as good.
    """
    from ._names import nearest

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


def mismatch(entry: Command, args: Any) -> Optional[BindError]:
    """Why Python refused to call entry.func with args; None when the arguments are not to blame."""
    from ._callables import signature_of  # as few calls are refused

    try:
        positional, keyword = split(entry, args)
        by_signature(entry, signature_of(entry.func), positional, keyword)
    except BindError as error:
        return error
    return None


def refused(entry: Command, error: ConversionError, arguments: Mapping[str, Any]) -> BindError:
    """An argument that cannot be converted, as what is wrong with the call."""
    from . import _refusal

    message = "%s: argument %s; signature: %s" % (entry.name, error, shown(entry))
    return BindError(message, _refusal.conversion(error, arguments))


def shown(entry: Command) -> str:
    """name(parameters) -> result, as a person would write it."""
    from . import _describe

    return entry.name + _describe.signature_text(entry.func)
