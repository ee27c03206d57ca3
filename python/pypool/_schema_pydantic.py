"""The fields of pydantic's classes, as on the wire."""

from __future__ import annotations

import typing

from ._forms import loaded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterator, Tuple

    #: Name, hint, whether it is required, its default, its doc.
    Told = Tuple[str, Any, bool, Any, str]


def build(kind: Any) -> None:
    """Have pydantic build a class that has waited for others, as the first use of it would."""
    if getattr(kind, "__pydantic_complete__", True):
        return
    try:
        if hasattr(kind, "model_rebuild"):
            kind.model_rebuild(raise_errors=False)
        else:
            loaded("pydantic.dataclasses", "rebuild_dataclass")(kind, raise_errors=False)
    except Exception:
        pass  # its first use tells it


def fields(kind: Any, output: bool, unsaid: Any, empty: Dict[Any, Any]) -> Iterator[Told]:
    """Those of a model, or of a class of pydantic.dataclasses. A default that cannot be told is
    `unsaid`; `empty` has what default_factories make.
    """
    build(kind)
    config = getattr(kind, "model_config", None) or getattr(kind, "__pydantic_config__", {})
    by_alias = (
        config.get("serialize_by_alias") if output else not (config.get("populate_by_name") or config.get("validate_by_name"))
    )
    known = getattr(kind, "model_fields", None)
    for name, field in (kind.__pydantic_fields__ if known is None else known).items():
        if (field.exclude or getattr(field, "init_var", None)) if output else getattr(field, "init", None) is False:
            continue
        alias = field.serialization_alias if output else getattr(field.validation_alias, "choices", [field.validation_alias])[0]
        shown = alias if by_alias and isinstance(alias, str) else name
        default = field.default if field.default_factory is None else empty.get(field.default_factory, unsaid)
        hint = _as_serialized(kind, name, field) if output else field.annotation
        yield shown, hint, field.is_required(), default, field.description or ""
    if output:
        for name, one in kind.__pydantic_decorators__.computed_fields.items():
            shown = one.info.alias if by_alias and one.info.alias else name
            yield shown, one.info.return_type, True, unsaid, one.info.description or ""


def _as_serialized(kind: Any, name: str, field: Any) -> Any:
    """A field's hint, or that of what a serializer makes of it."""
    for one in kind.__pydantic_decorators__.field_serializers.values():
        if not {name, "*"}.isdisjoint(one.info.fields):
            return _returned(one.info, one.info.return_type, one.func)
    return serialized(field.metadata, field.annotation)


def serialized(metadata: Any, hint: Any) -> Any:
    """The hint of what the serializers in an Annotated make of a value."""
    for one in reversed(metadata):
        if type(one).__name__ in ("PlainSerializer", "WrapSerializer"):
            return _returned(one, one.return_type, one.func)
    return hint


def _returned(serializer: Any, said: Any, function: Any) -> Any:
    if type(said).__name__ == "PydanticUndefinedType":
        try:
            said = typing.get_type_hints(function)["return"]
        except Exception:  # it says nothing, or what does not exist
            return typing.Any
    return typing.Optional[said] if serializer.when_used.endswith("unless-none") else said


def fields_of_pydantic_1(kind: Any, output: bool, unsaid: Any) -> Iterator[Told]:
    by_name = getattr(kind.__config__, "allow_population_by_field_name", False)
    for name, field in kind.__fields__.items():
        hint = typing.Optional[field.outer_type_] if field.allow_none else field.outer_type_
        shown = name if output or by_name else field.alias
        default = field.default if field.default_factory is None else unsaid
        yield shown, hint, bool(field.required), default, field.field_info.description or ""
