"""Conversions of objects into dataclasses, TypedDicts, NamedTuples and attrs classes, and of
arrays.
"""

from __future__ import annotations

import collections
import typing

from ._hints_scalars import ConversionError, exactly_float
from ._names import nearest
from ._schema_fields import bare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, FrozenSet, List, Optional, Tuple

    Converter = Callable[[Any], Any]


def items(values: List[Any], convert: Converter) -> List[Any]:
    out: List[Any] = []
    try:
        for item in values:
            out.append(convert(item))
    except ConversionError as error:
        raise error.under("[%d]" % len(out))
    return out


class null_as:
    """A list or dict of what JSON has itself: it is passed as it came, only Go's nil becomes an
    empty one.
    """

    def __init__(self, kind: Any) -> None:
        self._kind = kind

    def __call__(self, value: Any) -> Any:
        return self._kind() if value is None else value


def floats(target: Callable[[Any], Any]) -> Converter:
    """Arrays of floats may be large: those of floats alone are not looked at one by one."""

    def array(value: Any) -> Any:
        if value is None:
            value = []
        if not isinstance(value, list):
            raise ConversionError("an array", value)
        if not {float}.issuperset(map(type, value)):
            value = items(value, exactly_float)
        return value if target is list else target(value)

    return array


def defaulting(hint: Any) -> Callable[[Any], Any]:
    hint = bare(hint)
    factory: Any = typing.get_origin(hint) or hint
    if factory not in (list, dict, set, int, str, float, bool, frozenset, tuple):
        factory = None
    return lambda value: collections.defaultdict(factory, value)


def fixed(first: List[Optional[Converter]], middle: List[Optional[Converter]], last: List[Optional[Converter]]) -> Converter:
    """Tuples of known elements; where `middle` has a converter, of any number of such ones between
    them.
    """
    known = len(first) + len(last)
    wanted = "an array of %d%s" % (known, " or more" if middle else "")

    def array(value: Any) -> Any:
        if value is None and not known:
            value = []  # Go's nil slice
        if not isinstance(value, list) or len(value) < known or (len(value) > known and not middle):
            raise ConversionError(wanted, value, "it has %d" % len(value) if isinstance(value, list) else "")
        out: List[Any] = []
        try:
            for item, convert in zip(value, first + middle * (len(value) - known) + last):
                out.append(item if convert is None else convert(item))
        except ConversionError as error:
            raise error.under("[%d]" % len(out))
        return tuple(out)

    return array


def own_init(kind: Any, sort: str) -> bool:
    """Whether the class's __init__ is one that somebody wrote: what it takes is not told by the
    fields then.
    """
    if sort == "dataclass":
        return "__init__" in kind.__dict__ and not kind.__dataclass_params__.init or _written(kind.__init__)
    return sort == "attrs" and _written(kind.__init__)


def left_out(kind: Any, sort: str) -> FrozenSet[str]:
    """The fields of a dataclass or an attrs class that its __init__ does not take: the class itself
    sets them, and results have them.
    """
    if sort == "dataclass":
        fields = kind.__dataclass_fields__.values()
        return frozenset([field.name for field in fields if not field.init and field._field_type.name == "_FIELD"])
    return frozenset([field.name for field in kind.__attrs_attrs__ if not field.init] if sort == "attrs" else ())


def _written(function: Any) -> bool:
    code = getattr(function, "__code__", None)
    return code is not None and not code.co_filename.startswith("<")


def typed_dict(kind: Any, fields: Dict[str, Converter], other: Optional[Converter]) -> Converter:
    """`other` is for keys that the class does not know."""

    def convert(value: Any) -> Any:
        if not isinstance(value, dict):
            raise ConversionError("%s (an object)" % kind.__name__, value)
        return _members(value, fields, other)

    return convert


def _members(value: Dict[str, Any], fields: Dict[str, Converter], other: Optional[Converter]) -> Dict[str, Any]:
    out, key = {}, ""
    try:
        for key, item in value.items():
            convert = fields.get(key, other)
            out[key] = item if convert is None else convert(item)
    except ConversionError as error:
        raise error.under("." + key)
    return out


def record(
    kind: Any,
    fields: Dict[str, Converter],
    other: Optional[Converter],
    names: Dict[str, str],
    checked: Optional[Tuple[Any, List[str]]],
    positions: Optional[List[str]],
    left: FrozenSet[str],
) -> Converter:
    """The converter of a class: its fields' converters, that of what its __init__ takes beside
    them, what that calls them, what is checked before, a tuple's order, what is not for __init__.
    """
    wanted = "%s (an object)" % kind.__name__
    renamed = {name: argument for name, argument in names.items() if name != argument}

    def convert(value: Any) -> Any:
        whole = value
        if positions is not None and isinstance(value, list) and len(value) <= len(positions):
            value = dict(zip(positions, value))
        if not isinstance(value, dict):
            raise ConversionError(wanted, value)
        if left:  # the object was a result once
            value = {key: item for key, item in value.items() if key not in left}
        if renamed:
            taken = {argument: name for name, argument in renamed.items()}
            value = {taken.get(key, key): item for key, item in value.items()}
        if checked is not None:
            reason = _ill_fitting(value, *checked)
            if reason:
                raise ConversionError(wanted, whole, reason)
        values = _members(value, fields, other)
        if renamed:
            values = {names.get(key, key): item for key, item in values.items()}
        try:
            return kind(**values)
        except (ValueError, AssertionError) as error:  # what the class itself checks
            raise ConversionError(wanted, whole, said(error)) from error
        except TypeError as error:
            if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
                raise  # from inside: the class's own mistake
            raise ConversionError(wanted, whole, str(error).rpartition("() ")[2]) from None

    return convert


def _ill_fitting(value: Dict[str, Any], names: Dict[str, str], required: List[str]) -> str:
    for key in value:
        if key not in names:
            return "got an unexpected keyword argument %r%s" % (key, nearest(key, names))
    missing = [repr(name) for name in required if name not in value]
    if not missing:
        return ""
    listed = missing[0] if len(missing) == 1 else ", ".join(missing[:-1]) + " and " + missing[-1]
    plural = "" if len(missing) == 1 else "s"
    # Python's words
    return "missing %d required positional argument%s: %s" % (len(missing), plural, listed)


def said(error: Exception) -> str:
    """An exception as its type and words."""
    try:
        return "%s: %s" % (type(error).__name__, error)
    except Exception:
        return type(error).__name__
