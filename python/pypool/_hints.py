"""Type hints that ask for a conversion: a parameter hinted as a dataclass gets an object, not a dict."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict

    Converter = Callable[[Any], Any]


class ConversionError(Exception):
    """Text: the argument's path, and what was expected."""


def converters(func: Any, signature: Any) -> Dict[str, Converter]:
    return {}


def apply(converters: Dict[str, Converter], signature: Any, bound: Any) -> None:
    pass
