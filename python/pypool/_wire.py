"""The wire's words: docs/protocol.md is the contract."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Optional, Sequence, Tuple, Union

    #: id, command, args, session_id, timeout_ms, how (STREAM, BLOBS, both, or neither), trace
    Request = Tuple[int, str, Any, Optional[str], Optional[int], int, Optional[str]]
    #: As it was read, or one of a line of packed requests.
    Line = Union[bytes, Request]

MAX_ID = (1 << 64) - 1
#: Go's encoding/json refuses deeper documents; the envelope adds one level.
MAX_DEPTH = 9_999
#: What is said of a value that is deeper than that, or than the stack.
TOO_DEEP = "the result is nested too deeply"
#: Characters above which a result is written in three pieces, because joining them would copy it.
SPLIT_WRITE = 1 << 16
#: Entries of a table of what was seen before (commands, names of members).
REMEMBERED = 500
#: The beginning of a line of packed requests.
PACKED = '{"packed":['
#: The beginning of a line of requests that are one batch.
BATCH = '{"batch":['
#: The beginning of a line whose request is to be served beside others.
SHARED = '{"shared":'
#: The beginning of a line behind which payloads come, before the line that they belong to.
RAW = '{"raw":['
#: How a caller takes what a call gives: as items, and with bytes and arrays beside the JSON.
STREAM, BLOBS = 1, 2
#: The final line of a call that succeeded: its id, and its result as JSON text.
SUCCESS = '{"id":%d,"success":true,"result":%s}\n'


def is_reply(line: bytes) -> bool:
    """Whether a line answers the call of a function of the host's."""
    return line[:6] == b'{"id":' and line[6:40].lstrip(b"0123456789").startswith(b',"host":')


class RequestError(Exception):
    """A line that is not a request. `id` is the line's, or None when it has none that can be read."""

    def __init__(self, kind: str, message: str, id: Optional[int]) -> None:
        super().__init__(message)
        self.kind = kind
        self.id = id


class Control(Exception):
    """No error: the line is a control line. One between calls is for a call that is over."""


class Packed(Exception):
    """No error: the line has these requests, the first one last. Those that want care are lines."""

    def __init__(self, requests: Sequence[Line]) -> None:
        super().__init__()
        self.requests = requests


class Batch(Exception):
    """No error: the line is a batch of these requests, in their order. One that cannot be read is the
    RequestError that says so.
    """

    def __init__(self, requests: Sequence[Union[Request, RequestError]]) -> None:
        super().__init__()
        ids: Any = [one.id if isinstance(one, RequestError) else one[0] for one in requests]
        #: What the loop serves it as: the request of no command, with what no line can have for
        #: arguments, a tuple. Its number is the highest of all its ids: the host does not know which
        #: of them cannot be read.
        self.request: Request = (max(ids, default=0), "", tuple(requests), None, None, False, None)


class Shared(Exception):
    """No error: the line has a request that is to be served beside others."""


class Ahead(Exception):
    """No error: the line says that payloads follow."""


class BindError(Exception):
    """The arguments do not fit; its text is for the caller, and so is `errors`, see `_refusal`."""

    def __init__(self, message: str, errors: Sequence[Dict[str, Any]] = ()) -> None:
        super().__init__(message)
        self.errors = list(errors)

    def fields(self) -> Dict[str, Any]:
        """The error object."""
        fields: Dict[str, Any] = {"kind": "invalid_arguments", "message": str(self)}
        if self.errors:
            fields["errors"] = self.errors
        return fields


class ResultError(Exception):
    """A value that cannot be sent; carries the fields of the error object beside `kind`."""

    def __init__(self, kind: str, **fields: Any) -> None:
        super().__init__(kind)
        self.kind = kind
        self.fields = fields
