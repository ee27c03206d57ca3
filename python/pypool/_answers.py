"""The answers to a worker's requests as final lines, and the account of them."""

from __future__ import annotations

from time import monotonic

from ._call import RUNNING
from ._commands import DIRECT
from ._json import escape
from ._wire import SPLIT_WRITE, SUCCESS, BindError, ResultError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional

    from ._channel import Channel
    from ._commands import Command

#: What the runtime raises of arguments and results that do not fit, where a handler's exceptions are caught.
NO_HANDLERS = (BindError, ResultError)
#: Prebuilt: there may be no memory to describe the lack of memory.
OUT_OF_MEMORY = (
    '{"id":%d,"success":false,"error":{"kind":"python_exception","type":"MemoryError","module":"builtins",'
    '"message":"out of memory","traceback":"","notes":[]}}\n'
)


class Answers:
    """What helpers need of a worker. `hello` is hello's args."""

    def __init__(self, channel: Channel, hello: Dict[str, Any]) -> None:
        self.channel = channel
        self.limit: int = hello.get("max_message_bytes") or 1 << 26
        self.worker_id = hello.get("worker_id")
        self.started = monotonic()
        self.calls = 0
        self.errors = 0
        self.direct: Dict[str, Callable[..., Any]] = DIRECT

    def succeeded(self, id: int, text: str) -> str:
        """The final line for a result; empty when it was too large for one string and has been
        written.
        """
        size = len(text) + len(SUCCESS % (id, ""))
        if len(text) < SPLIT_WRITE and size <= self.limit:
            return SUCCESS % (id, text)
        self._check("result", size)
        self.channel.write_success(id, text)
        return ""

    def item(self, id: int, text: str) -> None:
        """Write one frame of a stream; text is JSON."""
        line = '{"id":%d,"item":%s}\n' % (id, text)
        self._check("item", len(line))
        self.channel.write(line)

    def _check(self, what: str, size: int) -> None:
        if size > self.limit:
            message = "the %s has %d bytes, the limit is %d" % (what, size, self.limit)
            raise ResultError("message_too_large", message=message, size=size, limit=self.limit)

    def failed(self, id: int, error: BaseException, entry: Optional[Command] = None, args: Any = None) -> str:
        """The final line for an exception; with `entry` it may be Python's refusal of its
        arguments.
        """
        self._check_whole(error)
        self.errors += 1
        fatal = entry is not None and entry.retire_on and not isinstance(error, NO_HANDLERS)
        if fatal and type(error) is not TypeError:
            self.judge(entry, error)  # type: ignore[arg-type]
        try:
            from . import _failure  # takes 2 ms, and most workers never fail

            fields = _failure.fields_of(error, entry, args)
            if fatal and type(error) is TypeError and fields["kind"] == "python_exception":
                self.judge(entry, error)  # type: ignore[arg-type]
            if RUNNING.retires(id):
                fields["retires"] = True
            return _failure.fitting_line(id, fields, self.limit)
        except MemoryError:
            return OUT_OF_MEMORY % id
        except BaseException:
            return plain_line(id, error)

    def judge(self, entry: Command, error: BaseException) -> None:
        """Have the worker replaced, if its command says so of what a handler has raised."""
        if entry.retire_on and not isinstance(error, NO_HANDLERS):
            try:
                from . import _retire  # for few commands

                _retire.judge(entry, error)
            except BaseException:
                pass  # no memory: the call has its answer all the same

    def refused(self, id: int, fields: Dict[str, Any]) -> str:
        """The final line for a call whose handler did not begin."""
        self.errors += 1
        from . import _failure  # see failed

        return _failure.fitting_line(id, fields, self.limit)

    def internal(self, id: int, error: BaseException) -> str:
        """The final line for an exception that is the runtime's own."""
        self._check_whole(error)
        from . import _failure  # see failed

        return self.refused(id, _failure.internal_fields(error))

    def _check_whole(self, error: BaseException) -> None:
        """Nothing may follow half a line: what struck while one was written is the loop's, which
        ends.
        """
        if self.channel.torn:
            raise error


def plain_line(id: int, error: BaseException) -> str:
    """The final line for an exception when telling it as it should be has failed: type and message,
    by nothing that can fail.
    """
    texts = ["Exception", "builtins", "an exception that cannot be described"]
    try:
        texts[:2] = type(error).__qualname__, type(error).__module__
        texts[2] = str(error)[:4096]
    except BaseException:
        pass
    fields = '"type":%s,"module":%s,"message":%s,"traceback":"","notes":[]' % tuple(map(escape, texts))
    return '{"id":%d,"success":false,"error":{"kind":"python_exception",%s}}\n' % (id, fields)
