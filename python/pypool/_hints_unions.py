"""Conversions for a Union: which of its members is meant.

What is of a member's type as it stands is passed. Else the members are tried from left to right; of
several classes that an object could become the one that knows most of its keys is taken, and a
Literal among their fields tells them apart.
"""

from __future__ import annotations

import collections.abc
import types
import typing

from ._forms import Number
from ._hints_records import left_out, null_as
from ._hints_scalars import ConversionError, is_bytes, named, plain
from ._schema_fields import Unresolved, bare, fields_of, is_record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterable, Iterator, List, Optional, Tuple

    Converter = Callable[[Any], Any]

UNIONS = (typing.Union, getattr(types, "UnionType", typing.Union))
#: What is passed as it came.
PLAIN = (str, int, bool, object, type(None))
_ABC = collections.abc
#: The hints of which a list is, and a dict.
LISTS = (list, _ABC.Sequence, _ABC.MutableSequence, _ABC.Collection, _ABC.Container, _ABC.Reversible, _ABC.Iterable)
DICTS = (dict, _ABC.Mapping, _ABC.MutableMapping)


def members_of(args: Iterable[Any], above: Tuple[Any, ...] = ()) -> Iterator[Any]:
    """The members of a Union, and of those that an alias or a type variable among them stands for."""
    for arg in args:
        inner = bare(arg)
        if typing.get_origin(inner) not in UNIONS:
            yield arg
        elif arg not in above:
            yield from members_of(typing.get_args(inner), (*above, arg))


def union(members: List[Tuple[Any, Optional[Converter]]]) -> Optional[Converter]:
    """The converter for members, each with its own."""
    if all(convert is None for _, convert in members):
        return None
    if len(members) == 2 and members[1][0] is type(None):
        return _or_none(members[0][1])
    as_is = [member for member, convert in members if convert is None or _always_plain(member)]
    others = [(member, convert) for member, convert in members if convert is not None]
    # What pypool does not know is not checked by itself either.
    unknown = any(convert is None and _is_unknown(member) for member, convert in members)
    # Of numbers in a list bytes are made where nothing else takes them: Go writes 1.0 as 1.
    of_list = sorted(others, key=lambda other: is_bytes(other[0]))
    if unknown:  # it takes them
        of_list = [other for other in others if not is_bytes(other[0])]
    wanted = " or ".join(named(member) for member, _ in members)

    def choose(value: Any) -> Any:
        for member in as_is:
            if fits(value, member):
                return plain(value)
        best: Any = None
        failures: List[Tuple[Any, ConversionError]] = []
        for member, convert in of_list if type(value) is list else others:
            if isinstance(convert, null_as) and value is not None:
                failures.append((member, ConversionError(named(member), value)))
                continue  # it would have been passed as it came, above
            try:
                made = convert(value)
            except ConversionError as error:
                failures.append((member, error))
                continue
            score = _score(member, value, made)
            if best is None or score > best[0]:
                best = (score, made)
            if not isinstance(value, dict):
                break
        if best is not None:
            return best[1]
        if unknown:
            return plain(value)
        if len(members) == 1 or (len(failures) == 1 and len(members) == 2 and type(None) in (members[0][0], members[1][0])):
            raise failures[0][1]
        reasons = ["%s: %s" % (named(member), error.brief()) for member, error in failures]
        raise ConversionError(wanted, value, "; ".join(reasons))

    return choose


def _or_none(convert: Any) -> Converter:
    return lambda value: None if value is None else convert(value)


def _always_plain(member: Any) -> bool:
    """Whether a value that is of this type already needs no conversion, inside a Union: a float, a
    Literal's own value, or an array of what JSON has.
    """
    origin = typing.get_origin(member) or member
    return origin in (float, *LISTS, *DICTS) or str(origin).endswith("Literal") or _is_typed_dict(member)


def _is_unknown(member: Any) -> bool:
    return member not in (None, typing.Any, *PLAIN) and not _is_typed_dict(typing.get_origin(member) or member)


def _is_typed_dict(kind: Any) -> bool:
    return is_record(kind) and issubclass(kind, dict)


def _score(member: Any, value: Any, made: Any) -> int:
    """How many of an object's keys the member knows: of several classes the one that takes most is
    meant.
    """
    if not isinstance(value, dict):
        return 0
    if hasattr(type(made), "model_fields_set"):
        return len(made.model_fields_set)
    member = typing.get_origin(member) or member
    if is_record(member):
        sort, fields = fields_of(member, False)
        return len({field.name for field in fields}.union(left_out(member, sort)).intersection(value))
    return 0


def fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value is of a hinted type as it stands; for the members of a Union."""
    hint = bare(hint)
    if hint is typing.Any or hint is object:
        return True
    if hint is None or hint is type(None):
        return value is None
    origin, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in UNIONS:
        return any(fits(value, arg) for arg in args)
    if origin is float:
        return type(value) is float or (type(value) is Number and value - value == 0.0)
    if origin is int:
        return type(value) is int
    if origin in LISTS:
        return type(value) is list and (not args or all(fits(item, args[0]) for item in value))
    if origin in DICTS:
        if type(value) is not dict or not args:
            return type(value) is dict
        return bare(args[0]) in (str, typing.Any) and all(fits(item, args[1]) for item in value.values())
    if _is_typed_dict(origin):
        if type(value) is not dict:
            return False
        fields = {field.name: field for field in fields_of(origin, False, args)[1]}
        if any(key not in fields for key in value):
            return False
        for name, field in fields.items():
            if name not in value:
                if field.required:
                    return False
            elif not isinstance(field.hint, Unresolved) and not fits(value[name], field.hint):
                return False
        return True
    if str(origin).endswith("Literal"):
        return any(type(arg) is type(value) and arg == value for arg in args)
    return origin in (str, bool, bytes) and type(value) is origin
