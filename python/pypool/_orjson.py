"""Results through orjson, where the worker has imported it: several times as fast, and the same to
whoever reads them.

orjson has its own ways with NaN (null), enums, fragments of JSON and more: only what is made of the
plain types is taken from it. It refuses integers beyond 64 bits, lone surrogates, keys that are no
strings and deep nesting, and writes text as UTF-8. All that goes the ordinary way, which also finds
the words for what is wrong with it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, Optional

_LEAVES = frozenset((str, int, bool, type(None)))


def encoder(orjson: Any) -> Callable[[Any], Optional[str]]:
    """The function that returns a value's JSON text in ASCII, or None when it is not this module's."""
    dumps = orjson.dumps

    def encode(value: Any) -> Optional[str]:
        try:
            data: bytes = dumps(value)  # first: it refuses what contains itself
            return data.decode() if data.isascii() and _plain(value) else None
        except Exception:
            return None

    return encode


def _plain(top: Any) -> bool:
    """Whether the value is made of str, int, bool, None, finite floats, lists, tuples and dicts,
    and of no subclass.
    """
    pending: List[Any] = [(top,)]
    leaves = _LEAVES
    while pending:
        for item in pending.pop():
            kind = type(item)
            if kind in leaves:
                continue
            if kind is float:
                if item - item != 0.0:
                    return False
            elif kind is dict:
                pending.append(item.values())
            elif kind is list or kind is tuple:
                pending.append(item)
            else:
                return False
    return True
