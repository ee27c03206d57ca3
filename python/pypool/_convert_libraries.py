"""Results of libraries that have many kinds of values: numpy, pydantic, msgspec. Only where they
are loaded.
"""

from __future__ import annotations

from ._arrays import travels
from ._finder import imported
from ._forms import base64_text, is_one, missing
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
    if value.dtype.names:
        return array(numpy.asarray(value))
    plain = value.item()
    if type(plain) is type(value) or isinstance(value, numpy.longdouble) and not isinstance(value, float):
        from ._advice import refusal  # a table that is seldom needed

        raise TypeError(refusal(value))
    return plain


def array(value: Any) -> Any:
    """An array as lists; times as texts, durations as nanoseconds; a structure as a list of its
    fields.
    """
    if value.dtype.kind == "M":
        return _times(value)
    if value.dtype.kind == "m":
        return _lengths(value)
    if value.dtype.names:  # numpy would make numbers of the times in it
        return _rows([array(value[name]) for name in value.dtype.names], value.ndim)
    return value.tolist()


def _rows(columns: Any, depth: int) -> Any:
    """The fields of structures, each an array as lists, as an array of structures."""
    return [_rows(row, depth - 1) for row in zip(*columns)] if depth else list(columns)


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


def model(value: Any, key_text: Callable[[Any], str]) -> Any:
    """A pydantic model by its own rules; only its bytes are ours, for pydantic would make text of
    them, where it can.
    """
    return _dumped(value, value.model_dump) if hasattr(value, "model_dump") else _by_pydantic1(value.dict(), value, key_text)


def pydantic_dataclass(value: Any) -> Any:
    """An object of pydantic.dataclasses, by pydantic's rules."""
    return _dumped(value, lambda **how: type(value).__pydantic_serializer__.to_python(value, **how))


_adapters: Dict[type, Any] = {}


def by_schema(value: Any) -> Any:
    """An object of a class that tells pydantic how it looks, as HttpUrl does."""
    kind = type(value)
    if kind not in _adapters:
        _adapters[kind] = imported("pydantic").TypeAdapter(kind)
    found = _adapters[kind].dump_python(value, mode="json")
    if type(found) is kind:
        from ._advice import refusal  # a table that is seldom needed

        raise TypeError(refusal(value))
    return found


_with_bytes: Dict[type, bool] = {}
#: Words of the schemas of classes whose objects may have bytes in them.
_BYTES = ("bytes", "any", "is-instance", "allow", "function-plain", "function-wrap")


def _dumped(value: Any, dump: Callable[..., Any]) -> Any:
    kind = type(value)
    if kind not in _with_bytes:
        text = repr(getattr(kind, "__pydantic_core_schema__", ""))
        _with_bytes[kind] = any("'%s'" % word in text for word in _BYTES) or len(text) < 100
    if _with_bytes[kind]:
        inside, named = dump(warnings=False), dump(by_alias=False, warnings=False)  # the third one warns
        places = _places(named)
        if places:
            try:
                return _joined(inside, named, places, {} if places is True else dump(mode="json", exclude=places), value)
            except (StopIteration, TypeError, ValueError):  # the class has another form in JSON, around its bytes
                return _by_pydantic(inside)
    return dump(mode="json")


def _places(value: Any) -> Any:
    """Where in what pydantic has dumped there is what it has no JSON for, and pypool has something:
    bytes, arrays, tables. As it is told what to leave out.
    """
    if isinstance(value, (set, frozenset)):
        return any(map(_places, value))
    if not isinstance(value, (dict, list, tuple)) and not is_one(value, "collections", "deque"):
        return not isinstance(value, _PLAIN) and (travels(value) or is_one(value, "numpy", "generic"))
    found = {key: _places(item) for key, item in _items(value)}
    return {key: places for key, places in found.items() if places}


_PLAIN = (str, int, float, type(None))


def _items(value: Any) -> Any:
    return value.items() if isinstance(value, dict) else enumerate(value)


def _joined(inside: Any, named: Any, places: Any, left: Any, source: Any) -> Any:
    """What pydantic has left in its JSON, and what it was told to leave out, in one. `source` is
    what all that was dumped from.
    """
    if not places:
        return left
    if is_one(source, "pydantic", "RootModel"):
        source = source.root
    if places is True:
        if type(source) is bytes and _is_base64(inside, source):
            return source
        return list(inside) if isinstance(inside, (set, frozenset)) else inside
    rest, found = iter(_items(left)), []
    for (key, item), (name, same) in zip(_items(inside), _items(named)):
        at = places.get(name)
        shown, plain = (_key(key), None) if at is True else next(rest)
        one = source[name] if hasattr(type(source), "__getitem__") else getattr(source, name, None)
        found.append((shown, _joined(item, same, at, plain, one)))
    for _ in rest:
        raise ValueError
    return dict(found) if isinstance(inside, dict) else [item for _, item in found]


def _is_base64(text: Any, data: bytes) -> bool:
    """Whether bytes stand for others as text, as pydantic.Base64Bytes has them."""
    if len(text) != (len(data) + 2) // 3 * 4:
        return False
    return bytes(text).translate(bytes.maketrans(b"-_", b"+/")) == base64_text(data).encode()


def _key(key: Any) -> Any:
    """A key as pydantic's JSON has it."""
    return next(iter(imported("pydantic_core").to_jsonable_python({key: None})))


def _by_pydantic(value: Any) -> Any:
    if isinstance(value, dict):
        return {_key(key): _by_pydantic(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_by_pydantic(item) for item in value]
    return value if _places(value) else imported("pydantic_core").to_jsonable_python(value)


def _by_pydantic1(value: Any, model: Any, key_text: Callable[[Any], str]) -> Any:
    """What is in a model as its own encoders have it, and pydantic's classes as pydantic does."""
    if isinstance(value, dict):
        found = {}
        for key, item in value.items():
            if isinstance(key, (int, float)) or key is None:  # all else it has no JSON for either
                key = "null" if key is None else key_text(key)
            found[key] = _by_pydantic1(item, model, key_text)
        return found
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_by_pydantic1(item, model, key_text) for item in value]
    kinds = type(value).__mro__
    own = not isinstance(value, (str, int, float)) and not model.__config__.json_encoders.keys().isdisjoint(kinds)
    if own or is_one(value, "datetime", "timedelta") or kinds[0].__module__.startswith("pydantic") and not isinstance(value, str):
        return model.__json_encoder__(value)
    return value


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
        # In an array what is left out would move the others: nothing is, and UNSET is refused.
        if not config.array_like and (item is unset or item is default or (simple and item == default)):
            continue
        found[shown] = _by_msgspec(item, key_text)
    return list(found.values()) if config.array_like else found
