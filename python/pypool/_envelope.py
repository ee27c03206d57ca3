"""The careful way to read a request line: any order of keys, any white space, and a verdict upon
everything that is wrong.

`_requests.parse_request` comes here when a line is not exactly as the host writes it.
"""

from __future__ import annotations

import json.decoder  # noqa: F401  CPython's C scanner raises its JSONDecodeError, and up to 3.12 nothing at all where that is not loaded

from ._forms import scan_exactly, set_bytes
from ._json import id_of, scan
from ._wire import BATCH, BLOBS, MAX_ID, PACKED, SHARED, STREAM, Batch, Control, Packed, RequestError, Shared, is_reply

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Union

    from ._json import Scanner
    from ._wire import Request

_TYPES: Dict[str, Any] = {
    "id": (int, "an unsigned integer"),
    "command": (str, "a string"),
    "args": (object, "any value"),
    "bytes": (list, "an array of paths"),
    "blobs": (list, "an array of descriptors"),
    "session_id": (str, "a string"),
    "timeout_ms": (int, "an integer"),
    "stream": (bool, "a boolean"),
    "take_blobs": (bool, "a boolean"),
    "trace": (str, "a string"),
    "cancel": (bool, "a boolean"),
    "reply": (object, "any value"),
    "credit": (int, "an integer"),
    "stack": (bool, "a boolean"),
}
_CONTROL = ({"id", "cancel"}, {"id", "cancel", "stack"}, {"id", "stack"}, {"id", "credit"}, {"id", "reply"})


def parse(line: bytes, scanner_for: Callable[[str], Scanner]) -> Request:
    """One line as a request. Raises RequestError, Control, Packed, Batch or Shared, nothing else.

    What is wrong inside `args` is the caller's mistake and becomes invalid_arguments; what is wrong
    around it is the host's and becomes invalid_request.
    """
    if is_reply(line):
        raise Control
    if line.startswith(PACKED.encode()):
        raise Packed(_apart(line))
    if line.startswith(BATCH.encode()):
        raise Batch([_judged(one, scanner_for) for one in _members(line)])
    if line.startswith(SHARED.encode()):
        raise Shared
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        id = id_of(line.decode("utf-8", "replace"))
        if id is None:
            raise RequestError("invalid_request", "the line is not UTF-8: %s" % error, None) from None
        raise RequestError("invalid_arguments", "the arguments are not UTF-8: %s" % error, id) from None
    fields = _fields(text)
    id = fields.get("id")
    started = fields.pop("", 0)
    if set(fields) in _CONTROL:
        raise Control
    for key in ("cancel", "reply", "credit", "stack"):
        if key in fields:
            raise RequestError("invalid_request", "%r goes with 'id' alone" % key, id)
    if id is None or "command" not in fields:
        raise RequestError("invalid_request", "%r is missing" % ("id" if id is None else "command"), id)
    if "args" in fields:
        scanner = scanner_for(fields["command"])
        fields["args"], _ = _value(text, started, lambda message, kind: RequestError(kind, message, id), "args", scanner)
    if "bytes" in fields:
        try:
            set_bytes(fields.get("args"), fields["bytes"])
        except ValueError as error:
            # The host's mistake, or that of a value which encodes itself and does so in two ways
            raise RequestError("invalid_arguments", str(error), id) from None
    if "blobs" in fields:
        from ._arrays import Unloadable  # for few requests
        from ._payloads import place_all, used

        try:
            place_all(fields.get("args"), fields["blobs"], line)
            used(line)
        except Unloadable as error:
            raise RequestError("invalid_arguments", str(error), id) from None
        except ValueError as error:
            raise RequestError("invalid_request", str(error), id) from None
    elif type(line) is not bytes:
        raise RequestError("invalid_request", "payloads came, and there are no places for them", id)
    return (
        id,
        fields["command"],
        fields.get("args"),
        fields.get("session_id"),
        fields.get("timeout_ms"),
        STREAM * fields.get("stream", False) | BLOBS * fields.get("take_blobs", False),
        fields.get("trace"),
    )


_MEMBERS = frozenset(("id", "command", "args", "bytes", "blobs", "session_id", "take_blobs", "timeout_ms", "trace"))


def batch(text: str, scanner_for: Callable[[str], Scanner], line: bytes) -> Batch:
    """A line that begins with BATCH, as the host writes it. Raises ValueError and the like where it
    is not.
    """
    found, end = scan(text, len(BATCH) - 1)
    try:
        command = found[0]["command"]
        scanner = scanner_for(command)
        if scanner is not scan:
            found, end = scanner(text, len(BATCH) - 1)
        if text[end:] != "}":
            raise ValueError
        _place(found, line)
        requests = [_request(fields, command) for fields in found]
        if type(line) is not bytes:
            from ._payloads import used  # for few batches

            used(line)
        return Batch(requests)
    except (LookupError, TypeError, AttributeError):
        raise ValueError from None


def _place(found: List[Dict[str, Any]], line: bytes) -> None:
    """Put the payloads of a batch in their places: those of each request follow each other."""
    laden = [fields for fields in found if "blobs" in fields]
    if not laden:
        return
    from ._payloads import payloads_of, place  # for few batches

    payloads, at = payloads_of(line), 0
    for fields in laden:
        at = place(fields.get("args"), fields["blobs"], payloads, at)
    if at != len(payloads):
        raise ValueError


def _request(fields: Dict[str, Any], command: str) -> Request:
    id, args, timeout = fields["id"], fields.get("args"), fields.get("timeout_ms")
    if type(id) is not int or not 0 < id <= MAX_ID or fields["command"] != command or not _MEMBERS.issuperset(fields):
        raise ValueError
    session, trace = fields.get("session_id"), fields.get("trace")
    for text in (session, trace):
        if text is not None:
            text.encode()  # a lone surrogate is a ValueError
    if timeout is not None and type(timeout) is not int:
        raise ValueError
    if "bytes" in fields:
        set_bytes(args, fields["bytes"])
    return id, command, args, session, timeout, BLOBS * (fields.get("take_blobs") is True), trace


def _judged(line: bytes, scanner_for: Callable[[str], Scanner]) -> Union[Request, RequestError]:
    try:
        return parse(line, scanner_for)
    except RequestError as error:
        if error.id is not None:
            return error
        raise
    except (Control, Packed, Batch):
        raise RequestError("invalid_request", "a batch is of requests alone", None) from None


#: The tokens that show the structure of valid JSON; a string is one of them, as a whole.
_MARKS = rb'"[^"\\]*(?:\\.[^"\\]*)*"|[][{},]'


def _apart(line: bytes) -> List[bytes]:
    """A line of packed requests, one of which is not as it should be, as lines of one, so that each
    is judged by itself.
    """
    cuts = _cuts(line, len(PACKED) - 1)
    if len(cuts) % 2 == 0:
        raise RequestError("invalid_request", "a line of packed requests is not an array of ids and arguments", None)
    packed = [line[a + 1 : b] for a, b in zip(cuts, cuts[1:])]
    rest = line[cuts[-1] + 1 :]
    return [b'{"id":%s,"args":%s%s' % (id, args, rest) for id, args in zip(packed[-2::-2], packed[::-2])]


def _members(line: bytes) -> List[bytes]:
    """A line of a batch, one of which is not as it should be, as lines of one."""
    cuts = _cuts(line, len(BATCH) - 1)
    if len(cuts) < 2 or line[cuts[-1] + 1 :] != b"}":
        raise RequestError("invalid_request", "a batch is not an array of requests", None)
    return _with_payloads([line[a + 1 : b] for a, b in zip(cuts, cuts[1:])], line)


def _with_payloads(lines: List[bytes], line: bytes) -> List[bytes]:
    if type(line) is bytes:
        return lines
    from ._payloads import apart  # for few batches

    return apart(lines, line)


def _cuts(line: bytes, start: int) -> List[int]:
    """Where an array begins, where each of its values but the last one ends, and where it ends; empty
    where it does not.
    """
    import re

    depth, cuts = 0, [start]
    for found in re.finditer(_MARKS, line[start:], re.DOTALL):
        mark = found.group()
        if mark in (b"[", b"{"):
            depth += 1
        elif mark in (b"]", b"}"):
            depth -= 1
        if depth == 0 or (depth == 1 and mark == b","):
            cuts.append(start + found.start())
        if depth == 0:
            break
    return [] if depth else cuts


def _fields(text: str) -> Dict[str, Any]:
    fields: Dict[str, Any] = {}

    def wrong(message: str, kind: str = "invalid_request") -> RequestError:
        id = fields.get("id")
        return RequestError(kind if id is not None else "invalid_request", message, id)

    at = _skip(text, 0)
    if text[at : at + 1] != "{":
        raise wrong("the line is not a JSON object, it begins with %r" % text[at : at + 20])
    mark = ","
    while mark == ",":
        at = _skip(text, at + 1)
        if text[at : at + 1] != '"':
            raise wrong("expected a key in quotes at character %d" % at)
        key, at = _value(text, at, wrong, "")
        if key not in _TYPES:
            raise wrong("unknown key %r" % key)
        if key in fields:
            raise wrong("key %r twice" % key)
        at = _skip(text, at)
        if text[at : at + 1] != ":":
            raise wrong("expected a colon at character %d" % at)
        at = _skip(text, at + 1)
        if key == "args":
            fields[""] = at  # where they begin
        # The command tells how arguments are read, and may follow them
        value, at = _value(text, at, wrong, key, scan_exactly if key == "args" else scan)
        _check(key, value, wrong)
        fields[key] = value
        at = _skip(text, at)
        mark = text[at : at + 1]
    if mark != "}" or _skip(text, at + 1) != len(text):
        raise wrong("expected the end of the object at character %d" % at)
    return fields


def _value(text: str, at: int, wrong: Callable[..., RequestError], key: str, scanner: Scanner = scan) -> Any:
    try:
        return scanner(text, at)
    except StopIteration as stop:
        reason = "not JSON at character %s" % stop.value
    except RecursionError:
        reason = "nested too deeply"
    except ValueError as error:
        reason = str(error)
    if key == "args":
        raise wrong("the arguments cannot be read: " + reason, "invalid_arguments")
    raise wrong("the line cannot be read: " + reason, "invalid_request")


def _check(key: str, value: Any, wrong: Callable[..., RequestError]) -> None:
    wanted: Any = _TYPES[key][0]
    words: str = _TYPES[key][1]
    if not isinstance(value, wanted) or (wanted is int and type(value) is not int):
        raise wrong("%r must be %s" % (key, words))
    if key == "session_id" and not value.isascii() and not value.encode("utf-8", "ignore").decode() == value:
        raise wrong("'session_id' must be Unicode without lone surrogates")
    if key == "id" and not 0 < value <= MAX_ID:
        raise wrong("'id' must be between 1 and %d" % MAX_ID)


def _skip(text: str, at: int) -> int:
    while text[at : at + 1] in (" ", "\t", "\r", "\n") and at < len(text):
        at += 1
    return at
