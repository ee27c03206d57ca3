"""Keys of objects that stand for something else than text: numbers, dates, members of an Enum,
tuples. Both ways.

As text they are what the value is in JSON, without its quotes: 1, 2026-01-02, and [1,2] for a
tuple.
"""

from __future__ import annotations

import typing

from ._convert import key_text
from ._forms import is_a, scan_exactly
from ._hints_scalars import ConversionError, exactly_float, literal, named
from ._hints_unions import fits
from ._json import scan
from ._schema_fields import bare, is_record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Optional


def reader(hint: Any, maker: Any) -> Optional[Callable[[Any], Any]]:
    """The converter of a key's text by its hint; None for text."""
    hint = bare(hint)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if is_a(origin, "numpy", "generic"):
        hint = origin  # numpy.integer[Any]
    if hint in (str, typing.Any, object):
        return None
    if origin is typing.Union or type(hint).__name__ == "UnionType":
        return _union(hint, args, maker)
    if hint in (int, float, bool):
        return _number(hint)
    if str(origin).endswith("Literal"):
        return _one_of(literal(args), named(hint))
    if origin is tuple or hint is tuple or is_record(origin or hint) and issubclass(origin or hint, tuple):
        return _tuple(maker.make(hint), scan_exactly if maker.exact else scan)
    if is_a(hint, "enum", "Enum"):
        return _one_of(maker.scalar(hint), hint.__name__)
    if is_a(hint, "datetime", "timedelta") or is_a(hint, "numpy", "timedelta64"):
        return _after(_number(int), maker.scalar(hint))
    for names, kind in _OF_NUMPY:
        if is_a(hint, "numpy", *names):
            return _after(_number(kind), maker.scalar(hint))
    convert = maker.scalar(hint) if isinstance(hint, type) and hint not in (bytes, bytearray, memoryview) else None
    target = origin or hint
    if convert is None and isinstance(target, type) and not issubclass(target, str):
        return _never(named(hint))
    return convert


#: Of NumPy's scalars how their text is read.
_OF_NUMPY = ((("bool_",), bool), (("integer",), int), (("floating",), None))


def _never(name: str) -> Callable[[Any], Any]:
    def never(key: Any) -> Any:
        raise ConversionError("a key of type %s" % name, key, "a key in JSON is text, and pypool knows none for it")

    return never


def _number(kind: Any) -> Callable[[Any], Any]:
    """Of a class; None: of any, as it is written."""

    def number(key: Any) -> Any:
        try:
            value, end = scan(key, 0)
        except (ValueError, StopIteration, RecursionError):
            value, end = None, -1
        if end == len(key) and kind is float and type(value) in (int, float):
            return exactly_float(value)
        if end == len(key) and (type(value) in (int, float) if kind is None else type(value) is kind):
            return value
        raise ConversionError("a key that is %s" % {int: "an integer", bool: "true or false"}.get(kind, "a number"), key)

    return number


def _after(first: Callable[[Any], Any], then: Any) -> Callable[[Any], Any]:
    return lambda key: then(first(key))


def _tuple(convert: Any, scan: Any) -> Callable[[Any], Any]:
    def as_tuple(key: Any) -> Any:
        try:
            value, end = scan(key, 0)
        except (ValueError, StopIteration, RecursionError):
            value, end = None, -1
        if end != len(key) or type(value) is not list:
            raise ConversionError("a key that is a tuple, as JSON: [1,2]", key)
        made = convert(value)
        try:
            try:
                hash(made)
            except TypeError:  # a hint of tuples that does not say what is in them
                made = _frozen(made)
                hash(made)
        except TypeError as error:
            raise ConversionError("a key", key, str(error)) from None
        return made

    return as_tuple


def _frozen(value: Any) -> Any:
    return tuple([_frozen(item) for item in value]) if type(value) in (list, tuple) else value


def _one_of(convert: Any, name: str) -> Callable[[Any], Any]:
    """Members by their values' text: "1" is the text's, or else the number's."""

    def one_of(key: Any) -> Any:
        try:
            return convert(key)
        except ConversionError as failure:
            try:
                value, end = scan(key, 0)
            except (ValueError, StopIteration, RecursionError):
                raise failure from None
            if end != len(key) or type(value) is str:
                raise failure from None
            try:
                return convert(value)
            except ConversionError:
                raise failure from None

    return one_of


def _union(hint: Any, args: Any, maker: Any) -> Optional[Callable[[Any], Any]]:
    readers = [reader(arg, maker) for arg in args if bare(arg) is not type(None)]
    if any(read is None for read in readers):
        return None  # text is text

    def union(key: Any) -> Any:
        if fits(key, hint):
            return key  # a Literal's value
        for read in readers:
            try:
                return read(key)  # type: ignore[misc]
            except ConversionError:
                continue
        raise ConversionError("a key that is %s" % named(hint), key)

    return union


# ------------------------------------------------------------------------------------------ results


def writer(hint: Any, maker: Any) -> Optional[Callable[[Any], str]]:
    """The function that makes text of a key, where the result's hint says that keys are not text;
    else None. It raises KeyRefused for a key that the same hint would not make of its text again.
    """
    hint = bare(hint)
    if hint in (str, typing.Any, object) or typing.get_origin(hint) is None and not isinstance(hint, type):
        return None
    read = reader(hint, maker)

    def text_of(key: Any) -> str:
        if type(key) is hint is int:
            return int.__repr__(key)
        text = key_text(key)
        try:
            again = text if read is None else read(text)
        except ConversionError as error:
            raise KeyRefused(key, text, hint, "be refused: " + error.expected) from None
        # What is text already is sent as it is
        if isinstance(key, str) or again == key or key != key:
            return text
        raise KeyRefused(key, text, hint, "come back as %.100r" % (again,))

    return text_of


class KeyRefused(TypeError):
    """A key of which the result's hint would make another one, or none."""

    def __init__(self, key: Any, text: str, hint: Any, reason: str) -> None:
        words = "key %.100r of type %s is not for the result's hint, %s: as text it would %s"
        super().__init__(words % (key, type(key).__qualname__, named(hint), reason))
        self.text = text
