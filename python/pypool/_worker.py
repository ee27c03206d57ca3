"""The loop: one request, one handler, one answer.

    host ----> fd in ---> Channel.next_line ---> parse_request
                                                      |
                           _builtins  <--- no --- a plain command? --- yes ---> handler(**args)      Worker.serve,
                           _dispatch, _stream         (Worker._other)               |               the hot path
                                |                                                 encode
    host <---- fd out <--- Channel.write <--------------------------------- one final line

    watch thread: waits for the host's hang-up; kills the process group when a call is running (`_life`)

Nothing else writes to fd out. write(2) of a call's final line has returned before the next request
begins, so of pipelined requests those behind the first unanswered one were not executed.
"""

from __future__ import annotations

from time import monotonic_ns

try:
    from _contextvars import copy_context
except ImportError:
    from contextvars import copy_context

from . import _life, _requests
from ._answers import Answers, plain_line
from ._call import RUNNING
from ._channel import READING
from ._commands import COMMANDS, PROGRAMS
from ._page import WORKED
from ._requests import parse_request, predict_next
from ._results import encode
from ._stdio import OPEN
from ._wire import SPLIT_WRITE, Ahead, Batch, Control, Packed, RequestError, ResultError, Shared

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextvars import Context, ContextVar
    from typing import Any, Dict, Iterable, NoReturn, Optional, Tuple

    from ._channel import Channel
    from ._wire import Line, Request

#: Keeps a time in the page's range, should a handler turn the clock back (as tests do, by
#: patching).
MAX_NS = (1 << 63) - 1


class Worker:
    """A process's one server. `hello` is hello's args."""

    def __init__(self, channel: Channel, hello: Dict[str, Any]) -> None:
        self.channel = channel
        self.answers = Answers(channel, hello)
        _requests.wants_text = wants_text

    def serve(self) -> NoReturn:
        """Answer requests until the host says `shutdown` or is gone.

        Each call finds the context variables as the script and its setups have left them.
        """
        base = copy_context()
        while True:
            try:
                context = base.copy()
                if context.run(self._serve, context, base):
                    from . import _tasks  # imports asyncio

                    _tasks.serve(self.answers, base)
            except BaseException as error:  # struck by a signal handler where it was handling something else
                _life.note("the worker ends: raised between two calls, by a signal handler perhaps:\n" + plain_line(0, error))
                _life.end(1)

    def _serve(self, context: Context, base: Context) -> bool:
        """Answer requests until one has set a context variable, or wants to be served beside others,
        which is told. `context` is the one that this runs in, a copy of `base`.
        """
        channel, answers = self.channel, self.answers
        lines, next_line, write, direct = channel.lines, channel.next_line, channel.write, answers.direct.get
        page, running = channel.page, RUNNING
        small = min(SPLIT_WRITE, answers.limit - 64)
        unended, variables = OPEN, tuple(base.items())
        while True:
            id, line, writing, result = 0, None, False, None
            # Around the clauses too: one that is struck by a signal handler may have lost what it
            # had in hand
            try:
                try:
                    if lines:
                        # Not pop: a signal handler that raises could strike before it is stored
                        line = lines[-1]
                        del lines[-1]
                    else:
                        line = READING
                        line = next_line()
                    if line is None:
                        _life.host_gone()
                    running.began = began = monotonic_ns()
                    request = line if isinstance(line, tuple) else parse_request(line)
                    id, name, args, _, _, stream, trace = request
                    running.request = request
                    handler = direct(name)
                    if handler is None or stream:
                        answer = self._other(request)
                    else:
                        answers.calls += 1
                        try:
                            if trace is not None and running.telemetry is not None:
                                running.telemetry.enter(trace)
                            if type(args) is dict:
                                result = handler(**args)
                            elif args is None:
                                result = handler()
                            elif type(args) is list:
                                result = handler(*args)
                            else:
                                raise TypeError
                            text = encode(result)
                            if len(text) < small:
                                # SUCCESS, in half its time
                                answer = f'{{"id":{id},"success":true,"result":{text}}}\n'
                            else:
                                answer = answers.succeeded(id, text)
                        except ResultError as error:
                            answer = self._unusual(id, name, result, error)
                        except BaseException as error:
                            answer = answers.failed(id, error, COMMANDS[name], args)
                    writing = True
                    write(answer)
                    if unended:
                        from . import _output  # loaded by what was printed

                        _output.end_lines()
                    # The host waits for no more than the answer: what follows costs it nothing.
                    # With requests at hand it would.
                    if not lines:
                        page[WORKED] = (monotonic_ns() - began) & MAX_NS
                        predict_next(id, name)
                    # Nothing of a call stays alive while the loop waits.
                    running.request = line = request = args = handler = result = text = answer = None  # type: ignore[assignment]
                    try:
                        if context != base or (variables and _replaced(context, variables)):
                            return False
                    except Exception:
                        return False  # some value of a variable cannot be compared
                except Packed as packed:
                    lines.extend(packed.requests)
                except Batch as batch:
                    lines.append(batch.request)
                except Control:
                    pass  # for a call that is over
                except Ahead:
                    channel.take(line + b"\n")  # type: ignore[operator]
                except Shared:
                    lines.append(line)  # type: ignore[arg-type]
                    return True
                except RequestError as error:
                    from . import _failure  # no host sends such a line

                    refusal, writing = _failure.error_line(error.id, {"kind": error.kind, "message": str(error)}), True
                    write(refusal)
                    running.request = None
            except BaseException as error:
                self._escaped(line, id, error, writing)

    def _escaped(self, line: Optional[Line], id: int, error: BaseException, writing: bool) -> None:
        try:
            from . import _escaped  # few workers are struck

            _escaped.escaped(self.answers, line, id, error, writing)
        except BaseException as failure:
            # The answer to this call, if there was to be one, may be out or not.
            _life.note("the worker ends: what was raised between two calls cannot be told: %s" % type(failure).__name__)
            _life.end(1)

    def _unusual(self, id: int, name: str, result: Any, error: ResultError) -> str:
        """The final line for a result that is not JSON: a coroutine, perhaps, of a command that had
        returned values before.
        """
        kind = type(result)
        if not hasattr(kind, "__await__") and not hasattr(kind, "__next__") and not hasattr(kind, "__anext__"):
            return self.answers.failed(id, error)
        try:
            from . import _dispatch  # loaded with the first call

            return _dispatch.finish(self.answers, id, COMMANDS[name], result, 0)
        except BaseException as failure:
            self.answers.judge(COMMANDS[name], failure)
            return self.answers.failed(id, failure)

    def _other(self, request: Request) -> str:
        """All but the second and later calls of a plain command: built-ins, streams, coroutines,
        converted arguments, batches.
        """
        entry = COMMANDS.get(request[1])
        try:
            if request[6] is not None and RUNNING.telemetry is not None:
                RUNNING.telemetry.enter(request[6])
            if entry is None:
                from . import _builtins  # a script's import need not wait for it

                return _builtins.answer(self.answers, request)
            from . import _dispatch  # likewise

            return _dispatch.run(self.answers, request[0], entry, request[2], request[5])
        except Exception as error:  # no handler's: _dispatch has answered for those
            return self.answers.internal(request[0], error)


def _replaced(context: Context, variables: Iterable[Tuple[ContextVar[Any], Any]]) -> bool:
    """Whether a variable has another value, which may equal the one that it had."""
    for variable, value in variables:
        if context[variable] is not value:
            return True
    return False


def wants_text(command: str) -> bool:
    """Whether a command wants its numbers with their text: a hint of its, or of a program's, is a
    Decimal.
    """
    entry = COMMANDS.get(command)
    entries = [entry] if entry is not None else list(PROGRAMS.values()) if command == "execute_program" else []
    if not entries:
        return False
    from . import _bind  # a script's import need not wait for it

    return any([_bind.exact(entry) for entry in entries])
