"""Classes that validate themselves: pydantic's and msgspec's. They read JSON by their own rules,
those for JSON text.

So a strict pydantic model takes a UUID's text for a UUID, as it does in FastAPI, and not only a
UUID object.
"""

from __future__ import annotations

from . import _refusal
from ._finder import imported
from ._forms import Number, base64_text, is_a
from ._hints_json import HasBytes, decimal_of, held, json_text
from ._hints_scalars import ConversionError, plain
from ._json import make_encoder
from ._schema_pydantic import build

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, Optional, Set

    Converter = Callable[[Any], Any]


def model(kind: Any, hint: Any, maker: Any) -> Optional[Converter]:
    """The converter of such a class, or None. The hint is the class, or a generic one with its
    arguments.
    """
    if is_a(kind, "msgspec", "Struct"):
        maker.exact = True
        return _msgspec(kind, hint)
    if is_a(kind, "pydantic.v1", "BaseModel") or (is_a(kind, "pydantic", "BaseModel") and not hasattr(kind, "model_validate")):
        return _checked(kind, lambda value: kind.parse_obj(plain(value)))
    if imported("pydantic") and hasattr(kind, "__get_pydantic_core_schema__"):
        return _pydantic(kind, hint, maker)
    if hasattr(kind, "__pydantic_validator__"):  # pydantic.dataclasses
        return _pydantic(kind, hint, maker)
    return None


def _checked(kind: Any, validate: Callable[[Any], Any]) -> Converter:
    def convert(value: Any) -> Any:
        try:
            return validate(value)
        except ValueError as error:  # both libraries' ValidationErrors are
            raise ConversionError(kind.__name__, value, _refusal.in_words(error)) from None

    return convert


def _pydantic(kind: Any, hint: Any, maker: Any) -> Converter:
    pydantic: Any = imported("pydantic")
    by_json = getattr(kind, "model_validate_json", None)
    by_python: Any = getattr(kind, "model_validate", None)
    build(kind)
    if by_json is None:
        adapter = pydantic.TypeAdapter(hint)
        by_json, by_python = adapter.validate_json, adapter.validate_python
        schema = repr(adapter.core_schema)
    else:
        schema = repr(kind.__pydantic_core_schema__)
    unbuilt = "MockCoreSchema" in schema[:100]  # and so it may have anything
    encoded = unbuilt or "Base64" in schema
    if unbuilt or "'decimal'" in schema:
        maker.exact = True

    def through_json(value: Any) -> Any:
        return by_json(json_text(value, None))

    def validate(value: Any) -> Any:
        try:
            text = json_text(value, None) if maker.exact else "".join(_quick(value, 0))
        except HasBytes:  # JSON has none
            value = _for_decimals(value, by_python, True)
            if encoded:
                value = _as_base64(value, by_python)
        else:
            return through_json(_for_decimals(value, through_json, False)) if "\0" in text else by_json(text)
        try:
            return by_python(value)
        except ValueError as error:
            if any([type(one.get("input")) is bytes for one in getattr(error, "errors", list)()]):
                raise
            # A strict model takes a date's text, say, from JSON alone, by whose rules all else is judged
            try:
                by_json(json_text(value, lambda data: "x" * len(data)))
            except (HasBytes, ValueError):
                raise error from None
            return by_python(value, strict=False)

    return _checked(kind, validate)


#: What stands in the place of a number while it is found out what takes it; no number, for whoever
#: reads one.
_PROBE = "pypool's number %d"


def _for_decimals(value: Any, validate: Callable[[Any], Any], objects: bool) -> Any:
    """The value without the texts of its numbers, but for those that no float holds and that are for a
    Decimal: these are Decimals, or their texts, of which pydantic reads every digit. What wants one
    says so when it refuses what is no number.
    """
    probes: List[str] = []
    wanted: Set[str] = set()

    def probe(number: Number) -> Any:
        probes.append(_PROBE % len(probes))
        return probes[-1]

    def settle(number: Number) -> Any:
        if probes.pop() not in wanted:
            return plain(number)
        return decimal_of(number) if objects else number.text

    try:
        asked = _replaced(value, probe)
        if probes:
            validate(asked)
    except Exception as error:  # or a validator of the model's has never seen such a number
        for one in getattr(error, "errors", list)():
            if "decimal" in str(one.get("type")) and type(one.get("input")) is str:
                wanted.add(one["input"])
    probes.reverse()
    return _replaced(value, settle)


def _replaced(value: Any, change: Callable[[Number], Any]) -> Any:
    """The value without the texts of its numbers, and changed where a float would lose digits."""
    kind = type(value)
    if kind is Number:
        return float(value) if held(value) else change(value)
    if kind is dict:
        return {key: _replaced(item, change) for key, item in value.items()}
    return [_replaced(item, change) for item in value] if kind is list else value


def _as_base64(value: Any, validate: Callable[[Any], Any]) -> Any:
    """The value with text for those bytes that are for a Base64Bytes, which has them as text in
    JSON: it says so when it refuses what is none.
    """
    probes: List[bytes] = []
    wanted: Set[bytes] = set()

    def probe(data: bytes) -> Any:
        number = b"%d" % len(probes)  # of what is no base64, behind one character that is, which are too few
        probes.append(b"A" + number.translate(bytes.maketrans(b"0123456789", b"!#$%&'()*,")))
        return probes[-1]

    try:
        validate(_with(value, probe))
    except Exception as error:
        wanted = {one["input"] for one in getattr(error, "errors", list)() if one.get("type") == "base64_decode"}
    rest = iter(probes)
    return _with(value, lambda data: base64_text(data) if next(rest) in wanted else data)


def _with(value: Any, change: Callable[[bytes], Any]) -> Any:
    """The value with its bytes changed, in their order."""
    kind = type(value)
    if kind is dict:
        return {key: _with(item, change) for key, item in value.items()}
    if kind is list:
        return [_with(item, change) for item in value]
    return change(value) if kind is bytes else value


def _msgspec(kind: Any, hint: Any) -> Converter:
    msgspec: Any = imported("msgspec")

    def validate(value: Any) -> Any:
        try:
            try:
                text = json_text(value, None)
            except HasBytes:  # JSON has none
                from . import _hints_msgspec  # for few calls

                return _hints_msgspec.convert(hint, value)
            return msgspec.json.decode(text.replace("\0", "").encode("utf-8"), type=hint)
        except msgspec.ValidationError as error:
            raise ConversionError(kind.__name__, value, str(error)) from None

    return _checked(kind, validate)


def _refuse(value: Any) -> Any:
    raise HasBytes  # there is nothing else in arguments that JSON has not


_quick = make_encoder(default=_refuse)
