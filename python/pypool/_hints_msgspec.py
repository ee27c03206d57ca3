"""Arguments of msgspec's classes in which there is what JSON has not, bytes and arrays: those are
converted, and not read, so that bytes stay bytes where a hint says nothing of them.

msgspec's rules for JSON hold all the same. What converting does otherwise is told by the hints: a
number with its digits is for a Decimal alone, a Raw is JSON text, and base64 text is bytes where
these are hinted.
"""

from __future__ import annotations

import collections.abc
import typing

from ._finder import imported
from ._forms import Number, base64_text, is_a
from ._hints_json import json_text
from ._hints_scalars import plain
from ._hints_unions import UNIONS
from ._json import escape
from ._schema_fields import Unresolved, bare, elements, fields_of, is_record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterator, Sequence, Tuple

_BYTES = (bytes, bytearray, memoryview)


def convert(hint: Any, value: Any) -> Any:
    """An object of the hint's class. Raises msgspec.ValidationError, or ConversionError."""
    msgspec: Any = imported("msgspec")
    return msgspec.convert(_prepared(hint, value), type=hint, builtin_types=_BYTES, str_keys=True)


def _prepared(hint: Any, value: Any) -> Any:
    """A value of JSON's, of which each place has a hint, as msgspec converts it by JSON's rules."""
    hint = bare(hint)
    while typing.get_origin(hint) in UNIONS:
        hint = _member([bare(arg) for arg in typing.get_args(hint)], value)
    origin, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if is_a(origin, "msgspec", "Raw"):
        return origin(json_text(value, base64_text).replace("\0", "").encode("utf-8"))
    kind = type(value)
    if kind is Number and is_a(origin, "decimal", "Decimal"):
        return origin(value.text)
    if kind is str and origin in _BYTES:
        return _from_base64(value)
    if kind is list:
        hints = _hints_of_list(origin, args, hint, value)
        return [_prepared(one, item) for one, item in zip(hints, value)]
    if kind is dict:
        named, other = _hints_of_object(origin, args)
        return {key: _prepared(named.get(key, other), item) for key, item in value.items()}
    return plain(value) if kind is Number else value


def _member(members: Sequence[Any], value: Any) -> Any:
    """The member of a Union that takes the value: msgspec allows one of each sort."""
    origins = [typing.get_origin(member) or member for member in members]

    def first(fits: Callable[[Any], bool]) -> Any:
        return next((member for member, origin in zip(members, origins) if fits(origin)), typing.Any)

    if type(value) is Number:
        return typing.Any if float in origins else first(lambda origin: is_a(origin, "decimal", "Decimal"))
    if type(value) is str:
        return typing.Any if str in origins else first(lambda origin: origin in _BYTES)
    if type(value) in (list, dict):
        structs = [member for member, origin in zip(members, origins) if is_a(origin, "msgspec", "Struct")]
        for member in structs:
            config = (typing.get_origin(member) or member).__struct_config__
            at = config.tag_field if type(value) is dict else 0
            if config.tag is not None and config.array_like is (at == 0) and value and _at(value, at) == config.tag:
                return member
        if type(value) is list:
            return first(lambda origin: _is_array(origin) or getattr(origin, "__struct_config__", _NONE).array_like)
        return first(lambda origin: _is_object(origin) or (is_record(origin) and not _is_array(origin)))
    return typing.Any


class _NONE:
    array_like = False


def _is_object(origin: Any) -> bool:
    return isinstance(origin, type) and issubclass(origin, collections.abc.Mapping)


def _is_array(origin: Any) -> bool:
    if not isinstance(origin, type) or issubclass(origin, (str, *_BYTES)) or _is_object(origin):
        return False
    return issubclass(origin, collections.abc.Iterable)


def _at(value: Any, at: Any) -> Any:
    return value.get(at) if type(value) is dict else value[at]


def _hints_of_list(origin: Any, args: Tuple[Any, ...], hint: Any, value: Sequence[Any]) -> Iterator[Any]:
    found: Sequence[Any] = ()
    after: Any = typing.Any
    if is_record(origin):  # an array-like struct, a NamedTuple
        found = [typing.Any if isinstance(field.hint, Unresolved) else field.hint for field in fields_of(origin, False, args)[1]]
    elif origin is tuple and not (len(args) == 2 and args[1] is Ellipsis):
        found = (elements(hint) or ((),))[0]
    elif _is_array(origin) and args:
        after = args[0]
    yield from found
    while True:
        yield after


def _hints_of_object(origin: Any, args: Tuple[Any, ...]) -> Tuple[Dict[str, Any], Any]:
    """The hints by key, and that of other keys."""
    if is_record(origin):
        fields = fields_of(origin, False, args)[1]
        return {field.name: field.hint for field in fields if not isinstance(field.hint, Unresolved)}, typing.Any
    return {}, args[1] if _is_object(origin) and len(args) > 1 else typing.Any


def _from_base64(text: str) -> Any:
    msgspec: Any = imported("msgspec")
    try:
        return msgspec.json.decode(escape(text), type=bytes)
    except msgspec.ValidationError:
        return text  # which is refused with its place
