"""Scanner and encoder from the public half of `json`, for interpreters without CPython's private
one.
"""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterable, Tuple


def scanner(parse_float: Callable[[str], float], parse_constant: Callable[[str], Any]) -> Callable[[str, int], Tuple[Any, int]]:
    """scan(text, at) -> value, end. Raises ValueError, RecursionError."""
    return json.JSONDecoder(parse_float=parse_float, parse_constant=parse_constant).raw_decode


def encoder(default: Callable[[Any], Any], escape_all: bool) -> Callable[[Any, int], Iterable[str]]:
    """chunks(value, 0) -> the pieces of its JSON text, compact."""
    encode = json.JSONEncoder(
        check_circular=False, allow_nan=False, ensure_ascii=escape_all, separators=(",", ":"), default=default
    ).encode
    return lambda value, _: (encode(value),)
