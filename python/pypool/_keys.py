"""Keys that are no strings: JSON has none, and the C encoder makes strings of numbers, booleans and
None without a word.
"""

from __future__ import annotations

from ._wire import SPLIT_WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_KEY_ENDS = ('0":', '1":', '2":', '3":', '4":', '5":', '6":', '7":', '8":', '9":')
_KEY_WORDS = ('"true":', '"false":', '"null":')
#: Digits as 0, and letters so that each of the words, and little else, ends in the same four.
_FOLDED = bytes.maketrans(b"123456789" + b"tna" + b"ruels", b"000000000" + b"ttt" + b"rrrrr")
_LEAVES = frozenset((str, int, float, bool, type(None)))


def coerced_key(value: Any, text: str) -> bool:
    """Whether a key may have been a number, a boolean or None before the C encoder made a string of
    it.
    """
    if len(text) < SPLIT_WRITE:
        for end in _KEY_ENDS:
            if end in text:
                return True
        for word in _KEY_WORDS:
            if word in text:
                return True
        return False
    # Over a large text one translation is cheaper than ten searches, and a walk cheaper than being
    # wrong.
    folded = text.encode("ascii").translate(_FOLDED)
    if b'0":' in folded or (b'trrr":' in folded and any(word in text for word in _KEY_WORDS)):
        return not _plain_keys(value)
    return False


def _plain_keys(top: Any) -> bool:
    """Whether all of the value is made of plain JSON types with strings as keys; TypeError upon
    another key.
    """
    pending = [top]
    join = "".join
    leaves = _LEAVES
    while pending:
        value = pending.pop()
        if type(value) is dict:
            join(value)
            pending += [item for item in value.values() if type(item) not in leaves]
        elif type(value) is list or type(value) is tuple:
            pending += [item for item in value if type(item) not in leaves]
        elif type(value) not in leaves:
            return False
    return True
