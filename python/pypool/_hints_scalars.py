"""Conversions of one JSON value into one object: dates, identifiers, enumerations, pydantic models."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Optional

    Converter = Callable[[Any, str], Any]


class ConversionError(Exception):
    """An argument that cannot be converted; says which, what was expected, and what came."""

    def __init__(self, path: str, expected: str, value: Any, reason: str = "") -> None:
        self.path = path
        self.expected = "expected %s, got %s%s" % (expected, _shown(value), ": " + reason if reason else "")
        super().__init__("%r: %s" % (path, self.expected))


def named(hint: Any) -> str:
    """A hint as words."""
    if hint is type(None):
        return "null"
    return str(getattr(hint, "__name__", None) or hint)


def scalar(kind: type) -> Optional[Converter]:
    """The converter of a class whose objects have one JSON value, or None. Libraries that are not loaded are not asked."""
    if _is(kind, "enum", "Enum"):
        return _enumeration(kind)
    if _is(kind, "datetime", "datetime"):
        return _from_text(kind, "an ISO 8601 date and time", lambda text: kind.fromisoformat(_iso(text)))  # type: ignore[attr-defined]
    if _is(kind, "datetime", "date"):
        return _from_text(kind, "an ISO 8601 date", kind.fromisoformat)  # type: ignore[attr-defined]
    if _is(kind, "datetime", "time"):
        return _from_text(kind, "an ISO 8601 time", lambda text: kind.fromisoformat(_iso(text)))  # type: ignore[attr-defined]
    if _is(kind, "uuid", "UUID"):
        return _from_text(kind, "a UUID", kind)
    if _is(kind, "pathlib", "PurePath"):
        return _from_text(kind, "a path", kind)
    if _is(kind, "decimal", "Decimal"):
        return _decimal(kind)
    if _is(kind, "pydantic", "BaseModel"):
        return _pydantic(kind)
    return None


def _is(kind: type, module: str, name: str) -> bool:
    base = getattr(sys.modules.get(module), name, None)
    return isinstance(base, type) and issubclass(kind, base)


def _from_text(kind: type, words: str, parse: Callable[[str], Any]) -> Converter:
    def from_text(value: Any, path: str) -> Any:
        if not isinstance(value, str):
            raise ConversionError(path, "%s (%s as a string)" % (kind.__name__, words), value)
        try:
            return parse(value)
        except ValueError as error:
            raise ConversionError(path, "%s (%s)" % (kind.__name__, words), value, str(error)) from None

    return from_text


def _iso(text: str) -> str:
    """Go writes 2026-01-02T03:04:05.123456789Z; before Python 3.11 neither "Z" nor nanoseconds were understood."""
    if text[-1:] in ("Z", "z"):
        text = text[:-1] + "+00:00"
    head, dot, tail = text.partition(".")
    if dot:
        digits = 0
        while tail[digits : digits + 1].isdigit():
            digits += 1
        text = head + "." + tail[:digits][:6].ljust(6, "0") + tail[digits:]
    return text


def _decimal(kind: Any) -> Converter:
    def decimal(value: Any, path: str) -> Any:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ConversionError(path, "Decimal (a string or a number)", value)
        try:
            return kind(value if isinstance(value, int) else str(value))
        except ArithmeticError:
            raise ConversionError(path, "Decimal (a string or a number)", value) from None

    return decimal


def _enumeration(kind: Any) -> Converter:
    def enumeration(value: Any, path: str) -> Any:
        try:
            return kind(value)
        except (ValueError, TypeError):
            known = ", ".join("%r" % (member.value,) for member in list(kind)[:20])
            raise ConversionError(path, "%s (one of %s)" % (kind.__name__, known), value) from None

    return enumeration


def _pydantic(kind: Any) -> Converter:
    validate = getattr(kind, "model_validate", None) or kind.parse_obj

    def pydantic(value: Any, path: str) -> Any:
        try:
            return validate(value)
        except ValueError as error:  # pydantic.ValidationError is one
            from . import _refusal

            raise ConversionError(path, kind.__name__, value, _refusal.in_words(error)) from None

    return pydantic


def _shown(value: Any) -> str:
    """A value in an error message: its JSON type, and the value itself only when it is short and simple."""
    from ._bind import type_name

    if isinstance(value, (str, int, float)) and not isinstance(value, bool) and len(str(value)) <= 60:
        return "%s %r" % (type_name(value), value)
    return type_name(value)
