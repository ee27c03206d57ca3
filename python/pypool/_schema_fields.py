"""What hints are made of, and the fields of dataclasses, TypedDicts, NamedTuples, attrs classes and
models, as on the wire.

For `_hints` and `_schema`, so that the conversion of arguments and the types of clients are told by
the same facts.
"""

from __future__ import annotations

import builtins
import collections.abc
import sys
import typing

from . import _describe
from ._callables import annotations_of, unwrap
from ._forms import by_pydantic, is_a
from ._generics import bindings_of, by_parameter, names_of, stands_for, substitute, variables_of
from ._quoted import is_evaluated, resolved, unquoted, value_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

    Change = Callable[[Any], Any]

UNSAID: typing.Any = object()  # there is no default, or none that can be told
_EMPTY: typing.Any = {list: [], set: [], tuple: [], dict: {}}  # what a default_factory makes


_ABC = collections.abc
#: What a generator or a lazy argument is hinted as.
LAZY = (_ABC.Iterable, _ABC.Iterator, _ABC.Generator, _ABC.AsyncIterable, _ABC.AsyncIterator, _ABC.AsyncGenerator)


def space_of(func: Any) -> Dict[str, Any]:
    """The names that a function's annotations may use."""
    target = unwrap(func)
    space = getattr(target, "__globals__", None) or names_of(target)
    variables = variables_of(target, space)
    return {**space, **variables} if variables else space


class Field:
    """One field. `hint` is resolved, or an Unresolved. `argument` is what __init__ calls it, where that differs.

    No NamedTuple: from Python 3.14 on that imports, when the user's setup may have replaced what does.
    """

    def __init__(self, name: str, hint: Any, required: bool, default: Any = UNSAID, doc: str = "", argument: str = "") -> None:
        self.name, self.hint, self.required, self.default, self.doc, self.argument = name, hint, required, default, doc, argument


class _Later:
    """What is made of a class, or of an alias, that contains itself: known once it is made."""

    def __init__(self) -> None:
        self.made: Optional[Change] = None
        self.known = False

    def __call__(self, value: Any) -> Any:
        return value if self.made is None else self.made(value)


class Guarded:
    """Makes something of hints; remembers those it is in, because they may contain themselves."""

    def __init__(self) -> None:
        self._open: Dict[Any, _Later] = {}

    def guarded(self, key: Any, make: Callable[[], Optional[Change]]) -> Optional[Change]:
        try:
            hash(key)
        except TypeError:  # something in an Annotated, somewhere in it
            key = repr(key)
        later = self._open.get(key)
        if later is not None:  # None may be what is made: there is nothing to do
            return later.made if later.known else later
        later = self._open[key] = _Later()
        try:
            later.made = make()
            later.known = True
        finally:
            if not later.known:  # it names what does not exist, wherever it is used
                del self._open[key]
        return later.made


class Unresolved:
    """A hint that names what does not exist at run time."""

    def __init__(self, text: str) -> None:
        self.text = text


def is_alias(hint: Any) -> bool:
    """Whether a hint is a `type` statement's name, a name in quotes, or a type variable, which may
    mention itself.
    """
    names = type(hint).__name__, type(typing.get_origin(hint)).__name__
    return is_evaluated(hint) or "TypeAliasType" in names or names[0] == "TypeVar"


def is_record(kind: Any) -> bool:
    """Whether a hint is a class that has fields that fields_of knows."""
    if not isinstance(kind, type) or typing.get_origin(kind) is not None:
        return False
    if hasattr(kind, "__dataclass_fields__") or hasattr(kind, "__attrs_attrs__") or is_a(kind, "pydantic", "BaseModel"):
        return True
    if is_a(kind, "pydantic.v1", "BaseModel") or is_a(kind, "msgspec", "Struct"):
        return True
    return (issubclass(kind, dict) and hasattr(kind, "__total__")) or (issubclass(kind, tuple) and hasattr(kind, "_fields"))


_MARKS = ("Final", "Required", "NotRequired", "ReadOnly", "ClassVar")


def bare(hint: Any) -> Any:
    """A hint without Annotated, NewType, Final, InitVar and the like; an alias or a type variable
    as what it stands for.
    """
    for _ in range(64):
        origin = typing.get_origin(hint)
        if hasattr(hint, "__supertype__"):
            hint = hint.__supertype__
        elif hasattr(hint, "__metadata__"):
            hint = hint.__origin__
        elif is_evaluated(hint):
            hint = value_of(hint)
        elif type(hint).__name__ == "InitVar":
            hint = hint.type
        elif type(hint).__name__ == "TypeAliasType":
            variables_of(hint, names_of(hint))
            hint = substitute(hint.__value__, by_parameter(hint.__type_params__, ()))
        elif type(origin).__name__ == "TypeAliasType":
            variables_of(origin, names_of(origin))
            hint = substitute(origin.__value__, by_parameter(origin.__type_params__, typing.get_args(hint)))
        elif type(hint) is typing.TypeVar:
            hint = unquoted(*stands_for(hint))
        elif str(origin).rpartition(".")[2] in _MARKS:
            hint = typing.get_args(hint)[0]
        elif getattr(hint, "_name", "") == "LiteralString" and type(hint).__name__ == "_SpecialForm":
            return str
        else:
            return hint
    return typing.Any


def elements(hint: Any) -> Optional[Tuple[List[Any], List[Any], List[Any]]]:
    """The hints of a tuple's elements: of those at its beginning, the one of however many follow (an
    empty list: none do), and of those at its end. None for a tuple of whatever is in it.
    """
    if hint in (tuple, typing.Tuple):
        return None
    found: Any = ([], [], [])
    for arg in typing.get_args(hint):
        inner = unpacked(arg)
        within: Any
        if arg == ():  # Tuple[()], before Python 3.11
            continue
        if arg is Ellipsis:
            within = [], [(found[2] or found[0]).pop()], []
        elif inner is None:
            within = [arg], [], []
        elif typing.get_origin(inner) is tuple:
            within = elements(inner) or ([], [typing.Any], [])
        else:  # a TypeVarTuple that stands for nothing
            within = [], [typing.Any], []
        at_end = 2 if found[1] else 0
        found[at_end].extend(within[0])
        found[1].extend(within[1])
        found[2].extend(within[2])
    return found  # type: ignore[no-any-return]


def unpacked(hint: Any) -> Any:
    """What is behind a hint's star: of *tuple[int, ...] or Unpack[Tuple[int, ...]] the tuple; None
    where there is no star.
    """
    if str(typing.get_origin(hint)).rpartition(".")[2] == "Unpack":
        return bare(typing.get_args(hint)[0])
    return hint if getattr(hint, "__unpacked__", False) is True else None


def fields_of(kind: Any, output: bool, args: Tuple[Any, ...] = ()) -> Tuple[str, Iterator[Field]]:
    """The sort of a class for which is_record is true, and its fields: as arguments, or of a
    result. args are a generic's.
    """
    sort, fields = _fields_of(kind, output)
    if sort != "model" and (args or hasattr(kind, "__orig_bases__")):
        fields = _bound_fields(kind, args, fields)
    return sort, fields


def _bound_fields(kind: Any, args: Tuple[Any, ...], fields: Iterator[Field]) -> Iterator[Field]:
    bindings = bindings_of(kind, args)
    for field in fields:
        owner = next((base for base in kind.__mro__ if field.name in own_annotations(base)), kind)
        bound = bindings.get(owner) or (bindings[kind] if issubclass(kind, dict) else {})
        if not isinstance(field.hint, Unresolved):
            field.hint = substitute(field.hint, bound)
        yield field


def _fields_of(kind: Any, output: bool) -> Tuple[str, Iterator[Field]]:
    if is_a(kind, "pydantic", "BaseModel") or is_a(kind, "pydantic.v1", "BaseModel"):
        return "model", _pydantic(kind, output)
    if hasattr(kind, "__dataclass_fields__"):
        return "dataclass", (_pydantic if by_pydantic(kind) else _dataclass)(kind, output)
    if hasattr(kind, "__attrs_attrs__"):
        return "attrs", _attrs(kind, output)
    if is_a(kind, "msgspec", "Struct"):
        return "struct", _msgspec(kind, output)
    return ("typed_dict", _typed_dict(kind)) if issubclass(kind, dict) else ("named_tuple", _named_tuple(kind))


def _dataclass(kind: Any, output: bool) -> Iterator[Field]:
    import dataclasses

    hints = _hints_of(kind)
    for name, field in kind.__dataclass_fields__.items():
        sort = field._field_type.name
        hidden = sort == "_FIELD_INITVAR" if output else not field.init
        if hidden or sort == "_FIELD_CLASSVAR":
            continue
        hint = hints.get(name, typing.Any)
        if sort == "_FIELD_INITVAR" and not isinstance(hint, Unresolved):
            hint = getattr(hint, "type", hint)
            if isinstance(hint, str):
                hint = Unresolved(hint)
        default: Any = _EMPTY.get(field.default_factory, UNSAID)
        if field.default is not dataclasses.MISSING:
            default = field.default
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        yield Field(name, hint, required, default)


def _attrs(kind: Any, output: bool) -> Iterator[Field]:
    hints = _hints_of(kind)
    for attribute in kind.__attrs_attrs__:
        if not output and not attribute.init:
            continue
        hint = hints.get(attribute.name, typing.Any)
        if not output and attribute.converter is not None:
            hint = typing.Any  # the converter takes what comes, and makes what is hinted
        default: Any = attribute.default
        required = repr(default) == "NOTHING"
        if required or type(default).__name__ == "Factory":
            default = UNSAID if required else _EMPTY.get(default.factory, UNSAID)
        argument = getattr(attribute, "alias", None) or attribute.name.lstrip("_")
        yield Field(attribute.name, hint, required, default, argument=argument)


def _msgspec(kind: Any, output: bool) -> Iterator[Field]:
    hints = _hints_of(kind)
    config = kind.__struct_config__
    if config.tag is not None:
        yield Field(config.tag_field, typing.Literal[config.tag], True)
    defaults = dict(zip(reversed(kind.__struct_fields__), reversed(kind.__struct_defaults__)))
    for name, shown in zip(kind.__struct_fields__, kind.__struct_encode_fields__):
        default = defaults.get(name, UNSAID)
        required = name not in defaults or type(default).__name__ == "NoDefaultType"
        if type(default).__name__ in ("Factory", "NoDefaultType"):
            default = UNSAID
        hint = hints.get(name, typing.Any)
        zero = default is None or (type(default) in (bool, int, float, str) and not default)
        if output and config.omit_defaults and not required and not zero and not isinstance(hint, Unresolved):
            hint = typing.Optional[hint]  # what is left out is not what Go has where nothing came
        yield Field(shown, hint, required, default)


def _typed_dict(kind: Any) -> Iterator[Field]:
    required = getattr(kind, "__required_keys__", None)
    for name, hint in _hints_of(kind).items():
        needed = name in required if required is not None else getattr(kind, "__total__", True)
        inner = hint.__origin__ if hasattr(hint, "__metadata__") else hint
        mark = str(typing.get_origin(inner)).rpartition(".")[2]
        # Under `from __future__ import annotations` only the hint knows
        if mark in ("Required", "NotRequired"):
            needed = mark == "Required"
        yield Field(name, hint, needed)


def _named_tuple(kind: Any) -> Iterator[Field]:
    hints, defaults = _hints_of(kind), getattr(kind, "_field_defaults", {})
    for name in kind._fields:
        yield Field(name, hints.get(name, typing.Any), name not in defaults, defaults.get(name, UNSAID))


def _pydantic(kind: Any, output: bool) -> Iterator[Field]:
    from . import _schema_pydantic  # for a library that many scripts have not

    if hasattr(kind, "__pydantic_fields__") or hasattr(kind, "model_fields"):
        told = _schema_pydantic.fields(kind, output, UNSAID, _EMPTY)
    else:
        told = _schema_pydantic.fields_of_pydantic_1(kind, output, UNSAID)
    return (Field(*one) for one in told)


def _hints_of(kind: Any) -> Dict[str, Any]:
    """A class's hints by field, those that cannot be resolved as Unresolved: one does not spoil the
    others.
    """
    found: Dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        own, space = own_annotations(base), names_of(base)
        # Of the class's names its classes come first; a field, or a method, may be named like a type.
        outside = space.keys() | vars(builtins).keys()
        local = {n: v for n, v in vars(base).items() if n not in outside or (isinstance(v, type) and n not in own)}
        local.update(variables_of(base, space))
        local.setdefault(kind.__name__, kind)
        for name, annotation in own.items():
            try:
                found[name] = resolved(annotation, space, local)
            except Exception:
                found[name] = Unresolved(getattr(annotation, "__forward_arg__", None) or _describe.annotation_text(annotation))
    return found


def own_annotations(kind: Any) -> Dict[str, Any]:
    """The annotations that stand in the class itself; before Python 3.10 a class without any shows
    its base's.
    """
    try:
        found: Any = annotations_of(kind) if sys.version_info >= (3, 10) else kind.__dict__.get("__annotations__")
    except Exception:  # there are none, or whatever their evaluation raises
        found = None
    return found if isinstance(found, dict) else {}
