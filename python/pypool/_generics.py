"""What the type variables of generic classes and aliases stand for."""

from __future__ import annotations

import typing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Tuple


def by_parameter(parameters: Tuple[Any, ...], args: Tuple[Any, ...]) -> Dict[Any, Any]:
    """What type variables stand for; a TypeVarTuple for a tuple of hints."""
    found: Dict[Any, Any] = {}
    at = 0
    for index, parameter in enumerate(parameters):
        if type(parameter).__name__ == "TypeVarTuple" and args:
            end = max(at, len(args) - (len(parameters) - index - 1))
            found[parameter], at = tuple(args[at:end]), end
        elif at < len(args):
            found[parameter], at = args[at], at + 1
    return found


def substitute(hint: Any, bound: Dict[Any, Any]) -> Any:
    """The hint with the type variables' values in their places."""
    if not bound:
        return hint
    if type(hint) is typing.TypeVar:
        return bound.get(hint, hint)
    if type(hint).__name__ == "InitVar":
        return substitute(hint.type, bound)
    parameters = () if isinstance(hint, type) and typing.get_origin(hint) is None else getattr(hint, "__parameters__", ())
    if not parameters:
        return hint
    given: List[Any] = []
    for parameter in parameters:
        if type(parameter).__name__ != "TypeVarTuple":
            given.append(bound.get(parameter, parameter))
        elif parameter in bound:
            given.extend(bound[parameter])
        else:
            given.extend(parameter)  # itself, with its star
    return hint[tuple(given)]


def bindings_of(kind: Any, args: Tuple[Any, ...]) -> Dict[Any, Dict[Any, Any]]:
    """What the type variables of a generic class and of its bases stand for, by class."""
    found: Dict[Any, Dict[Any, Any]] = {kind: by_parameter(getattr(kind, "__parameters__", ()), args)}
    pending = [kind]
    while pending:
        owner = pending.pop()
        for base in owner.__dict__.get("__orig_bases__", ()):
            origin = typing.get_origin(base)
            if isinstance(origin, type) and origin not in found:
                given = [substitute(arg, found[owner]) for arg in typing.get_args(base)]
                found[origin] = by_parameter(getattr(origin, "__parameters__", ()), tuple(given))
                pending.append(origin)
        for base in owner.__bases__:
            if base not in found:
                found[base] = {}
                pending.append(base)
    return found
