"""Results through orjson, where the worker has imported it: several times as fast, and never another result.

It writes NaN and infinity as null, and text as UTF-8: what it has written may be sent when it is ASCII and there is no null in
it, or all the floats behind it are finite. It refuses integers beyond 64 bits, lone surrogates, keys that are no strings, deep
nesting, and, being told so, the types that `_convert` or the C encoder knows more about. All that is refused or in doubt goes
the ordinary way, which also finds the words for what is wrong with it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, Optional

_PLAIN = frozenset((str, int, bool, type(None)))


def encoder(orjson: Any) -> Callable[[Any], Optional[str]]:
    """The function that returns a value's JSON text in ASCII, or None when it is not this module's."""
    dumps = orjson.dumps
    options = orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME

    def encode(value: Any) -> Optional[str]:
        try:
            data: bytes = dumps(value, _refuse, options)
        except Exception:
            return None
        if not data.isascii() or (b"null" in data and not _finite(value)):
            return None
        return data.decode()

    return encode


def _refuse(value: Any) -> Any:
    raise TypeError(type(value).__name__)


def _finite(top: Any) -> bool:
    """Whether there are finite floats, and nothing but the plain JSON types."""
    pending: List[Any] = [(top,)]
    while pending:
        for item in pending.pop():
            kind = type(item)
            if kind is float:
                if item - item != 0.0:
                    return False
            elif kind is dict:
                pending.append(item.values())
            elif kind is list or kind is tuple:
                pending.append(item)
            elif kind not in _PLAIN:
                return False
    return True
