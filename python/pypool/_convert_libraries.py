"""Results of libraries that have many kinds of values: numpy, pydantic, msgspec. Only where they
are loaded.
"""

from __future__ import annotations

from ._finder import imported
from ._forms import is_one, missing
from ._json import scan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict

#: Of a unit of numpy's durations how many nanoseconds it has, and how many of it a nanosecond has.
#: Months have no length.
_UNITS = {
    "W": (604_800_000_000_000, 1),
    "D": (86_400_000_000_000, 1),
    "h": (3_600_000_000_000, 1),
    "m": (60_000_000_000, 1),
    "s": (1_000_000_000, 1),
    "ms": (1_000_000, 1),
    "us": (1_000, 1),
    "ns": (1, 1),
    "ps": (1, 1_000),
    "fs": (1, 1_000_000),
    "as": (1, 1_000_000_000),
}


def generic(value: Any) -> Any:
    numpy: Any = imported("numpy")
    if isinstance(value, numpy.datetime64):
        return _times(value)
    if isinstance(value, numpy.timedelta64):
        return _lengths(value)
    plain = value.item()
    if type(plain) is type(value) or isinstance(value, numpy.longdouble) and not isinstance(value, float):
        from ._advice import refusal  # a table that is seldom needed

        raise TypeError(refusal(value))
    return plain


def array(value: Any) -> Any:
    """An array as lists; times as texts, durations as nanoseconds."""
    if value.dtype.kind == "M":
        return _times(value)
    if value.dtype.kind == "m":
        return _lengths(value)
    return value.tolist()


def _times(value: Any) -> Any:
    """numpy's times as ISO 8601: a date where the unit is a day or longer, else a time that has
    seconds.
    """
    numpy: Any = imported("numpy")
    if numpy.isnat(value).any():
        return [_times(item) for item in value] if getattr(value, "shape", ()) else missing("NaT")
    unit = numpy.datetime_data(value.dtype)[0]
    if unit in ("Y", "M", "W"):
        value = value.astype("datetime64[D]")
    elif unit in ("h", "m"):
        value = value.astype("datetime64[s]")
    return numpy.datetime_as_string(value).tolist()


def _lengths(value: Any) -> Any:
    numpy: Any = imported("numpy")
    if getattr(value, "shape", ()):
        return [_lengths(item) for item in value]
    if is_one(value, "numpy.ma", "MaskedArray"):
        return None if value.mask else _lengths(value.data[()])
    if numpy.isnat(value):
        return missing("NaT")
    unit, count = numpy.datetime_data(value.dtype)
    if unit not in _UNITS:
        raise TypeError("timedelta64 in units of %s has no length in nanoseconds" % {"Y": "years", "M": "months"}.get(unit, unit))
    times, parts = _UNITS[unit]
    number, rest = divmod(int(value.astype("int64")) * count * times, parts)
    if rest:
        raise TypeError("%s has parts of a nanosecond" % value)
    return number


def model(value: Any) -> Any:
    """A pydantic model by its own rules; only its bytes are ours, for pydantic would make text of
    them, where it can.
    """
    if not hasattr(value, "model_dump"):
        return by_pydantic1(value.dict())
    kind = type(value)
    if kind not in _with_bytes:
        text = repr(getattr(kind, "__pydantic_core_schema__", ""))
        _with_bytes[kind] = any("'%s'" % word in text for word in ("bytes", "any", "is-instance")) or len(text) < 100
    if not _with_bytes[kind]:
        return value.model_dump(mode="json")
    inside = value.model_dump()
    if not _has_bytes(inside):
        return value.model_dump(mode="json")
    return by_pydantic(inside, imported("pydantic_core"))


def pydantic_dataclass(value: Any) -> Any:
    """An object of pydantic.dataclasses, by pydantic's rules."""
    inside = type(value).__pydantic_serializer__.to_python(value)
    return by_pydantic(inside, imported("pydantic_core"))


_with_bytes: Dict[type, bool] = {}


def _has_bytes(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_bytes(item) for item in value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return any(_has_bytes(item) for item in value)
    return isinstance(value, (bytes, bytearray)) or is_one(value, "numpy", "ndarray")


def by_pydantic(value: Any, core: Any) -> Any:
    if isinstance(value, dict):
        text = core.to_jsonable_python
        return {key if isinstance(key, str) else text(key): by_pydantic(item, core) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [by_pydantic(item, core) for item in value]
    return value if _has_bytes(value) else core.to_jsonable_python(value)


def by_pydantic1(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: by_pydantic1(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [by_pydantic1(item) for item in value]
    return value.total_seconds() if is_one(value, "datetime", "timedelta") else value


def _by_msgspec(value: Any, key_text: Callable[[Any], str]) -> Any:
    if isinstance(value, dict):
        return {key_text(key): _by_msgspec(item, key_text) for key, item in value.items()}
    if type(value) in (list, tuple, set, frozenset):
        return [_by_msgspec(item, key_text) for item in value]
    return imported("msgspec").to_builtins(value) if is_one(value, "datetime", "timedelta") else value


def raw(value: Any) -> Any:
    """What the JSON text says that a msgspec.Raw is."""
    data = bytes(value)
    try:
        text = data.decode("utf-8").strip()
        found, end = scan(text, 0)
    except (StopIteration, ValueError):
        end = -1
    if end < 0 or end != len(text):
        raise TypeError("this Raw is no JSON: %.100r" % data)
    return found


def struct(value: Any, key_text: Callable[[Any], str]) -> Any:
    """A msgspec object with its names and its tag; what is inside is left."""
    kind = type(value)
    config = kind.__struct_config__
    found = {} if config.tag is None else {config.tag_field: config.tag}
    defaults = dict(zip(reversed(kind.__struct_fields__), reversed(kind.__struct_defaults__))) if config.omit_defaults else {}
    unset = getattr(imported("msgspec"), "UNSET", None)
    for name, shown in zip(kind.__struct_fields__, kind.__struct_encode_fields__):
        item = getattr(value, name)
        default = defaults.get(name, unset)
        simple = type(item) is type(default) and type(item) in (str, int, float)
        if item is unset or item is default or (simple and item == default):
            continue
        found[shown] = _by_msgspec(item, key_text)
    return list(found.values()) if config.array_like else found
