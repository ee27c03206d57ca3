"""The wire: a line in as a request, a value out as JSON text. docs/protocol.md is the contract.

JSON goes through the C scanner and encoder of CPython's private `_json` directly, which saves half of the time that `json`'s
wrappers take and the import of `re`; where they are missing, `json` itself serves.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple, Union

    #: id, command, args, session_id, timeout_ms, stream, trace
    Request = Tuple[int, str, Any, Optional[str], Optional[int], bool, Optional[str]]
    #: As it was read, or one of a line of packed requests.
    Line = Union[bytes, Request]

MAX_ID = (1 << 64) - 1
#: Go's encoding/json refuses deeper documents; the envelope adds one level.
MAX_DEPTH = 9_999
#: Above this a result is written in three pieces, because joining them would copy it.
SPLIT_WRITE = 1 << 16
#: How a line of packed requests begins.
PACKED = '{"packed":['


class RequestError(Exception):
    """A line that is not a request. `id` is the line's, or None when it has none that can be read."""

    def __init__(self, kind: str, message: str, id: Optional[int]) -> None:
        super().__init__(message)
        self.kind = kind
        self.id = id


class Control(Exception):
    """Not an error: the line is a control line. One that arrives between calls belongs to a finished call: ignored."""


class Packed(Exception):
    """Not an error: the line has these requests, the first one last. Those that want care are lines of their own."""

    def __init__(self, requests: Sequence[Line]) -> None:
        super().__init__()
        self.requests = requests


class ResultError(Exception):
    """A value that cannot be sent; carries the fields of the error object beside `kind`."""

    def __init__(self, kind: str, **fields: Any) -> None:
        super().__init__(kind)
        self.kind = kind
        self.fields = fields


# ---------------------------------------------------------------------------------------------------------------- numbers


def _strict_float(text: str) -> float:
    number = float(text)
    if number - number != 0.0:  # 1e999 is infinity to float(), and no JSON number
        raise ValueError("number out of range: " + text[:40])
    return number


def _refuse_constant(name: str) -> Any:
    raise ValueError(name + " is not JSON")


# --------------------------------------------------------------------------------------------------------------- decoding


class _Context:
    """What the C scanner asks of a JSONDecoder."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = staticmethod(_strict_float)
    parse_int = int
    parse_constant = staticmethod(_refuse_constant)

    def __init__(self) -> None:
        self.memo: Dict[str, str] = {}


def _make_scanner(parse_float: Callable[[str], float] = _strict_float) -> Callable[[str, int], Tuple[Any, int]]:
    try:
        import _json

        context: Any = _Context()
        context.parse_float = parse_float
        scan: Callable[[str, int], Tuple[Any, int]] = _json.make_scanner(context)
        if scan('{"a":[1]}', 0) == ({"a": [1]}, 9):
            return scan
    except Exception:
        pass  # private to CPython: whatever it has become, json's public half still works
    from . import _fallback

    return _fallback.scanner(parse_float, _refuse_constant)


scan = _make_scanner()


#: What lies between the id and the arguments, and behind the arguments, of lines seen before, and what it means. The host
#: writes them the same way each time, so that for most requests nothing but the id and the arguments is left to parse.
_HEADS: Dict[str, str] = {}
_HEAD_OF: Dict[str, str] = {}  # the other way round
_TAILS: Dict[str, Tuple[Optional[str], Optional[int], bool, Optional[str]]] = {"}": (None, None, False, None)}
_REMEMBERED = 500
#: How the line begins that `foresee` expects, up to its arguments, and that call's id and command. No line begins with its end.
_foreseen: Tuple[str, int, str] = ("\n", 0, "")
_latest = 0


def parse_request(line: bytes) -> Request:
    """One line as a request. Raises RequestError, Control or Packed.

    The host writes the keys in the order of docs/protocol.md, so they are taken in that order and the arguments are parsed
    once; any other order is legal too, and read by `_envelope.parse`.
    """
    try:
        text = line.decode()
        start, id, command = _foreseen
        if text.startswith(start):
            args, end = scan(text, len(start))
        elif text[:6] == '{"id":':
            id, after = scan(text, 6)
            if type(id) is not int or not 0 < id <= MAX_ID:
                raise ValueError
            # An unescaped quote cannot stand inside a string: the first match is the key.
            at = text.find(',"args":', after)
            if at < 0:
                args, command, end = None, *_command(text, after)
            else:
                head = text[after:at]
                known = _HEADS.get(head)
                if known is not None:
                    command = known
                    args, end = scan(text, at + 8)
                else:
                    command = _remember(head)
                    args, end = scanner_for(command)(text, at + 8)
        elif text.startswith(PACKED):
            raise Packed(_unpack(text))
        else:
            raise ValueError
        session, timeout, stream, trace = _TAILS.get(text[end:]) or _tail(text, end, args)
    except (ValueError, StopIteration, RecursionError, SystemError):  # SystemError: see _envelope's import of json
        from . import _envelope

        return _envelope.parse(line)
    return id, command, args, session, timeout, stream, trace


def _unpack(text: str) -> List[Request]:
    """The requests of a line that begins with PACKED, the first one last."""
    packed, at = scan(text, len(PACKED) - 1)
    ids, args = packed[-2::-2], packed[::-2]
    if set(map(type, ids)) != {int} or min(ids) <= 0 or max(ids) > MAX_ID or len(packed) % 2:
        raise ValueError
    command, end = _command(text, at)
    scanner = scanner_for(command)
    if scanner is not scan:
        args = scanner(text, len(PACKED) - 1)[0][::-2]
    session, timeout, stream, trace = _TAILS.get(text[end:]) or _tail(text, end, None)
    return [(id, command, its, session, timeout, stream, trace) for id, its in zip(ids, args)]


def foresee(id: int, command: str) -> None:
    """Tell parse_request of a call that was served, while nobody waits: when calls come one by one, or in a batch, the next line
    asks for the same command under the next number, and to compare its beginning takes half as long as to parse it.
    """
    global _foreseen, _latest, _few
    if id == _latest + 1 and command in _HEAD_OF and id < MAX_ID:
        id_then = id + 1
        _foreseen = f'{{"id":{id_then}{_HEAD_OF[command]},"args":', id_then, command
    _latest = id
    if _few < _FEW:
        _few += 1


def _command(text: str, at: int) -> Tuple[str, int]:
    if not text.startswith(',"command":"', at):
        raise ValueError
    command: str
    command, at = scan(text, at + 11)
    return command, at


def _remember(head: str) -> str:
    command, end = _command(head, 0)
    if end != len(head):
        raise ValueError
    if len(_HEADS) < _REMEMBERED and scanner_for(command) is scan:
        _HEADS[head], _HEAD_OF[command] = command, head
    return command


def scanner_for(command: str) -> Callable[[str, int], Tuple[Any, int]]:
    """What reads a command's arguments: `scan`, or `_exact.scan_exactly` where one of its hints is a Decimal."""
    from ._commands import COMMANDS, PROGRAMS

    entry = COMMANDS.get(command)
    entries = [entry] if entry is not None else list(PROGRAMS.values()) if command == "execute_program" else []
    if entries:
        from . import _bind

        if any([_bind.exact(entry) for entry in entries]):
            from . import _exact

            return _exact.scan_exactly
    return scan


def _tail(text: str, at: int, args: Any) -> Tuple[Optional[str], Optional[int], bool, Optional[str]]:
    """session_id, stream, timeout_ms and trace, which stand behind the arguments, and behind the places of bytes in these."""
    if text.startswith(',"bytes":', at):
        from . import _exact

        paths, at = scan(text, at + 9)
        _exact.set_bytes(args, paths)
    start = at
    session = timeout = trace = None
    stream = False
    if text.startswith(',"session_id":"', at):
        session, at = scan(text, at + 14)
        if not session.isascii():
            session.encode()  # a lone surrogate is a ValueError
    if text.startswith(',"stream":true', at):
        stream = True
        at += 14
    if text.startswith(',"timeout_ms":', at):
        timeout, at = scan(text, at + 14)
        if type(timeout) is not int:
            raise ValueError
    if text.startswith(',"trace":"', at):
        trace, at = scan(text, at + 9)
    if text[at:] != "}":
        raise ValueError
    rest = (session, timeout, stream, trace)
    if session is None and trace is None and len(_TAILS) < _REMEMBERED:
        _TAILS[text[start:]] = rest
    return rest


# --------------------------------------------------------------------------------------------------------------- encoding


def _default(value: Any) -> Any:
    from . import _convert

    return _convert.to_json(value)


def make_encoder(escape_all: bool = True, default: Callable[[Any], Any] = _default) -> Callable[[Any, int], Iterable[str]]:
    """chunks(value, 0) -> the pieces of its JSON text."""
    try:
        import _json

        escape: Any = _json.encode_basestring_ascii if escape_all else _json.encode_basestring
        make: Any = _json.make_encoder
        chunks: Callable[[Any, int], Iterable[str]] = make(None, default, escape, None, ":", ",", False, False, False)
        if "".join(chunks({"a": [1, "\n"]}, 0)) == '{"a":[1,"\\n"]}':
            return chunks
    except Exception:
        pass
    from . import _fallback

    return _fallback.encoder(default, escape_all)


def make_escape() -> Callable[[str], str]:
    try:
        import _json

        function: Callable[[str], str] = _json.encode_basestring_ascii
        return function
    except Exception:
        return encode_raw


_chunks = make_encoder()


def encode_raw(value: Any) -> str:
    """A value as JSON text, unchecked."""
    return "".join(_chunks(value, 0))


#: A string as JSON text, unchecked.
escape = make_escape()
#: Set once the worker has imported orjson: see `_orjson`.
through_orjson: Optional[Callable[[Any], Optional[str]]] = None


def encode(value: Any) -> str:
    """A value as JSON text, ASCII only. Raises ResultError, with the path to what is not JSON.

    Encoding comes first; only a failure, or a text that may hide something JSON cannot say, walks the value.
    """
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
        if kind is dict and len(value) <= _few:
            text = _members(value)
            if text:
                return text
        text = "".join(_chunks(value, 0))
        if kind is dict and text.rfind("{") == 0:
            for key in value:
                if type(key) is not str and not isinstance(key, str):
                    raise TypeError
        elif "{" in text and _coerced_key(value, text):
            from . import _convert

            _convert.check(value)
        if "\\" in text and "\\ud" in text:  # the first of them is much quicker in a large text
            from . import _convert

            _convert.check_surrogates(value)
        return text
    except BaseException as error:
        from . import _convert

        raise _convert.explain(value, error) from None


#: The names of members as they stand in JSON, with the colon, of those seen before.
_NAMES: Dict[str, str] = {}
_LITERALS = {None: "null", True: "true", False: "false"}
_FEW = 8  # members; of more the encoder makes JSON as quickly
_BRIEF = 1024  # characters of a text that may be copied once for each of them
_PAUSE = 64  # calls without a try, after a dict had something else in it
_few = _FEW  # less while that lasts


def _members(value: Dict[Any, Any]) -> str:
    """A dict of a few texts, numbers and literals, as many results are, as JSON: the encoder, and the checks upon what it makes,
    take half as long again. Empty when anything else is in it: the next dicts are left to the encoder then, see `foresee`.
    """
    global _few
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
    _few = -_PAUSE
    return ""


def _name(key: str) -> str:
    key.encode()  # a lone surrogate is a ValueError, upon which the whole value is looked at
    name = escape(key) + ":"
    if len(_NAMES) < _REMEMBERED and len(key) <= _BRIEF:
        _NAMES[key] = name
    return name


def _coerced_key(value: Any, text: str) -> bool:
    """`_keys.coerced_key`, which takes this one's place when it is first needed: a start has no time for it."""
    from . import _keys

    globals()["_coerced_key"] = _keys.coerced_key
    return _keys.coerced_key(value, text)


#: The final line of a call that succeeded: its id, and its result as JSON text.
SUCCESS = '{"id":%d,"success":true,"result":%s}\n'
