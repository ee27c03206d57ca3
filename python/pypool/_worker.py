"""The loop: one request, one handler, one answer.

    host ----> fd in ---> Channel.next_line ---> parse_request
                                                      |
                           _builtins  <--- no --- a plain command? --- yes ---> handler(**args)      Worker.serve,
                           _dispatch, _stream         (Worker._other)               |               the hot path
                                |                                                 encode
    host <---- fd out <--- Channel.write <--------------------------------- one final line

    watch thread: waits for the host's hang-up; kills the process group when a call is running (`_life`)

Nothing else writes to fd out. write(2) of a call's final line has returned before the next request begins, so of pipelined
requests those behind the first unanswered one were not executed.
"""

from __future__ import annotations

from time import monotonic, monotonic_ns

try:
    from _contextvars import copy_context
except ImportError:
    from contextvars import copy_context

from . import _life
from ._call import RUNNING
from ._channel import READING, WORKED
from ._commands import COMMANDS, DIRECT
from ._protocol import SPLIT_WRITE, SUCCESS, Control, Packed, RequestError, ResultError, encode, escape, foresee, parse_request
from ._stdio import OPEN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextvars import Context
    from typing import Any, Callable, Dict, NoReturn, Optional

    from ._channel import Channel
    from ._commands import Command
    from ._protocol import Line, Request

#: Keeps a time in the page's range, should a handler turn the clock back (as tests do, by patching).
MAX_NS = (1 << 63) - 1
#: Prebuilt: there may be no memory to describe the lack of memory.
OUT_OF_MEMORY = (
    '{"id":%d,"success":false,"error":{"kind":"python_exception","type":"MemoryError","module":"builtins",'
    '"message":"out of memory","traceback":"","notes":[]}}\n'
)


class Worker:
    """A process's one server. `hello` is hello's args."""

    def __init__(self, channel: Channel, hello: Dict[str, Any]) -> None:
        self.channel = channel
        self.hello = hello
        self.limit: int = hello.get("max_message_bytes") or 1 << 26
        self.worker_id = hello.get("worker_id")
        self.started = monotonic()
        self.calls = 0
        self.errors = 0
        self._page = channel.page
        self.direct: Dict[str, Callable[..., Any]] = DIRECT

    def serve(self) -> NoReturn:
        """Answer requests until the host says `shutdown` or is gone.

        Each call finds the context variables as the script and its setups have left them.
        """
        base = copy_context()
        while True:
            try:
                base.copy().run(self._serve, base)
            except BaseException as error:  # struck by a signal handler where it was handling something else
                _life.note("the worker ends: raised between two calls, by a signal handler perhaps:\n" + _plain(0, error))
                _life.end(1)

    def _serve(self, base: Context) -> None:
        """Answer requests until one has set a context variable."""
        channel = self.channel
        lines, next_line, write, direct = channel.lines, channel.next_line, channel.write, self.direct.get
        page, running = self._page, RUNNING
        small = min(SPLIT_WRITE, self.limit - 64)
        unended, context = OPEN, copy_context
        while True:
            id, line, writing = 0, None, False
            try:  # around the clauses too: one that is struck by a signal handler may have lost what it had in hand
                try:
                    if lines:
                        line = lines[-1]  # not pop: a signal handler that raises could strike before it is stored
                        del lines[-1]
                    else:
                        line = READING
                        line = next_line()
                    if line is None:
                        _life.host_gone()
                    running.began = began = monotonic_ns()
                    request = line if isinstance(line, tuple) else parse_request(line)
                    id, name, args, _, _, stream, _ = request
                    running.request = request
                    handler = direct(name)
                    if handler is None or stream:
                        answer = self._other(request)
                    else:
                        self.calls += 1
                        try:
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
                                answer = f'{{"id":{id},"success":true,"result":{text}}}\n'  # SUCCESS, in half its time
                            else:
                                answer = self.succeeded(id, text)
                        except ResultError as error:
                            answer = self._unusual(id, name, result, error)
                        except BaseException as error:
                            answer = self.failed(id, error, COMMANDS[name], args)
                    writing = True
                    write(answer)
                    if unended:
                        from . import _output

                        _output.end_lines()
                    # The host waits for no more than the answer: what follows costs it nothing. With requests at hand it would.
                    if not lines:
                        page[WORKED] = (monotonic_ns() - began) & MAX_NS
                        foresee(id, name)
                    # Nothing of a call stays alive while the loop waits.
                    running.request = line = request = args = handler = result = text = answer = None  # type: ignore[assignment]
                    try:
                        if context() != base:
                            return
                    except Exception:
                        return  # some value of a variable cannot be compared
                except Packed as packed:
                    lines.extend(packed.requests)
                except Control:
                    pass  # for a call that is over
                except RequestError as error:
                    from . import _failure

                    refusal, writing = _failure.refusal(error), True
                    write(refusal)
                    running.request = None
            except BaseException as error:
                self._escaped(line, id, error, writing)

    def _escaped(self, line: Optional[Line], id: int, error: BaseException, writing: bool) -> None:
        try:
            from . import _failure

            _failure.escaped(self, line, id, error, writing)
        except BaseException as failure:
            # The answer to this call, if there was to be one, may be out or not.
            _life.note("the worker ends: what was raised between two calls cannot be told: %s" % type(failure).__name__)
            _life.end(1)

    # ------------------------------------------------------------------------------------------------------ answers

    def succeeded(self, id: int, text: str) -> str:
        """The final line for a result; empty when it was too large for one string and has been written."""
        size = len(text) + len(SUCCESS % (id, ""))
        if len(text) < SPLIT_WRITE and size <= self.limit:
            return SUCCESS % (id, text)
        if size > self.limit:
            message = "the result has %d bytes, the limit is %d" % (size, self.limit)
            raise ResultError("message_too_large", message=message, size=size, limit=self.limit)
        self.channel.write_success(id, text)
        return ""

    def failed(self, id: int, error: BaseException, entry: Optional[Command] = None, args: Any = None) -> str:
        """The final line for an exception; with `entry` it may be Python's refusal of its arguments."""
        self.errors += 1
        try:
            from . import _failure

            return _failure.answer(self, id, error, entry, args)
        except MemoryError:
            return OUT_OF_MEMORY % id
        except BaseException:
            return _plain(id, error)

    def _unusual(self, id: int, name: str, result: Any, error: ResultError) -> str:
        """The final line for a result that is not JSON: a coroutine, perhaps, of a command that had returned values before."""
        if not hasattr(result, "__await__") and not hasattr(result, "__next__") and not hasattr(result, "__anext__"):
            return self.failed(id, error)
        try:
            from . import _dispatch

            return _dispatch.finish(self, id, COMMANDS[name], result, False)
        except BaseException as failure:
            return self.failed(id, failure)

    def _other(self, request: Request) -> str:
        """All but the second and later calls of a plain command: built-ins, streams, coroutines, converted arguments."""
        entry = COMMANDS.get(request[1])
        try:
            if entry is None:
                from . import _builtins

                return _builtins.answer(self, request)
            from . import _dispatch

            return _dispatch.run(self, request[0], entry, request[2], request[5])
        except Exception as error:  # no handler's: _dispatch has answered for those
            from . import _failure

            return _failure.internal(self, request[0], error)


def _plain(id: int, error: BaseException) -> str:
    """The final line for an exception when telling it as it should be has failed: type and message, by nothing that can fail."""
    texts = ["Exception", "builtins", "an exception that cannot be described"]
    try:
        texts[:2] = type(error).__qualname__, type(error).__module__
        texts[2] = str(error)[:4096]
    except BaseException:
        pass
    fields = '"type":%s,"module":%s,"message":%s,"traceback":"","notes":[]' % tuple(map(escape, texts))
    return '{"id":%d,"success":false,"error":{"kind":"python_exception",%s}}\n' % (id, fields)
