"""Classes that validate themselves: pydantic's and msgspec's. They read JSON by their own rules,
those for JSON text.

So a strict pydantic model takes a UUID's text for a UUID, as it does in FastAPI, and not only a
UUID object.
"""

from __future__ import annotations

from . import _refusal
from ._finder import imported
from ._forms import Number, base64_text, is_a, plain_numbers
from ._hints_scalars import ConversionError
from ._json import escape, make_encoder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, Optional

    Converter = Callable[[Any], Any]


class _HasBytes(Exception):
    pass


def model(kind: Any, maker: Any) -> Optional[Converter]:
    """The converter of such a class, or None."""
    if is_a(kind, "msgspec", "Struct"):
        maker.exact = True
        return _msgspec(kind)
    if is_a(kind, "pydantic.v1", "BaseModel") or (is_a(kind, "pydantic", "BaseModel") and not hasattr(kind, "model_validate")):
        return _checked(kind, lambda value: kind.parse_obj(plain_numbers(value)))
    if imported("pydantic") and hasattr(kind, "__get_pydantic_core_schema__"):
        return _pydantic(kind, maker)
    if hasattr(kind, "__pydantic_validator__"):  # pydantic.dataclasses
        return _pydantic(kind, maker)
    return None


def _checked(kind: Any, validate: Callable[[Any], Any]) -> Converter:
    def convert(value: Any) -> Any:
        try:
            return validate(value)
        except ValueError as error:  # both libraries' ValidationErrors are
            raise ConversionError(kind.__name__, value, _refusal.in_words(error)) from None

    return convert


def _pydantic(kind: Any, maker: Any) -> Converter:
    pydantic: Any = imported("pydantic")
    by_json = getattr(kind, "model_validate_json", None)
    by_python: Any = getattr(kind, "model_validate", None)
    if by_json is None:
        adapter = pydantic.TypeAdapter(kind)
        by_json, by_python = adapter.validate_json, adapter.validate_python
    schema = repr(getattr(kind, "__pydantic_core_schema__", ""))
    if "'decimal'" in schema or "ock" in schema[:20]:  # a mock: not yet built
        maker.exact = True

    def validate(value: Any) -> Any:
        try:
            text = json_text(value, None) if maker.exact else "".join(_quick(value, 0))
        except _HasBytes:
            return by_python(plain_numbers(value))  # JSON has no bytes
        # A number that no float holds: for a Decimal its digits count, which pydantic reads from a
        # string alone
        if "\0" in text:
            try:
                return by_json(text.replace("\0", '"'))
            except ValueError:
                text = text.replace("\0", "")
        return by_json(text)

    return _checked(kind, validate)


def _msgspec(kind: Any) -> Converter:
    msgspec: Any = imported("msgspec")

    def validate(value: Any) -> Any:
        try:
            return msgspec.json.decode(json_text(value, base64_text).replace("\0", "").encode("utf-8"), type=kind)
        except msgspec.ValidationError as error:
            raise ConversionError(kind.__name__, value, str(error)) from None

    return _checked(kind, validate)


def _refuse(value: Any) -> Any:
    raise _HasBytes  # there is nothing else in arguments that JSON has not


_quick = make_encoder(default=_refuse)


def json_text(value: Any, on_bytes: Optional[Callable[[bytes], str]]) -> str:
    """Arguments as JSON text again, numbers with the text they came with; between two NUL where a
    float would lose digits.
    """
    parts: List[str] = []
    _write(value, parts.append, on_bytes)
    return "".join(parts)


def _write(value: Any, put: Callable[[str], Any], on_bytes: Optional[Callable[[bytes], str]]) -> None:
    kind = type(value)
    if kind is str:
        put(escape(value))
    elif kind is dict:
        mark = "{"
        for key, item in value.items():
            put(mark + escape(key) + ":")
            _write(item, put, on_bytes)
            mark = ","
        put("{}" if mark == "{" else "}")
    elif kind is list:
        mark = "["
        for item in value:
            put(mark)
            _write(item, put, on_bytes)
            mark = ","
        put("[]" if mark == "[" else "]")
    elif kind is Number:
        put(value.text if _held(value) else "\0%s\0" % value.text)
    elif kind is bytes:
        if on_bytes is None:
            raise _HasBytes
        put('"%s"' % on_bytes(value))
    else:
        put({None: "null", True: "true", False: "false"}[value] if kind is bool or value is None else repr(value))


def _held(number: Number) -> bool:
    from decimal import Decimal

    return Decimal(number.text) == Decimal(float.__repr__(number))
