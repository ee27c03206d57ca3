"""A value out as JSON text: encoded first, and looked at only where that fails or may hide
something.
"""

from __future__ import annotations

from ._json import escape, make_encoder
from ._wire import REMEMBERED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional


def _default(value: Any) -> Any:
    return _convert().to_json(value)


def _convert() -> Any:
    from . import _convert  # most results are plain: a start has no time for it

    return _convert


_chunks = make_encoder(default=_default)
#: Set once the worker has imported orjson: see `_orjson`.
through_orjson: Optional[Callable[[Any], Optional[str]]] = None


def encode(value: Any) -> str:
    """A value as JSON text, ASCII only. Raises ResultError, with the path to what is not JSON."""
    global _pause
    try:
        kind = type(value)
        if kind is int:
            return repr(value)  # a subclass could say anything; the digit limit is a ValueError
        if kind is str and value.isascii():
            return escape(value)
        if through_orjson is not None:
            fast = through_orjson(value)
            if fast is not None:
                return fast
        if kind is dict and len(value) <= _FEW:
            if _pause:
                _pause -= 1
            else:
                text = _members(value)
                if text:
                    return text
        text = "".join(_chunks(value, 0))
        if kind is dict and text.rfind("{") == 0:
            for key in value:
                if type(key) is not str and not isinstance(key, str):
                    raise TypeError
        elif "{" in text and _coerced_key(value, text):
            _convert().check(value)
        if "\\" in text and "\\ud" in text:  # the first of them is much quicker in a large text
            _convert().check_surrogates(value)
        return text
    except BaseException as error:
        raise _convert().explain(value, error) from None


#: The names of members as they stand in JSON, with the colon, of those seen before.
_NAMES: Dict[str, str] = {}
_LITERALS = {None: "null", True: "true", False: "false"}
_FEW = 8  # members; of more the encoder makes JSON as quickly
_BRIEF = 1024  # characters of a text that may be copied once for each of them
_PAUSE = 64  # small dicts that are left to the encoder after one that had something else in it
_pause = 0  # those left


def _members(value: Dict[Any, Any]) -> str:
    """A dict of a few texts, numbers and literals, as many results are, as JSON: the encoder, and
    the checks upon what it makes, take half as long again. Empty when anything else is in it.
    """
    global _pause
    text = ""
    for key, item in value.items():
        if type(key) is not str:
            break
        name = _NAMES.get(key) or _name(key)
        kind = type(item)
        if kind is str and len(item) <= _BRIEF and item.isascii():
            text = f"{text},{name}{escape(item)}" if text else f"{{{name}{escape(item)}"
        elif kind is int or (kind is float and item - item == 0.0):
            text = f"{text},{name}{item}" if text else f"{{{name}{item}"
        elif item is None or kind is bool:
            text = f"{text},{name}{_LITERALS[item]}" if text else f"{{{name}{_LITERALS[item]}"
        else:
            break
    else:
        return text and text + "}"
    _pause = _PAUSE
    return ""


def _name(key: str) -> str:
    key.encode()  # a lone surrogate is a ValueError, upon which the whole value is looked at
    name = escape(key) + ":"
    if len(_NAMES) < REMEMBERED and len(key) <= _BRIEF:
        _NAMES[key] = name
    return name


def _coerced_key(value: Any, text: str) -> bool:
    """`_keys.coerced_key`, which takes this one's place when it is first needed: a start has no
    time for it.
    """
    from . import _keys

    globals()["_coerced_key"] = _keys.coerced_key
    return _keys.coerced_key(value, text)
