"""Names that were probably meant."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterable


def nearest(name: str, names: Any) -> str:
    """A hint at the name that was probably meant, to stand behind what is wrong."""
    try:
        if not name.isascii():
            from unicodedata import normalize

            if normalize("NFKC", name) in names:
                return ": it is %r in another Unicode form; Python's names are in NFKC" % ascii(normalize("NFKC", name))[1:-1]
        from difflib import get_close_matches
    except Exception:
        return ""  # no descriptor is left to load it with, say

    close = get_close_matches(name, list(names), 1)
    return ", did you mean %r?" % close[0] if close else ""


def unknown(what: str, name: str, names: Iterable[str]) -> Dict[str, Any]:
    """The error object for a command or program that nobody registered; names come nearest first."""
    wanted, ordered = name[:128].lower(), list(names)
    try:
        from difflib import SequenceMatcher

        ordered.sort(key=lambda other: -SequenceMatcher(None, wanted, other.lower()).ratio())
    except Exception:
        pass  # it cannot be loaded any more: in the order of registration, then
    message = "unknown %s %r" % (what, name[:128])
    message += "; known are: " + ", ".join(ordered[:10]) if ordered else "; none is registered"
    return {"kind": "unknown_command", "message": message, "what": what, "names": ordered}
