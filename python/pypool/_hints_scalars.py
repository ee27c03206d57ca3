"""Conversions of one JSON value into one object: numbers, dates, durations, bytes, identifiers,
enumerations.
"""

from __future__ import annotations

from ._arrays import is_array
from ._forms import Number, is_a, plain_numbers, type_name
from ._results import encode
from ._wire import ResultError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, Optional, Tuple

    Converter = Callable[[Any], Any]

#: Whether text stands for bytes, in base64: only on the command line, where there is no other way
#: to say them.
TEXT_FOR_BYTES = False


class ConversionError(Exception):
    """An argument that cannot be converted; says which, what was expected, and what came."""

    def __init__(self, wanted: str, value: Any, reason: str = "") -> None:
        super().__init__()
        self.reason = reason
        self.steps: List[str] = []
        #: What is wrong, without the place.
        self.expected = "expected %s, got %s%s" % (wanted, _shown(value), ": " + reason if reason else "")

    def under(self, step: str) -> ConversionError:
        """The same, one level further out."""
        if step:
            self.steps.append(step)
        return self

    @property
    def path(self) -> str:
        """The place, like `rows[3].score`."""
        return "".join(reversed(self.steps)).lstrip(".")

    def brief(self) -> str:
        """What is wrong, as part of another message."""
        if not self.steps and self.reason:
            return self.reason
        return self.path + ": " + self.expected if self.steps else self.expected

    def __str__(self) -> str:
        return "%r: %s" % (self.path, self.expected)


def named(hint: Any) -> str:
    """A hint as words."""
    if hint is type(None):
        return "null"
    if isinstance(hint, type) and not getattr(hint, "__args__", None):
        return hint.__name__
    return str(hint).replace("typing.", "")


def scalar(kind: type, maker: Any) -> Optional[Converter]:
    """The converter of a class whose objects have one JSON value, or None. Libraries that are not
    loaded are not asked.
    """
    if kind is float:
        return exactly_float
    if is_bytes(kind):
        return _bytes(kind if kind in (bytearray, memoryview) else bytes)
    if is_a(kind, "enum", "Enum"):
        return _enumeration(kind)
    if is_a(kind, "datetime", "datetime"):
        parse = moment(kind) if kind.__module__.startswith("pandas") else _datetime(kind)
        return from_iso(kind, "an ISO 8601 date and time", parse)
    if is_a(kind, "datetime", "date"):
        return from_iso(kind, "an ISO 8601 date", _date(kind))
    if is_a(kind, "datetime", "time"):
        return from_iso(kind, "an ISO 8601 time", lambda text: kind.fromisoformat(_iso(text)))  # type: ignore[attr-defined]
    if is_a(kind, "datetime", "timedelta"):
        return duration(kind)
    if is_a(kind, "decimal", "Decimal"):
        maker.exact = True
        return _decimal(kind)
    for module, name, words in _TEXTS:
        if is_a(kind, module, name):
            return from_iso(kind, words, moment(kind) if module == "pandas" else kind)
    return None


#: ENFILE and EMFILE, in numbers: module errno may be what a script has put in its place.
_NO_DESCRIPTORS = (23, 24)

_TEXTS = (
    ("uuid", "UUID", "a UUID"),
    ("pathlib", "PurePath", "a path"),
    ("ipaddress", "IPv4Address", "an address"),
    ("ipaddress", "IPv6Address", "an address"),
    ("ipaddress", "IPv4Network", "a network"),
    ("ipaddress", "IPv6Network", "a network"),
    ("ipaddress", "IPv4Interface", "an interface"),
    ("ipaddress", "IPv6Interface", "an interface"),
    ("zoneinfo", "ZoneInfo", "a time zone"),
    ("pandas", "Period", "a period"),
)


# ------------------------------------------------------------------------------------------ numbers


def exactly_float(value: Any) -> float:
    """A number as a float. An integer must be one that it holds, or that Go writes for it: the
    shortest digits, then zeros.
    """
    kind = type(value)
    if kind is float:
        return value  # type: ignore[no-any-return]
    if kind is int:
        if -(1 << 53) <= value <= 1 << 53:
            return float(value)
        try:
            number = float(value)
            if int(number) == value or _digits(number) == value:
                return number
        except OverflowError:
            pass
        raise ConversionError("float", value, "a float would round it: send a float64, or hint int")
    if kind is Number:
        return plain(value)  # type: ignore[no-any-return]
    raise ConversionError("float (a number)", value)


def plain(value: Any) -> Any:
    """The value without the texts of its numbers."""
    try:
        return plain_numbers(value)
    except ValueError as error:
        raise ConversionError("numbers that a float holds", value, "" if type(value) is Number else str(error)) from None


def _digits(number: float) -> int:
    return digits_of(repr(number)) or int(number)


def digits_of(text: str) -> int:
    """A number as the shortest digits that tell it, then zeros, as Go writes it; 0 where it has a
    fraction.
    """
    head, _, power = text.partition("e+")
    whole, _, part = head.partition(".")
    part = part.rstrip("0")
    return int(whole + part) * 10 ** (int(power or 0) - len(part)) if len(part) <= int(power or 0) else 0


def _decimal(kind: Any) -> Converter:
    def decimal(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ConversionError("Decimal (a string or a number)", value)
        text = value.text if type(value) is Number else value if isinstance(value, (int, str)) else repr(value)
        try:
            made = kind(text)
        except ArithmeticError:
            raise ConversionError("Decimal (a string or a number)", value) from None
        if not made.is_finite():  # as a float cannot be either, and as pydantic has it
            raise ConversionError("Decimal (a finite number)", value)
        return made

    return decimal


# -------------------------------------------------------------------------------------------- bytes


def is_bytes(kind: Any) -> bool:
    buffer = getattr(kind, "__module__", "") == "collections.abc" and getattr(kind, "__name__", "") in ("ByteString", "Buffer")
    return buffer or kind in (bytes, bytearray, memoryview)


def _bytes(kind: Any) -> Converter:
    def to_bytes(value: Any) -> Any:
        if value is None:
            return kind(b"")  # Go's nil slice
        if isinstance(value, bytes):
            return value if kind is bytes else kind(value)
        if type(value) is list and all(type(item) is int and 0 <= item < 256 for item in value):
            return kind(bytes(value))  # Go's [N]byte
        if type(value) is str and TEXT_FOR_BYTES:
            try:
                return kind(_by_hand(value))
            except (OSError, ValueError) as error:
                how = "as @file" if value[:1] == "@" else "as base64"
                raise ConversionError("%s (%s)" % (kind.__name__, how), value, str(error)) from None
        advice = "what a json.RawMessage or a MarshalJSON writes is text: send []byte, or hint str" if type(value) is str else ""
        if is_array(value):
            advice = "hint numpy.ndarray, or pypool.Array"
        raise ConversionError("%s ([]byte in Go)" % kind.__name__, value, advice)

    return to_bytes


def _by_hand(text: str) -> bytes:
    """What stands for bytes on the command line: base64, or a file's name."""
    if text[:1] == "@":  # which is no character of base64
        with open(text[1:], "rb") as file:
            return file.read()
    from binascii import a2b_base64  # on the command line alone

    return a2b_base64(text)


# -------------------------------------------------------------------------------------------- times


def from_iso(kind: type, words: str, parse: Callable[[str], Any]) -> Converter:
    def convert(value: Any) -> Any:
        if not isinstance(value, str):
            raise ConversionError("%s (%s as a string)" % (kind.__name__, words), value)
        try:
            return parse(value)
        except (ValueError, LookupError, OSError) as error:  # a zone is a file
            if isinstance(error, OSError) and error.errno in _NO_DESCRIPTORS:
                raise
            raise ConversionError("%s (%s)" % (kind.__name__, words), value, str(error)) from None

    return convert


def _iso(text: str) -> str:
    """Go writes 2026-01-02T03:04:05.123456789Z; before Python 3.11 neither "Z" nor nanoseconds were
    understood.
    """
    if text[-1:] in ("Z", "z"):
        text = text[:-1] + "+00:00"
    head, dot, tail = text.partition(".")
    if dot:
        digits = 0
        while tail[digits : digits + 1].isdigit():
            digits += 1
        text = head + "." + tail[:digits][:6].ljust(6, "0") + tail[digits:]
    return text


def _datetime(kind: Any) -> Callable[[str], Any]:
    return lambda text: kind.fromisoformat(_iso(text))


def _date(kind: Any) -> Callable[[str], Any]:
    """A date; also a midnight: Go has no type for dates alone."""

    def date(text: str) -> Any:
        if len(text) <= 10:
            return kind.fromisoformat(text)
        import datetime  # loaded, by the hint

        at = datetime.datetime.fromisoformat(_iso(text))
        if at.time() != datetime.time():
            raise ValueError("it has a time of day")
        return kind(at.year, at.month, at.day)

    return date


def moment(kind: Any) -> Callable[[str], Any]:
    """A class of pandas' or NumPy's made of text: "now" and "today" are none, nor is "NaT", or nothing."""

    def made(text: str) -> Any:
        if not text.strip().lstrip("+-")[:1].isdigit():
            raise ValueError("it does not begin with a number")
        return kind(text)

    return made


def duration(kind: Any) -> Converter:
    words = "%s (an integer of nanoseconds, as time.Duration is)" % kind.__name__

    def convert(value: Any) -> Any:
        if type(value) is not int:
            raise ConversionError(words, value)
        if value == -(1 << 63):
            raise ConversionError(words, value, "it is what stands for a missing time")
        try:
            if is_a(kind, "numpy", "timedelta64"):
                return kind(value, "ns")
            if kind.__module__.startswith("pandas"):
                return kind(value, unit="ns")
            # A timedelta has no nanoseconds
            return kind(microseconds=value // 1000 if value >= 0 else -(-value // 1000))
        except (OverflowError, ValueError) as error:
            raise ConversionError(words, value, str(error)) from None

    return convert


# ------------------------------------------------------------------------------- one of some values


def _enumeration(kind: Any) -> Converter:
    def enumeration(value: Any) -> Any:
        try:
            member = kind(value)
        except (ValueError, TypeError):
            member = _by_json(kind, value)
        if member is None or isinstance(value, bool) != isinstance(member.value, bool):
            known = ", ".join("%r" % (member.value,) for member in list(kind)[:20])
            raise ConversionError("%s (one of %s)" % (kind.__name__, known), value) from None
        return member

    return enumeration


def _by_json(kind: Any, value: Any) -> Any:
    """The member whose value looks so in JSON: a tuple's is an array, a date's a text."""
    text = _in_json(value)
    for member in kind if text is not None else ():
        if _in_json(member.value) == text:
            return member
    return None


def _in_json(value: Any) -> Optional[str]:
    try:
        return encode(value)
    except ResultError:
        return None


def literal(values: Tuple[Any, ...]) -> Converter:
    """One of the values. An Enum's member stands for its value, and for what that looks like in JSON,
    where Go has 1 for 1.0.
    """
    members = [(wanted, _in_json(wanted.value)) for wanted in values if is_a(type(wanted), "enum", "Enum")]

    def one_of(value: Any) -> Any:
        kind = float if type(value) is Number else type(value)
        for wanted in values:
            plain = getattr(wanted, "value", wanted)
            if (type(plain) is kind or (type(plain) is float and kind is int)) and plain == value:
                return wanted
        if members:
            text = _in_json(value)
            for wanted, looks in members:
                if text is not None and text == looks:
                    return wanted
        shown = ", ".join(repr(getattr(v, "value", v)) if v is not None else "null" for v in values[:20])
        raise ConversionError("one of " + shown if len(values) > 1 else shown, value)

    return one_of


def too_deep(value: Any, error: RecursionError) -> ConversionError:
    """The error of a value that is nested too deeply to be converted; `error` itself, raised, where it
    is not, but somebody's code has no end.
    """
    level: List[Any] = [value]
    for _ in range(_DEEP):
        level = [item for one in level for item in (one.values() if type(one) is dict else one if type(one) is list else ())]
        if not level:
            raise error
    return ConversionError("what is nested less deeply", value)


#: Levels of what is nested deeply: a level takes several calls, of the thousand that Python has.
_DEEP = 50


def _shown(value: Any) -> str:
    """A value in an error message: its JSON type, and the value itself only when it is short and
    simple.
    """
    if type(value) is Number:
        return "a number %s" % value.text if len(value.text) <= 60 else "a number"
    if type(value) is int and abs(value) >= 10**60:
        return "a number"
    if is_array(value):
        return "an array of %s" % value.dtype
    if isinstance(value, (str, int, float)) and not isinstance(value, bool) and len(str(value)) <= 60:
        return "%s %r" % (type_name(value), value)
    return type_name(value)
