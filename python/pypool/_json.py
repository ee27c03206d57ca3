"""JSON through the C scanner and encoder of CPython's private `_json`.

That saves half of the time that `json`'s wrappers take, and the import of `re`; where they are
missing, `json` itself serves, see `_fallback`.
"""

from __future__ import annotations

from ._wire import MAX_ID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, Optional, Tuple

    Scanner = Callable[[str, int], Tuple[Any, int]]
    Encoder = Callable[[Any, int], Iterable[str]]


def strict_float(text: str) -> float:
    number = float(text)
    if number - number != 0.0:  # 1e999 is infinity to float(), and no JSON number
        raise ValueError("number out of range: " + text[:40])
    return number


def refuse_constant(name: str) -> Any:
    raise ValueError(name + " is not JSON")


class _Context:
    """What the C scanner asks of a JSONDecoder."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = staticmethod(strict_float)
    parse_int = int
    parse_constant = staticmethod(refuse_constant)

    def __init__(self) -> None:
        self.memo: Dict[str, str] = {}


def make_scanner(parse_float: Callable[[str], float] = strict_float) -> Scanner:
    """scan(text, at) -> value, end. Raises ValueError, StopIteration, RecursionError."""
    try:
        import _json

        context: Any = _Context()
        context.parse_float = parse_float
        scan: Scanner = _json.make_scanner(context)
        if scan('{"a":[1]}', 0) == ({"a": [1]}, 9):
            return scan
    except Exception:
        pass  # private to CPython: whatever it has become, json's public half still works
    from . import _fallback  # imports json

    return _fallback.scanner(parse_float, refuse_constant)


def make_encoder(escape_all: bool = True, default: Optional[Callable[[Any], Any]] = None) -> Encoder:
    """chunks(value, 0) -> the pieces of its JSON text. `default` makes JSON of other types' values."""
    default = default or _refuse
    try:
        import _json

        escape: Any = _json.encode_basestring_ascii if escape_all else _json.encode_basestring
        make: Any = _json.make_encoder
        chunks: Encoder = make(None, default, escape, None, ":", ",", False, False, False)
        if "".join(chunks({"a": [1, "\n"]}, 0)) == '{"a":[1,"\\n"]}':
            return chunks
    except Exception:
        pass
    from . import _fallback  # imports json

    return _fallback.encoder(default, escape_all)


def make_escape() -> Callable[[str], str]:
    try:
        import _json

        function: Callable[[str], str] = _json.encode_basestring_ascii
        return function
    except Exception:
        return encode_raw


def _refuse(value: Any) -> Any:
    raise TypeError("%s is not JSON" % type(value).__qualname__)


def encode_raw(value: Any) -> str:
    """A value of JSON's own types as JSON text, unchecked."""
    return "".join(_chunks(value, 0))


scan = make_scanner()
_chunks = make_encoder()
#: A string as JSON text, unchecked.
escape = make_escape()


def id_of(text: str) -> Optional[int]:
    """The id of a line that cannot be read as a whole, by its prefix; None when that does not show
    it.
    """
    if not text.startswith('{"id":'):
        return None
    try:
        id, _ = scan(text, 6)
    except (ValueError, StopIteration, RecursionError):
        return None
    return id if type(id) is int and 0 < id <= MAX_ID else None
