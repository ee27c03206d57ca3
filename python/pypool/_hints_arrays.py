"""Conversions into arrays, numpy.ndarray and pypool.Array, and into tables, where there are any."""

from __future__ import annotations

import typing

from . import _hints_scalars
from ._arrays import TABLES, Array, to_numpy
from ._finder import imported
from ._forms import is_a, is_one
from ._hints_numpy import of_lists, plain_of_lists
from ._hints_scalars import ConversionError
from ._schema_fields import bare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Optional

    Converter = Callable[[Any], Any]


def scalar(kind: Any, args: Any = ()) -> Optional[Converter]:
    """The converter of a class of arrays or tables, None for any other. args are those of
    numpy.ndarray[Any, numpy.dtype[...]].
    """
    if kind.__name__ in TABLES:
        from . import _hints_tables  # for tables alone

        return _hints_tables.converter(kind)
    if kind is not Array and not is_a(kind, "numpy", "ndarray"):
        return None
    elements = typing.get_args(args[1]) if len(args) == 2 else ()
    element = bare(elements[0]) if elements else None
    element = typing.get_origin(element) or element  # numpy.floating[Any]: the class alone can be asked
    return array(kind, element if is_a(element, "numpy", "generic") else None)


def array(kind: Any, scalar: Any = None) -> Converter:
    """The converter of numpy.ndarray, whose elements are of a class of NumPy's if one is named, and of
    pypool.Array. Lists of numbers become arrays, too.
    """
    words = "%s (pypool.Array in Go)" % kind.__name__

    def to_array(value: Any) -> Any:
        if value is None:
            value = []  # Go's nil slice
        if kind is Array:
            return _to_plain(value, words)
        numpy: Any = imported("numpy")
        if type(value) is Array:
            value = to_numpy(value, numpy)
        elif type(value) is str and value[:1] == "@" and _hints_scalars.TEXT_FOR_BYTES:
            try:
                value = numpy.load(value[1:], allow_pickle=False)
            except (OSError, ValueError) as error:
                raise ConversionError(words + ", as @file.npy", value, str(error)) from None
        elif type(value) is list:
            value = of_lists(value, words, scalar)
        if not isinstance(value, numpy.ndarray):
            raise ConversionError(words, value)
        if scalar is not None and not issubclass(value.dtype.type, scalar):
            raise ConversionError("an array of %s" % scalar.__name__, value)
        return value

    return to_array


def _to_plain(value: Any, words: str) -> Array:
    if is_one(value, "numpy", "ndarray"):
        value = Array(value.dtype.name, value.shape, value.data)
    elif type(value) is list:
        value = plain_of_lists(value, words)
    if type(value) is not Array:
        raise ConversionError(words, value)
    return value
