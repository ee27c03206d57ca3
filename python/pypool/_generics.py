"""What the type variables of generic classes and aliases stand for."""

from __future__ import annotations

import types
import typing

from ._finder import imported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Tuple


_NONE: typing.Any = object()
#: The names that type variables may use that do not tell their module.
_SPACES: Dict[Any, Dict[str, Any]] = {}


def by_parameter(parameters: Tuple[Any, ...], args: Tuple[Any, ...]) -> Dict[Any, Any]:
    """What type variables stand for; a TypeVarTuple for a tuple of hints."""
    found: Dict[Any, Any] = {}
    at = 0
    for index, parameter in enumerate(parameters):
        if type(parameter).__name__ == "TypeVarTuple" and args:
            end = max(at, len(args) - (len(parameters) - index - 1))
            found[parameter], at = tuple(args[at:end]), end
        elif at < len(args) and args[at] != _default(parameter):
            found[parameter], at = args[at], at + 1
        else:  # typing puts a default in its place as it is
            default, at = _default(parameter), at + 1
            if default is not _NONE and not isinstance(default, str):
                default = substitute(default, found)  # those before it may be in it
                found[parameter] = (default,) if type(parameter).__name__ == "TypeVarTuple" else default
    return found


def _default(parameter: Any) -> Any:
    """What a type variable of Python 3.13, or of typing_extensions, says that it is by itself."""
    if type(parameter).__name__ == "ParamSpec" or not hasattr(parameter, "has_default") or not parameter.has_default():
        return _NONE
    return type(None) if parameter.__default__ is None else parameter.__default__


def stands_for(variable: Any) -> Tuple[Any, Dict[str, Any]]:
    """What a type variable is where nothing else is said: its default, one of its constraints, or its
    bound; and the names that this, in quotes perhaps, may use.
    """
    found = _default(variable)
    if found is _NONE:
        bound = typing.Any if variable.__bound__ is None else variable.__bound__
        found = typing.Union[variable.__constraints__] if variable.__constraints__ else bound
    return found, _SPACES[variable] if variable in _SPACES else names_of(variable)


def names_of(owner: Any) -> Dict[str, Any]:
    """The names of the module that a class or another object is of."""
    return vars(imported(getattr(owner, "__module__", "")) or types)


def variables_of(owner: Any, space: Dict[str, Any]) -> Dict[str, Any]:
    """The type variables in the brackets behind the name of a class, a function or an alias, by name:
    they do not know their module.
    """
    variables = getattr(owner, "__type_params__", ())
    _SPACES.update(dict.fromkeys(variables, space))
    return {variable.__name__: variable for variable in variables}


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


def as_base(kind: Any, args: Tuple[Any, ...], bases: Any) -> Tuple[Any, Tuple[Any, ...]]:
    """A class with its arguments as that one of `bases`, all of them dicts, that it is derived from:
    of class Scores(Dict[str, T]) Scores[int] as dict, with str and int.
    """
    while kind not in bases:
        bound = by_parameter(getattr(kind, "__parameters__", ()), args)
        for base in vars(kind).get("__orig_bases__", kind.__bases__):
            origin = typing.get_origin(base) or base
            if isinstance(origin, type) and issubclass(origin, dict):
                kind, args = origin, tuple([substitute(arg, bound) for arg in typing.get_args(base)])
                break
        else:
            break
    return kind, args
