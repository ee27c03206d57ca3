"""Payloads out: results, items and arguments of the host's functions whose bytes and arrays go
beside the JSON, for whoever takes them so (docs/protocol.md, "Payloads").
"""

from __future__ import annotations

from os import urandom

from . import _convert, _results
from ._arrays import export, travels
from ._bind import outgoing
from ._json import make_encoder
from ._wire import SPLIT_WRITE, ResultError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, Optional, Tuple

    from ._answers import Answers
    from ._commands import Command

#: What the encoder writes in the place of a payload, until a null stands there. Nobody else knows
#: it, so that no text of a result can be taken for it.
_MARK = "pypool:" + urandom(16).hex()
_QUOTED = '"%s"' % _MARK
#: Of one line: what the host takes.
MAX_PAYLOADS = 1 << 20
_PLAIN = frozenset((str, int, float, bool, bytes, type(None)))


def encode(value: Any, smallest: int) -> Tuple[str, str, List[Any]]:
    """A value as JSON text, its descriptors, and the payloads. Raises ResultError."""
    kind = type(value)
    if kind is bytes and len(value) >= smallest:
        return "null", '{"at":0}', [value]
    if kind in _PLAIN:
        return _results.encode(value), "", []
    found: List[Any] = []

    def default(item: Any) -> Any:
        out = export(item, smallest)
        if out is None:
            return _convert.to_json(item)
        found.append(out)
        return _MARK

    def leaf(item: Any) -> bool:
        return export(item, smallest) is not None

    try:
        text = "".join(make_encoder(default=default)(value, 0))
        if "{" in text and _results._coerced_key(value, text):
            _convert.check(value, leaf)
        if "\\ud" in text:
            _convert.check_surrogates(value, leaf)
    except BaseException as error:
        raise _convert.explain(value, error, leaf) from None
    if not found:
        return text, "", []
    if len(found) > MAX_PAYLOADS:
        message = "there are %d arrays in the result, and %d may be: put them together" % (len(found), MAX_PAYLOADS)
        raise ResultError("invalid_result", message=message, path="$")
    parts = text.split(_QUOTED)
    if len(parts) != len(found) + 1:
        raise ResultError("invalid_result", message="the result changed while it was encoded", path="$")
    at, blobs = 0, []
    for part, (described, _) in zip(parts, found):
        at += len(part)
        blobs.append('{"at":%d%s}' % (at, described))
        at += 4
    return "null".join(parts), ",".join(blobs), [_bytes(data) for _, data in found]


def _bytes(data: Any) -> Any:
    """A payload that `len` counts in bytes, and that write(2) takes."""
    return data if type(data) is bytes else memoryview(data).cast("B") if len(data) else b""


def prepared(entry: Command, value: Any, items: bool = False) -> Any:
    """A result, or an item, as its command's hint, and its `nan`, have it; payloads stay."""
    change = outgoing(entry, items)
    if not change:
        return value
    _convert.LEAVE.leaf = travels
    try:
        return change(value)
    finally:
        _convert.LEAVE.leaf = None


def succeeded(answers: Answers, id: int, value: Any, before: Optional[Callable[[], None]] = None) -> str:
    """The final line for a result; empty where it has been written, with its payloads. `before` is
    called before anything is.
    """
    text, blobs, payloads = encode(value, answers.channel.smallest)
    if before is not None and (payloads or len(text) >= SPLIT_WRITE):
        before()
    if not payloads:
        return answers.succeeded(id, text)
    line = '{"id":%d,"success":true,"result":%s,"blobs":[%s]}\n' % (id, text, blobs)
    answers._check("result", len(line) + size_of(payloads))
    answers.channel.write_laden(payloads, line, id)
    return ""


def item(answers: Answers, id: int, value: Any, put: Any = None, before: Optional[Callable[[], None]] = None) -> None:
    """Write one frame of a stream, with `put` where it has no payloads. `before` is called before
    payloads are written.
    """
    text, blobs, payloads = encode(value, answers.channel.smallest)
    line = '{"id":%d,"item":%s%s}\n' % (id, text, ',"blobs":[%s]' % blobs if payloads else "")
    answers._check("item", len(line) + size_of(payloads))
    if not payloads:
        (put or answers.channel.write)(line)
        return
    if before is not None:
        before()
    answers.channel.write_laden(payloads, line, 0)


def size_of(payloads: List[Any]) -> int:
    """Bytes."""
    return sum([len(data) for data in payloads])


def encode_laden(args: Any, smallest: int) -> Tuple[str, List[Any]]:
    """The arguments of a function of the host's that takes payloads, as keys of its line, and these."""
    text, blobs, payloads = encode(args, smallest)
    return ',"args":%s%s' % (text, ',"blobs":[%s]' % blobs if payloads else ""), payloads
