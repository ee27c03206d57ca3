"""A line in as a request. The host writes the same things the same way: what was seen is
remembered.
"""

from __future__ import annotations

from ._json import scan
from ._wire import BATCH, BLOBS, MAX_ID, PACKED, RAW, REMEMBERED, SHARED, STREAM, Ahead, Packed, Shared

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Tuple

    from ._json import Scanner
    from ._wire import Request

#: What lies between the id and the arguments, and behind the arguments, of lines seen before, and
#: what it means: for most requests nothing but the id and the arguments is left to parse.
_HEADS: Dict[str, str] = {}
_HEAD_OF: Dict[str, str] = {}  # the other way round
_TAILS: Dict[str, Tuple[Optional[str], Optional[int], int, Optional[str]]] = {"}": (None, None, 0, None)}
#: The beginning of the line that `predict_next` expects, up to its arguments, and that call's id
#: and command. No line begins with its end.
_predicted: Tuple[str, int, str] = ("\n", 0, "")
_latest = 0


def _never(command: str) -> bool:
    return False


#: Whether a command wants its numbers with their text. Commands are unknown here: `_worker` sets
#: it.
wants_text: Callable[[str], bool] = _never


def parse_request(line: bytes) -> Request:
    """One line as a request. Raises RequestError, Control, Packed, Batch, Shared or Ahead.

    The host writes the keys in the order of docs/protocol.md, so they are taken in that order and
    the arguments are parsed once; any other order is legal too, and read by `_envelope.parse`.
    """
    try:
        text = line.decode()
        start, id, command = _predicted
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
        elif text.startswith(BATCH):
            from . import _envelope  # few scripts have batches

            raise _envelope.batch(text, scanner_for, line)
        elif text.startswith(SHARED):
            raise Shared
        elif text.startswith(RAW):
            raise Ahead
        else:
            raise ValueError
        session, timeout, how, trace = _TAILS.get(text[end:]) or _tail(text, end, args, line)
    except (ValueError, StopIteration, RecursionError, SystemError):  # SystemError: see _envelope's import of json
        from . import _envelope  # imports json

        return _envelope.parse(line, scanner_for)
    return id, command, args, session, timeout, how, trace


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
    session, timeout, how, trace = _TAILS.get(text[end:]) or _tail(text, end, None, b"")
    return [(id, command, its, session, timeout, how, trace) for id, its in zip(ids, args)]


def predict_next(id: int, command: str) -> None:
    """Predict the next line: same command, next id. Comparing a prefix costs half of parsing. Runs
    after the answer is out.
    """
    global _predicted, _latest
    if id == _latest + 1 and command in _HEAD_OF and id < MAX_ID:
        id_then = id + 1
        _predicted = f'{{"id":{id_then}{_HEAD_OF[command]},"args":', id_then, command
    _latest = id


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
    if len(_HEADS) < REMEMBERED and scanner_for(command) is scan:
        _HEADS[head], _HEAD_OF[command] = command, head
    return command


def scanner_for(command: str) -> Scanner:
    """What reads a command's arguments: `scan`, or `scan_exactly` where one of its hints is a
    Decimal.
    """
    if wants_text(command):
        from ._forms import scan_exactly  # for few commands

        return scan_exactly
    return scan


def _tail(text: str, at: int, args: Any, line: bytes) -> Tuple[Optional[str], Optional[int], int, Optional[str]]:
    """session_id, stream and take_blobs, timeout_ms and trace, which stand behind the arguments, and
    behind the places of bytes in these.
    """
    if text.startswith(',"bytes":', at):
        from ._forms import set_bytes  # for few requests

        paths, at = scan(text, at + 9)
        set_bytes(args, paths)
    blobs = None
    if text.startswith(',"blobs":', at):
        from ._payloads import place_all, used  # likewise

        blobs, at = scan(text, at + 9)
        place_all(args, blobs, line)
    start = at
    session = timeout = trace = None
    how = 0
    if text.startswith(',"session_id":"', at):
        session, at = scan(text, at + 14)
        if not session.isascii():
            session.encode()  # a lone surrogate is a ValueError
    if text.startswith(',"stream":true', at):
        how = STREAM
        at += 14
    if text.startswith(',"take_blobs":true', at):
        how |= BLOBS
        at += 18
    if text.startswith(',"timeout_ms":', at):
        timeout, at = scan(text, at + 14)
        if type(timeout) is not int:
            raise ValueError
    if text.startswith(',"trace":"', at):
        trace, at = scan(text, at + 9)
    if text[at:] != "}":
        raise ValueError
    if blobs is not None:
        used(line)
    rest = (session, timeout, how, trace)
    if session is None and trace is None and len(_TAILS) < REMEMBERED:
        _TAILS[text[start:]] = rest
    return rest
