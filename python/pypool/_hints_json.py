"""Arguments as JSON text again, for classes that read it by their own rules."""

from __future__ import annotations

from ._forms import Number
from ._json import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, Optional


class HasBytes(Exception):
    """There is something in them that JSON has not: bytes, an array, a table."""


def json_text(value: Any, on_bytes: Optional[Callable[[bytes], str]]) -> str:
    """Arguments as JSON text again, numbers with the text they came with; between two NUL where a
    float would lose digits.
    """
    parts: List[str] = []
    _write(value, parts.append, on_bytes)
    return "".join(parts)


def _write(value: Any, put: Callable[[str], Any], on_bytes: Optional[Callable[[bytes], str]]) -> None:
    kind = type(value)
    if kind is str:
        put(escape(value))
    elif kind is dict:
        mark = "{"
        for key, item in value.items():
            put(mark + escape(key) + ":")
            _write(item, put, on_bytes)
            mark = ","
        put("{}" if mark == "{" else "}")
    elif kind is list:
        mark = "["
        for item in value:
            put(mark)
            _write(item, put, on_bytes)
            mark = ","
        put("[]" if mark == "[" else "]")
    elif kind is Number:
        put(value.text if held(value) else "\0%s\0" % value.text)
    elif kind is bytes:
        if on_bytes is None:
            raise HasBytes
        put('"%s"' % on_bytes(value))
    elif kind is bool or value is None:
        put({None: "null", True: "true", False: "false"}[value])
    elif kind is int or kind is float:
        put(repr(value))
    else:  # an array, a table
        raise HasBytes


def decimal_of(number: Number) -> Any:
    from decimal import Decimal

    return Decimal(number.text)


def held(number: Number) -> bool:
    from decimal import Decimal

    return decimal_of(number) == Decimal(float.__repr__(number))  # type: ignore[no-any-return]
