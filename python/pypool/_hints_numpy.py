"""Conversions into NumPy's scalars, and of lists of numbers into arrays: what a class cannot hold is
refused, where NumPy would round it, or let it overflow.
"""

from __future__ import annotations

import sys

from ._arrays import Array
from ._finder import imported
from ._forms import is_a
from ._hints_scalars import ConversionError, digits_of, duration, exactly_float, from_iso, moment, plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, Optional

    Converter = Callable[[Any], Any]

_ROUNDED = "it would be rounded"
#: Of NumPy's classes that numbers of several sizes are of, the one that is made.
_ABSTRACT = {
    "floating": "float64",
    "inexact": "float64",
    "complexfloating": "complex128",
    "integer": "int64",
    "signedinteger": "int64",
    "unsignedinteger": "uint64",
}


def scalar(kind: Any) -> Optional[Converter]:
    """The converter of a class of NumPy's scalars; None for any other."""
    if is_a(kind, "numpy", "datetime64"):
        return from_iso(kind, "an ISO 8601 date and time", _datetime64)
    if is_a(kind, "numpy", "timedelta64"):
        return duration(kind)
    if is_a(kind, "numpy", "bool_"):
        return _of_type(kind, bool, "a boolean")
    if is_a(kind, "numpy", "integer"):
        return _of_type(kind, int, "an integer")
    if is_a(kind, "numpy", "floating"):
        return _floating(kind)
    return None


def _of_type(kind: Any, plain: type, words: str) -> Converter:
    numpy: Any = imported("numpy")
    make = getattr(numpy, _ABSTRACT.get(kind.__name__, ""), kind)
    limits = numpy.iinfo(make) if plain is int else None

    def of_type(value: Any) -> Any:
        if type(value) is not plain:
            raise ConversionError("%s (%s)" % (kind.__name__, words), value)
        if limits is not None and not limits.min <= value <= limits.max:
            raise ConversionError(kind.__name__, value, "out of its range")
        return make(value)

    return of_type


def _floating(kind: Any) -> Converter:
    numpy: Any = imported("numpy")
    make = getattr(numpy, _ABSTRACT.get(kind.__name__, ""), kind)

    def floating(value: Any) -> Any:
        number = exactly_float(value)
        with numpy.errstate(over="ignore"):
            made = make(number)
        if not numpy.isfinite(made):
            raise ConversionError(kind.__name__, value, "out of its range")
        if type(value) is int and int(made) != value and digits_of(str(made)) != value:
            raise ConversionError(kind.__name__, value, _ROUNDED)
        return made

    return floating


def _datetime64(text: str) -> Any:
    """numpy knows no zones: its times are in UTC."""
    numpy: Any = imported("numpy")
    import re  # for zones alone

    zone = re.search(r"([+-])(\d\d):(\d\d)$", text) if "T" in text else None
    if text[-1:] in ("Z", "z"):
        text = text[:-1]
    if zone is not None:
        text = text[: zone.start()]
    made = moment(numpy.datetime64)(text)
    year = text[:4]
    wraps = year.isdigit() and str(made)[:4] != year
    if zone is not None and not wraps:
        minutes = (int(zone.group(2)) * 60 + int(zone.group(3))) * (-1 if zone.group(1) == "-" else 1)
        try:
            moved = made - numpy.timedelta64(minutes, "m")
            wraps = (moved > made) != (minutes < 0) and minutes != 0
            made = moved
        except OverflowError:  # since NumPy 2.5
            wraps = True
    if wraps:
        raise ValueError("with this precision it is beyond NumPy's range: nanoseconds are counted from 1678 to 2262")
    return made


# ------------------------------------------------------------------------------------------- arrays


def of_lists(value: Any, words: str, scalar: Any = None) -> Any:
    """numpy.ndarray of lists of numbers, with elements of a class of NumPy's if one is named."""
    numpy: Any = imported("numpy")
    value = plain(value)
    try:
        found = numpy.array(value)
    except ValueError as error:  # rows of different lengths
        raise ConversionError(words, value, str(error)) from None
    if found.dtype.kind not in "biufc" or found.dtype.kind != "b" and _has_booleans(value):
        raise ConversionError(words, value, "these are no numbers")
    if found.dtype.kind == "f" and found.size and numpy.abs(found).max() >= 1 << 53:
        _check_integers(value)
    if scalar is not None and not issubclass(found.dtype.type, scalar):
        found = _cast(found, scalar, value, numpy)
    found.flags.writeable = False
    return found


def _has_booleans(value: Any) -> bool:
    """Whether there is a boolean in lists of numbers, of which NumPy would make 0 or 1."""
    kinds = set(map(type, value))
    return bool in kinds or list in kinds and any(map(_has_booleans, value))


def _check_integers(value: Any) -> None:
    """Refuse integers that a float would round."""
    for item in value:
        if type(item) is list:
            _check_integers(item)
        else:
            exactly_float(item)


def _cast(found: Any, scalar: Any, value: Any, numpy: Any) -> Any:
    words = "an array of %s" % scalar.__name__
    try:
        kind = numpy.dtype(_ABSTRACT.get(scalar.__name__, scalar.__name__))
    except TypeError:
        raise ConversionError(words, found) from None
    if not found.size and kind.kind in "biufc":
        return found.astype(kind)
    if kind.kind not in "iufc" or (found.dtype.kind == "f" and kind.kind in "iu") or found.dtype.kind == "b":
        raise ConversionError(words, found)
    with numpy.errstate(all="ignore"):
        made = found.astype(kind)
        fits = numpy.isfinite(made).all() if found.dtype.kind == "f" else (made.real.astype(found.dtype) == found).all()
        if fits and kind.kind in "iu":
            limits = numpy.iinfo(kind)
            fits = limits.min <= int(found.min()) and int(found.max()) <= limits.max
    if not fits:
        raise ConversionError(words, found, "a number in it is out of its range, or would be rounded")
    return made


def plain_of_lists(value: Any, words: str) -> Array:
    """pypool.Array of lists of numbers: bool, int64, uint64 or float64."""
    shape: List[int] = []
    level = value = plain(value)
    while type(level) is list:
        shape.append(len(level))
        level = level[0] if level else None
    flat: List[Any] = []
    _flatten(value, shape, flat, words)
    kinds = set(map(type, flat))
    if kinds == {bool}:
        dtype, code = "bool", "B"
    elif kinds == {int} and all([-(1 << 63) <= item < 1 << 63 for item in flat]):
        dtype, code = "int64", "q"
    elif kinds == {int} and all([0 <= item < 1 << 64 for item in flat]):
        dtype, code = "uint64", "Q"
    elif kinds <= {int, float}:
        dtype, code, flat = "float64", "d", [exactly_float(item) for item in flat]
    else:
        raise ConversionError(words, value, "these are no numbers")
    import array  # for lists alone

    elements = array.array(code, flat)
    if sys.byteorder == "big":
        elements.byteswap()
    return Array(dtype, shape, memoryview(elements.tobytes()))


def _flatten(value: Any, shape: List[int], flat: List[Any], words: str) -> None:
    if not shape:
        if type(value) is list:
            raise ConversionError(words, value, "its rows differ in length")
        flat.append(value)
        return
    if type(value) is not list or len(value) != shape[0]:
        raise ConversionError(words, value, "its rows differ in length")
    for item in value:
        _flatten(item, shape[1:], flat, words)
