"""A line that is a batch: several calls of one command that its handler serves together.

Each call is bound, and answered, by itself: one that is refused has no entry in the handler's lists,
one whose result cannot be sent fails alone. The answers are written in the requests' order.
"""

from __future__ import annotations

from . import _bind, _cancel, _dispatch
from ._call import RUNNING
from ._columns import results
from ._commands import COMMANDS, PROGRAMS
from ._failure import error_line
from ._results import encode
from ._wire import BLOBS, SPLIT_WRITE, BindError, RequestError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

    from ._answers import Answers
    from ._commands import Command
    from ._wire import Request


def run(answers: Answers, id: int, batch: Sequence[Union[Request, RequestError]]) -> None:
    """Serve the calls, and write their final lines. `id` is the batch's."""
    calls = [request for request in batch if not isinstance(request, RequestError)]
    entries = [_entry(request) for request in calls]
    try:
        if not entries or entries[0] is None or entries[0].columns is None or entries.count(entries[0]) < len(entries):
            _one_by_one(answers, batch)
        else:
            _Batch(answers, entries[0], batch, calls).serve(id)
    finally:
        RUNNING.calls = None


def _entry(request: Request) -> Optional[Command]:
    if request[1] != "execute_program":
        return COMMANDS.get(request[1])
    named = request[2].get("program_id") if type(request[2]) is dict else None
    return PROGRAMS.get(named) if type(named) is str else None


def _args(entry: Command, request: Request) -> Any:
    args = request[2]
    return args if entry.what == "command" else _bind.inputs_of(entry, args.get("inputs"))


def _one_by_one(answers: Answers, batch: Sequence[Union[Request, RequestError]]) -> None:
    """Calls that are no batch: the script has replaced its command since it said that it takes them."""
    from . import _names  # seldom needed

    for request in batch:
        if isinstance(request, RequestError):
            answers.channel.write(_unread(answers, request))
            continue
        RUNNING.request = request
        if RUNNING.telemetry is not None:
            RUNNING.telemetry.enter(request[6])
        id, entry = request[0], _entry(request)
        try:
            if entry is None:
                line = answers.refused(id, _names.unknown("command", request[1], COMMANDS))
            else:
                line = _dispatch.run(answers, id, entry, _args(entry, request), request[5])
        except BindError as error:
            line = answers.refused(id, error.fields())
        except Exception as error:  # see Worker._other
            line = answers.internal(id, error)
        answers.channel.write(line)


def _unread(answers: Answers, error: RequestError) -> str:
    answers.errors += 1
    return error_line(error.id, {"kind": error.kind, "message": str(error)})


class _Batch:
    def __init__(
        self, answers: Answers, entry: Command, batch: Sequence[Union[Request, RequestError]], calls: Sequence[Request]
    ) -> None:
        self.answers = answers
        self.entry = entry
        self.batch = batch
        self.calls = calls
        #: The final lines of those that the handler does not see.
        self.refused: Dict[int, str] = {}

    def serve(self, id: int) -> None:
        answers, entry = self.answers, self.entry
        answers.calls += len(self.batch)
        RUNNING.calls = self.calls
        RUNNING.request = (id, self.calls[0][1], None, None, None, False, None)
        if entry.interruptible:
            self._serve()
        else:
            with _cancel.holding():
                self._serve()

    def _serve(self) -> None:
        taken, rows = self._bound()
        found: Sequence[Any] = ()
        failure: Optional[BaseException] = None
        if rows:
            RUNNING.calls = taken
            telemetry = RUNNING.telemetry
            span = None if telemetry is None else telemetry.enter_batch(self.entry.name, [request[6] for request in taken])
            try:
                returned = self.entry.columns.call(rows)
                if hasattr(type(returned), "__await__"):
                    from . import _async  # imports asyncio

                    returned = _async.run(returned)
                found = results(returned, len(rows))
            except BaseException as error:
                failure = error
            if span is not None:
                telemetry.leave_batch(span, failure)
        if failure is not None:
            self.answers.judge(self.entry, failure)
        self._answer(iter(found), failure)

    def _bound(self) -> Tuple[List[Request], List[Sequence[Any]]]:
        """The calls whose arguments fit, and these."""
        answers, entry = self.answers, self.entry
        _bind.exact(entry)  # so that it has been looked at
        taken, rows = [], []
        for request in self.batch:
            if isinstance(request, RequestError):
                continue
            try:
                rows.append(entry.columns.bind(_args(entry, request)))
                taken.append(request)
            except BindError as error:
                self.refused[request[0]] = answers.refused(request[0], error.fields())
            except BaseException as error:
                ours = isinstance(error, Exception) and _dispatch.is_ours(error)
                self.refused[request[0]] = answers.internal(request[0], error) if ours else answers.failed(request[0], error)
        return taken, rows

    def _answer(self, found: Any, failure: Optional[BaseException]) -> None:
        """Write all final lines, many at a time."""
        channel = self.answers.channel
        lines: List[str] = []
        size = 0

        def flush() -> None:
            nonlocal size
            if lines:
                channel.note_end()
                channel.write("".join(lines))
                lines.clear()
                size = 0

        for request in self.batch:
            if isinstance(request, RequestError):
                line = _unread(self.answers, request)
            else:
                id = request[0]
                line = self.refused.get(id) or (self.answers.failed(id, failure) if failure is not None else "")
                if not line:
                    value = next(found)
                    try:
                        if request[5] & BLOBS:
                            line = self._laden(id, value, flush)
                        else:
                            text = self._text(value)
                            if len(text) >= SPLIT_WRITE:
                                flush()
                            line = self.answers.succeeded(id, text)
                    except BaseException as error:
                        self.answers.judge(self.entry, error)
                        line = self.answers.failed(id, error)
            lines.append(line)
            size += len(line)
            if size >= SPLIT_WRITE:
                flush()
        flush()

    def _laden(self, id: int, value: Any, flush: Callable[[], None]) -> str:
        from . import _blobs  # many callers take none

        if isinstance(value, BaseException):
            raise value
        return _blobs.succeeded(self.answers, id, _blobs.prepared(self.entry, value), flush)

    def _text(self, value: Any) -> str:
        if isinstance(value, BaseException):
            raise value
        outgoing = _bind.outgoing(self.entry)
        return encode(outgoing(value) if outgoing else value)
