"""Type hints that ask for a conversion: a parameter hinted as a dataclass gets an object, one hinted as datetime a datetime.

Plain JSON types are passed as they are and not checked. A converter is a function of (value, path) that returns the converted
value or raises ConversionError; None stands for "nothing to convert", so that untouched hints cost nothing in a call.
"""

from __future__ import annotations

import collections.abc
import sys
import types
import typing

from ._callables import unwrap
from ._hints_scalars import ConversionError, named, scalar

TYPE_CHECKING = False
if TYPE_CHECKING:
    import inspect
    from typing import Any, Callable, Dict, List, Optional, Tuple

    Converter = Callable[[Any, str], Any]

__all__ = ["ConversionError", "apply", "converters"]

_ARRAYS = {
    list: list,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
    collections.abc.Sequence: list,
    collections.abc.Iterable: list,
}
_OBJECTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


def converters(func: Any, signature: Optional[inspect.Signature]) -> Dict[str, Converter]:
    """The converters of func's parameters by name; only those that have something to do."""
    found: Dict[str, Converter] = {}
    if signature is None:
        return found
    hints = _resolved(func, signature)
    for parameter in signature.parameters.values():
        convert = _Maker().make(hints.get(parameter.name))
        if convert is None:
            continue
        if parameter.default is None:
            convert = _optional(convert)
        found[parameter.name] = convert
    return found


def apply(converters: Dict[str, Converter], signature: inspect.Signature, bound: inspect.BoundArguments) -> None:
    """Replace the arguments by their converted values. Raises ConversionError."""
    for name, convert in converters.items():
        if name not in bound.arguments:
            continue
        value, kind = bound.arguments[name], signature.parameters[name].kind.name
        if kind == "VAR_POSITIONAL":
            value = tuple(convert(item, "%s[%d]" % (name, index)) for index, item in enumerate(value))
        elif kind == "VAR_KEYWORD":
            value = {key: convert(item, key) for key, item in value.items()}
        else:
            value = convert(value, name)
        bound.arguments[name] = value


def _resolved(func: Any, signature: inspect.Signature) -> Dict[str, Any]:
    """The hints as types. One that cannot be resolved (a name under TYPE_CHECKING, say) does not spoil the others."""
    target = unwrap(func)
    space = getattr(target, "__globals__", None) or vars(sys.modules.get(getattr(target, "__module__", ""), types))
    hints: Dict[str, Any] = {}
    for parameter in signature.parameters.values():
        if parameter.annotation is parameter.empty:
            continue
        holder = types.SimpleNamespace(__annotations__={"hint": parameter.annotation})
        try:
            hints[parameter.name] = typing.get_type_hints(holder, space)["hint"]
        except Exception:
            continue
    return hints


def _optional(convert: Converter) -> Converter:
    return lambda value, path: None if value is None else convert(value, path)


class _Maker:
    """Makes converters of hints; remembers the classes it is in, because they may contain themselves."""

    def __init__(self) -> None:
        self._open: Dict[Any, List[Optional[Converter]]] = {}

    def make(self, hint: Any) -> Optional[Converter]:
        """The converter of a resolved hint, or None."""
        hint = _bare(hint)
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if origin is typing.Union or origin is getattr(types, "UnionType", typing.Union):
            return self._union(args)
        if origin in _ARRAYS or hint in (tuple, set, frozenset):
            return self._array(origin or hint, args)
        if origin in _OBJECTS:
            return self._mapping(args)
        if not isinstance(hint, type):
            return None
        return scalar(hint) or self._class(hint)

    def _array(self, origin: Any, args: Tuple[Any, ...]) -> Optional[Converter]:
        target = _ARRAYS[origin]
        if target is tuple and args and args[-1] is not Ellipsis:
            return _fixed([self.make(arg) for arg in args])
        convert = self.make(args[0]) if args else None
        if convert is None and target is list:
            return None

        def array(value: Any, path: str) -> Any:
            if not isinstance(value, list):
                raise ConversionError(path, "an array", value)
            if convert is not None:
                value = [convert(item, "%s[%d]" % (path, index)) for index, item in enumerate(value)]
            return target(value)

        return array

    def _mapping(self, args: Tuple[Any, ...]) -> Optional[Converter]:
        on_key = self.make(args[0]) if args else None
        on_value = self.make(args[1]) if len(args) > 1 else None
        if on_key is None and on_value is None:
            return None

        def mapping(value: Any, path: str) -> Any:
            if not isinstance(value, dict):
                raise ConversionError(path, "an object", value)
            return {
                key if on_key is None else on_key(key, path): item if on_value is None else on_value(item, "%s.%s" % (path, key))
                for key, item in value.items()
            }

        return mapping

    def _union(self, args: Tuple[Any, ...]) -> Optional[Converter]:
        members = [(_bare(arg), self.make(arg)) for arg in args]
        if all(convert is None for _, convert in members):
            return None

        def union(value: Any, path: str) -> Any:
            for member, convert in members:
                if convert is None and _fits(value, member):
                    return value
            failures = []
            for _, convert in members:
                if convert is not None:
                    try:
                        return convert(value, path)
                    except ConversionError as error:
                        failures.append(error)
            if len(failures) == 1:
                raise failures[0]
            raise ConversionError(path, " or ".join(named(member) for member, _ in members), value)

        return union

    def _class(self, kind: Any) -> Optional[Converter]:
        """A dataclass, TypedDict or NamedTuple: an object whose fields are converted in turn."""
        is_dataclass = hasattr(kind, "__dataclass_fields__")
        is_typed_dict = issubclass(kind, dict) and hasattr(kind, "__total__")
        is_tuple = issubclass(kind, tuple) and hasattr(kind, "_fields")
        if not (is_dataclass or is_typed_dict or is_tuple):
            return None
        if kind in self._open:
            later = self._open[kind]
            return lambda value, path: value if later[0] is None else later[0](value, path)
        slot: List[Optional[Converter]] = [None]
        self._open[kind] = slot
        try:
            hints = typing.get_type_hints(kind)
        except Exception:
            hints = {}
        fields = {name: convert for name, convert in ((n, self.make(h)) for n, h in hints.items()) if convert is not None}
        if is_typed_dict:
            slot[0] = _typed_dict(kind, fields) if fields else None
        else:
            slot[0] = _record(kind, fields, list(kind._fields) if is_tuple else None)
        return slot[0]


def _bare(hint: Any) -> Any:
    """A hint without Annotated, NewType, Final, Required and the like around it."""
    for _ in range(16):
        if hasattr(hint, "__supertype__"):
            hint = hint.__supertype__
        elif hasattr(hint, "__metadata__"):
            hint = hint.__origin__
        elif str(typing.get_origin(hint)).rpartition(".")[2] in ("Final", "Required", "NotRequired", "ReadOnly"):
            hint = typing.get_args(hint)[0]
        else:
            break
    return hint


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value may be passed for a hint without conversion, inside a Union."""
    if hint is typing.Any or hint is object:
        return True
    if hint is None or hint is type(None):
        return value is None
    origin = typing.get_origin(hint) or hint
    if str(origin).endswith("Literal"):
        return value in typing.get_args(hint)
    if origin is float:
        return type(value) in (int, float)
    if origin is int:
        return type(value) is int
    return isinstance(origin, type) and isinstance(value, origin)


def _fixed(converters: List[Optional[Converter]]) -> Converter:
    def fixed(value: Any, path: str) -> Any:
        if not isinstance(value, list) or len(value) != len(converters):
            raise ConversionError(path, "an array of %d" % len(converters), value)
        pairs = enumerate(zip(value, converters))
        return tuple(item if convert is None else convert(item, "%s[%d]" % (path, i)) for i, (item, convert) in pairs)

    return fixed


def _typed_dict(kind: Any, fields: Dict[str, Converter]) -> Converter:
    def typed_dict(value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            raise ConversionError(path, "%s (an object)" % kind.__name__, value)
        return {key: fields[key](item, "%s.%s" % (path, key)) if key in fields else item for key, item in value.items()}

    return typed_dict


def _record(kind: Any, fields: Dict[str, Converter], positions: Optional[List[str]]) -> Converter:
    def record(value: Any, path: str) -> Any:
        if positions is not None and isinstance(value, list) and len(value) <= len(positions):
            value = dict(zip(positions, value))
        if not isinstance(value, dict):
            raise ConversionError(path, "%s (an object)" % kind.__name__, value)
        values = {key: fields[key](item, "%s.%s" % (path, key)) if key in fields else item for key, item in value.items()}
        try:
            return kind(**values)
        except Exception as error:  # a missing field, an unknown one, or what the class itself checks
            reason = str(error).rpartition("__init__() ")[2].rpartition("__new__() ")[2]
            raise ConversionError(path, "%s (an object)" % kind.__name__, value, reason) from None

    return record
