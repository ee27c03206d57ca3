"""The fields of dataclasses, TypedDicts, NamedTuples and pydantic models, as they look on the wire; for `_schema`."""

from __future__ import annotations

import sys
import types
import typing

from . import _describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterator, Tuple

UNSAID: typing.Any = object()  # there is no default, or none that can be told
_EMPTY: typing.Any = {list: [], set: [], tuple: [], dict: {}}  # what a default_factory makes


class Field(typing.NamedTuple):
    """One field. `hint` is resolved, or an Unresolved."""

    name: str
    hint: typing.Any
    required: bool
    default: typing.Any = UNSAID
    doc: str = ""


class Unresolved:
    """A hint that names what does not exist at run time."""

    def __init__(self, text: str) -> None:
        self.text = text


def is_a(kind: Any, module: str, name: str) -> bool:
    """Whether kind is a subclass of module.name; a module that is not loaded is not asked."""
    base = getattr(sys.modules.get(module), name, None)
    return isinstance(base, type) and isinstance(kind, type) and issubclass(kind, base)


def is_record(kind: Any) -> bool:
    """Whether a class has fields that fields_of knows."""
    if hasattr(kind, "__dataclass_fields__") or is_a(kind, "pydantic", "BaseModel"):
        return True
    return (issubclass(kind, dict) and hasattr(kind, "__total__")) or (issubclass(kind, tuple) and hasattr(kind, "_fields"))


def resolved(annotation: Any, space: Dict[str, Any]) -> Any:
    """An annotation as a hint; raises whatever its evaluation raises."""
    holder = types.SimpleNamespace(__annotations__={"hint": annotation})
    return typing.get_type_hints(holder, space)["hint"]


def fields_of(kind: Any, output: bool) -> Tuple[str, Iterator[Field]]:
    """The sort of a class for which is_record is true, and its fields: as arguments, or as part of a result."""
    if is_a(kind, "pydantic", "BaseModel"):
        modern = hasattr(kind, "model_fields")
        return "model", _pydantic(kind, output) if modern else _pydantic1(kind, output)
    if hasattr(kind, "__dataclass_fields__"):
        return "dataclass", _dataclass(kind, output)
    return ("typed_dict", _typed_dict(kind)) if issubclass(kind, dict) else ("named_tuple", _named_tuple(kind))


def _dataclass(kind: Any, output: bool) -> Iterator[Field]:
    import dataclasses

    hints = _hints_of(kind)
    for name, field in kind.__dataclass_fields__.items():
        sort = field._field_type.name
        hidden = sort == "_FIELD_INITVAR" if output else not field.init
        if hidden or sort == "_FIELD_CLASSVAR":
            continue
        hint = hints.get(name)
        if sort == "_FIELD_INITVAR":
            hint = getattr(hint, "type", hint)
        default: Any = _EMPTY.get(field.default_factory, UNSAID)
        if field.default is not dataclasses.MISSING:
            default = field.default
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        yield Field(name, hint, required, default)


def _typed_dict(kind: Any) -> Iterator[Field]:
    required = getattr(kind, "__required_keys__", None)
    for name, hint in _hints_of(kind).items():
        needed = name in required if required is not None else getattr(kind, "__total__", True)
        mark = str(typing.get_origin(hint)).rpartition(".")[2]
        if mark in ("Required", "NotRequired"):  # under `from __future__ import annotations` only the hint knows
            needed = mark == "Required"
        yield Field(name, hint, needed)


def _named_tuple(kind: Any) -> Iterator[Field]:
    hints, defaults = _hints_of(kind), getattr(kind, "_field_defaults", {})
    for name in kind._fields:
        yield Field(name, hints.get(name, typing.Any), name not in defaults, defaults.get(name, UNSAID))


def _pydantic(kind: Any, output: bool) -> Iterator[Field]:
    by_name = any(kind.model_config.get(key) for key in ("populate_by_name", "validate_by_name"))
    for name, field in kind.model_fields.items():
        if output and field.exclude:
            continue
        alias = field.validation_alias if isinstance(field.validation_alias, str) else field.alias
        shown = name if output or by_name or not alias else alias
        default = field.default if field.default_factory is None else _EMPTY.get(field.default_factory, UNSAID)
        yield Field(shown, field.annotation, field.is_required(), default, field.description or "")
    if output:
        for name, computed in getattr(kind, "model_computed_fields", {}).items():
            yield Field(name, computed.return_type, True, doc=computed.description or "")


def _pydantic1(kind: Any, output: bool) -> Iterator[Field]:
    by_name = getattr(kind.__config__, "allow_population_by_field_name", False)
    for name, field in kind.__fields__.items():
        hint = typing.Optional[field.outer_type_] if field.allow_none else field.outer_type_
        shown = name if output or by_name else field.alias
        default = field.default if field.default_factory is None else UNSAID
        yield Field(shown, hint, bool(field.required), default, field.field_info.description or "")


def _hints_of(kind: Any) -> Dict[str, Any]:
    """A class's hints by field, those that cannot be resolved as Unresolved."""
    extras: Dict[str, Any] = {"include_extras": True} if sys.version_info >= (3, 9) else {}
    try:
        return typing.get_type_hints(kind, **extras)
    except Exception:
        pass  # one by one, then
    found: Dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        space = vars(sys.modules.get(base.__module__, types))
        try:
            raw = base.__dict__.get("__annotations__") or getattr(base, "__annotations__", {})
        except Exception:  # lazily evaluated since Python 3.14
            continue
        for name, annotation in raw.items():
            text = getattr(annotation, "__forward_arg__", None) or _describe.annotation_text(annotation)
            try:
                found[name] = resolved(_inside_init_var(annotation), space)
            except Exception:
                found[name] = Unresolved(text)
    return found


def _inside_init_var(annotation: Any) -> Any:
    """InitVar[int] as int: before Python 3.11 `typing` refuses it."""
    for prefix in ("InitVar[", "dataclasses.InitVar["):
        if isinstance(annotation, str) and annotation.startswith(prefix) and annotation.endswith("]"):
            return annotation[len(prefix) : -1]
    return annotation
