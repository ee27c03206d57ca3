"""Type hints that ask for a conversion: a parameter hinted as a dataclass gets an object, one
hinted as datetime a datetime.

One rule: what JSON has itself (str, int, bool, None, Any, and lists and dicts of them) is passed as
it came and not checked, and so is what this module does not know. Any other hint is kept: the
handler gets what it says, or the call is refused.

A converter is a function of a value that returns the converted value or raises ConversionError;
None stands for "nothing to convert", so that such hints cost nothing in a call.
"""

from __future__ import annotations

import collections
import collections.abc
import types
import typing

from . import _hints_arrays, _hints_numpy
from ._forms import is_a
from ._hints_records import defaulting, fixed, floats, items, left_out, null_as, own_init, record, said, typed_dict
from ._hints_scalars import ConversionError, exactly_float, literal, named, plain, scalar, too_deep
from ._hints_unions import DICTS, LISTS, PLAIN, UNIONS, members_of, union
from ._quoted import resolved
from ._schema_fields import Guarded, Unresolved, bare, elements, fields_of, is_alias, is_record, space_of, unpacked

TYPE_CHECKING = False
if TYPE_CHECKING:
    import inspect
    from typing import Any, Callable, Dict, List, Optional, Tuple

    Converter = Callable[[Any], Any]

__all__ = ["ARRAYS", "OBJECTS", "ConversionError", "Plan"]

_ABC = collections.abc
#: What an array becomes, by the hint's class.
ARRAYS: Dict[Any, Callable[[Any], Any]] = {
    **dict.fromkeys(LISTS, list),
    tuple: tuple,
    set: set,
    frozenset: frozenset,
    collections.deque: collections.deque,
    _ABC.Iterator: iter,
    _ABC.Set: set,
    _ABC.MutableSet: set,
}
#: What an object becomes, by the hint's class.
OBJECTS: Dict[Any, Callable[[Any], Any]] = {
    **dict.fromkeys(DICTS, dict),
    collections.OrderedDict: collections.OrderedDict,
    collections.Counter: collections.Counter,
    collections.ChainMap: collections.ChainMap,
    collections.defaultdict: collections.defaultdict,
    types.MappingProxyType: types.MappingProxyType,
}


class Plan:
    """What is converted in a command's arguments. `names` are the converters of those parameters
    that have something to do.
    """

    def __init__(self, func: Any, signature: Optional[inspect.Signature]) -> None:
        self.names: Dict[str, Converter] = {}
        self.by_position: List[Tuple[str, Optional[Converter]]] = []
        self.rest: Optional[Tuple[str, Converter]] = None
        self.rest_whole = False  # its hint is a tuple with a star: all of it is converted at once
        self.extra: Optional[Converter] = None
        self.extra_but: Any = frozenset()
        #: Some hint is a Decimal: numbers come with their text.
        self.exact = False
        #: The hints of parameters that name what does not exist, and of which classes' fields.
        self.unresolved: List[str] = []
        #: The hints that pypool does not know, as words: nothing is converted for these.
        self.unknown: List[str] = []
        if signature is None:
            return
        hints = _resolved(func, signature, self.unresolved)
        maker = self._make(signature, hints, False)
        if maker.exact:
            self.exact = True
            maker = self._make(signature, hints, True)
        self.unresolved += maker.unresolved
        self.unknown = maker.unknown

    def __bool__(self) -> bool:
        return bool(self.names or self.rest or self.extra)

    def _make(self, signature: inspect.Signature, hints: Dict[str, Any], exact: bool) -> Maker:
        maker = Maker(exact)
        self.names, self.by_position, self.rest, self.extra = {}, [], None, None
        for p in signature.parameters.values():
            hint = hints.get(p.name, typing.Any)
            kind = p.kind.name
            if kind == "VAR_KEYWORD" and str(typing.get_origin(hint)).endswith("Unpack"):
                convert = maker.make(typing.get_args(hint)[0])
                self.extra = convert
                continue
            whole = None
            try:
                whole = unpacked(hint) if kind == "VAR_POSITIONAL" else None
                convert = maker.make(hint if whole is None else whole)
            except Exception as error:  # what is no hint at all, or an alias of what does not exist
                maker.unresolved.append("%s: %s" % (p.name, said(error)))
                convert = maker.make(typing.Any)
            if convert is not None and p.default is None:
                convert = _optional(convert)
            if kind == "VAR_POSITIONAL":
                self.rest = (p.name, convert) if convert is not None else None
                self.rest_whole = whole is not None
            elif kind == "VAR_KEYWORD":
                self.extra = _each_value(convert) if convert is not None else None
            else:
                if kind != "KEYWORD_ONLY":
                    self.by_position.append((p.name, convert))
                if convert is not None and kind != "POSITIONAL_ONLY":
                    self.names[p.name] = convert
        by_name = ("POSITIONAL_OR_KEYWORD", "KEYWORD_ONLY")
        self.extra_but = frozenset(p.name for p in signature.parameters.values() if p.kind.name in by_name)
        if self.rest is None and not any(convert for _, convert in self.by_position):
            self.by_position = []
        return maker

    def keyword(self, values: Dict[str, Any]) -> None:
        """Convert arguments by name, in place. Raises ConversionError."""
        name = ""
        try:
            for name, convert in self.names.items():
                if name in values:
                    values[name] = convert(values[name])
            if self.extra is not None:
                name = ""
                more = {key: value for key, value in values.items() if key not in self.extra_but}
                values.update(self.extra(more))
        except ConversionError as error:
            raise error.under(name)
        except RecursionError as error:
            raise too_deep(values.get(name, values), error).under(name) from None

    def positional(self, values: Any) -> List[Any]:
        """Arguments by position, converted."""
        out = list(values)
        name = ""
        try:
            for index, (parameter, convert) in enumerate(self.by_position[: len(out)]):
                name = parameter
                if convert is not None:
                    out[index] = convert(out[index])
        except ConversionError as error:
            raise error.under(name)
        except RecursionError as error:
            raise too_deep(out, error).under(name) from None
        first = len(self.by_position)
        out[first:] = self.others(out[first:])
        return out

    def others(self, values: Any) -> List[Any]:
        """What *args takes, converted."""
        if self.rest is None:
            return list(values)
        name, convert = self.rest
        if self.rest_whole:
            return self._one(name, convert, list(values))  # type: ignore[no-any-return]
        return [self._one("%s[%d]" % (name, index), convert, value) for index, value in enumerate(values)]

    def by_name(self) -> Dict[str, Converter]:
        """The converters of the parameters that have one."""
        return {**{name: convert for name, convert in self.by_position if convert is not None}, **self.names}

    def named(self, positional: Any, keyword: Dict[str, Any]) -> Dict[str, Any]:
        """The arguments by their parameters' names."""
        names = [name for name, _ in self.by_position]
        found = dict(zip(names, positional), **keyword)
        if self.rest is not None:
            found[self.rest[0]] = list(positional[len(names) :])
        return found

    def bound(self, signature: inspect.Signature, arguments: Dict[str, Any]) -> None:
        """Convert what a signature has bound, in place."""
        for p in signature.parameters.values():
            if p.name not in arguments:
                continue
            if p.kind.name == "VAR_POSITIONAL":
                arguments[p.name] = tuple(self.others(arguments[p.name]))
            elif p.kind.name == "VAR_KEYWORD":
                if self.extra is not None:
                    arguments[p.name] = self._one("", self.extra, arguments[p.name])
            else:
                found = self.names.get(p.name) or dict(self.by_position).get(p.name)
                if found is not None:
                    arguments[p.name] = self._one(p.name, found, arguments[p.name])

    def _one(self, name: str, convert: Converter, value: Any) -> Any:
        try:
            return convert(value)
        except ConversionError as error:
            raise error.under(name)
        except RecursionError as error:
            raise too_deep(value, error).under(name) from None


def _resolved(func: Any, signature: inspect.Signature, unresolved: List[str]) -> Dict[str, Any]:
    """The hints as types. One that cannot be resolved (a name under TYPE_CHECKING, say) does not
    spoil the others.
    """
    space = space_of(func)
    hints: Dict[str, Any] = {}
    for parameter in signature.parameters.values():
        if parameter.annotation is parameter.empty:
            continue
        try:
            hints[parameter.name] = resolved(parameter.annotation, space)
        except Exception as error:
            unresolved.append("%s: %s" % (parameter.name, said(error)))
    return hints


def _optional(convert: Converter) -> Converter:
    return lambda value: None if value is None else convert(value)


def _each_value(convert: Converter) -> Converter:
    def each(values: Dict[str, Any]) -> Dict[str, Any]:
        out = {}
        for key, value in values.items():
            try:
                out[key] = convert(value)
            except ConversionError as error:
                raise error.under(key)
        return out

    return each


class Maker(Guarded):
    """Makes converters of hints."""

    def __init__(self, numbers_have_text: bool = False) -> None:
        super().__init__()
        self._text = numbers_have_text
        self.exact = False
        self.unresolved: List[str] = []
        self.unknown: List[str] = []

    def make(self, hint: Any) -> Optional[Converter]:
        """The converter of a resolved hint, or None."""
        convert = self._make(hint)
        return plain if convert is None and self._text else convert

    def _make(self, hint: Any) -> Optional[Converter]:
        if is_alias(hint):  # it may mention itself
            return self.guarded(hint, lambda: self._make(bare(hint)))
        hint = bare(hint)
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if origin in UNIONS:
            return self._union(args)
        if str(origin).endswith("Literal"):
            return literal(args)
        target = origin or hint
        try:
            hash(target)
        except TypeError:
            return None
        if target in ARRAYS:
            return self._array(target, args, hint)
        if target in OBJECTS:
            return self._mapping(target, args)
        if not isinstance(target, type):
            if target is not None and target is not typing.Any:
                self.unknown.append(named(hint))
            return None
        convert = _hints_arrays.scalar(target, args) or self.scalar(target, hint)
        if convert is not None or not is_record(target):
            if convert is None and target not in PLAIN:
                self.unknown.append(named(hint))
            return convert
        return self.guarded(hint, lambda: self._class(target, args))

    def scalar(self, kind: type, hint: Any = None) -> Optional[Converter]:
        """The converter of a class whose objects have one JSON value, or that validates itself; or
        None. `hint` has a generic's arguments.
        """
        convert = scalar(kind, self)
        if convert is None and is_a(kind, "numpy", "generic"):
            return _hints_numpy.scalar(kind)
        if convert is None and kind not in PLAIN:
            from . import _hints_models  # for libraries that many scripts have not

            convert = _hints_models.model(kind, kind if hint is None else hint, self)
        return convert

    def _array(self, origin: Any, args: Tuple[Any, ...], hint: Any) -> Optional[Converter]:
        target = ARRAYS[origin]
        if origin is tuple and not (len(args) == 2 and args[1] is Ellipsis):
            parts = elements(hint)
            if parts is not None:
                return fixed(*[[self.make(arg) for arg in part] for part in parts])
        convert = self.make(args[0] if args else typing.Any)
        if convert is exactly_float:
            return floats(target)
        same = target is list
        if convert is None and same:
            return null_as(list)

        def array(value: Any) -> Any:
            if value is None:
                value = []  # Go's nil slice
            if not isinstance(value, list):
                raise ConversionError("an array", value)
            if convert is not None:
                value = items(value, convert)
            try:
                return value if same else target(value)
            except TypeError as error:
                raise ConversionError("an array of what can be in a set", value, str(error))

        return array

    def _mapping(self, origin: Any, args: Tuple[Any, ...]) -> Optional[Converter]:
        from . import _hints_keys  # for maps alone

        on_key = _hints_keys.reader(args[0], self) if args else None
        on_value = self.make(args[1]) if len(args) > 1 else self.make(typing.Any)
        target = OBJECTS[origin]
        if origin is collections.defaultdict:
            target = defaulting(args[1] if len(args) > 1 else None)
        same = target is dict
        if on_key is None and on_value is None and same:
            return null_as(dict)

        def mapping(value: Any) -> Any:
            if value is None:
                value = {}  # Go's nil map
            if not isinstance(value, dict):
                raise ConversionError("an object", value)
            if on_key is None and on_value is None:
                return target(value)
            out, key = {}, ""
            try:
                for key, item in value.items():
                    name = key if on_key is None else on_key(key)
                    if name in out:
                        raise ConversionError("each key once", key)
                    out[name] = item if on_value is None else on_value(item)
            except ConversionError as error:
                raise error.under("." + key)
            return out if same else target(out)

        return mapping

    # --------------------------------------------------------------------------------------- unions

    def _union(self, args: Tuple[Any, ...]) -> Optional[Converter]:
        return union([(bare(arg), self._make(arg)) for arg in members_of(args)])

    # -------------------------------------------------------------------------------------- classes

    def _class(self, kind: Any, args: Tuple[Any, ...]) -> Optional[Converter]:
        """A dataclass, TypedDict, NamedTuple or attrs class: an object whose fields are converted
        in turn.
        """
        sort, fields = fields_of(kind, False, args)
        names, required, converters = {}, [], {}
        for field in fields:
            names[field.name] = field.argument or field.name
            if field.required:
                required.append(field.name)
            if isinstance(field.hint, Unresolved):
                self.unresolved.append("%s.%s: %s" % (kind.__qualname__, field.name, field.hint.text))
                convert = self.make(typing.Any)
            else:
                try:
                    convert = self.make(field.hint)
                except (NameError, AttributeError) as error:  # an alias, evaluated only now
                    self.unresolved.append("%s.%s: %s" % (kind.__qualname__, field.name, error))
                    convert = self.make(typing.Any)
            if convert is not None and field.default is None and not field.required:
                convert = _optional(convert)
            if convert is not None:
                converters[field.name] = convert
        other = plain if self._text else None
        if sort == "typed_dict":
            return typed_dict(kind, converters, other) if converters else None
        checked = None if getattr(kind, "__init__", None) is None or own_init(kind, sort) else (names, required)
        left = frozenset() if checked is None else left_out(kind, sort)
        return record(kind, converters, other, names, checked, list(kind._fields) if sort == "named_tuple" else None, left)
