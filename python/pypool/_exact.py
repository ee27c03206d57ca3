"""Arguments that JSON alone does not say: the digits of a number that a float has not, and bytes."""

from __future__ import annotations

from ._protocol import _make_scanner, _strict_float

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Number(float):
    """A float with the text it came as: for a Decimal every digit counts."""

    __slots__ = ("text",)
    text: str


def _with_text(text: str) -> Number:
    number = Number(_strict_float(text))
    number.text = text
    return number


#: As `scan`, with each float as a Number.
scan_exactly = _make_scanner(_with_text)


def set_bytes(args: Any, paths: Any) -> None:
    """Put bytes in the places of their base64 texts. Raises ValueError where the paths do not fit."""
    from binascii import a2b_base64

    try:
        for path in paths:
            holder, last = args, path[-1]
            for step in path[:-1]:
                holder = holder[step]
            if type(holder) is dict and type(last) is str:
                if last in holder:  # else it was left out, because of omitempty
                    holder[last] = a2b_base64(holder[last])
            elif type(holder) is list and type(last) is int and last >= 0:
                holder[last] = a2b_base64(holder[last])
            else:
                raise ValueError("a step that is none")
    except (TypeError, LookupError, ValueError) as error:
        raise ValueError("'bytes' does not fit the arguments: %s" % error) from None
