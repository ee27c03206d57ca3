"""The loop: one request, one handler, one answer.

    host ----> fd in ---> Channel.next_line ---> parse_request ---> shared page (the id, before a handler runs)
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

from . import _life
from ._call import RUNNING
from ._channel import BEGUN, WORKED
from ._commands import COMMANDS
from ._protocol import SPLIT_WRITE, SUCCESS, Control, RequestError, ResultError, Several, encode, foresee, parse_request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, NoReturn, Optional

    from ._channel import Channel
    from ._commands import Command
    from ._protocol import Request

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
        #: Commands that can be called with the JSON arguments as they are; filled by each one's first call (`_dispatch`).
        self.direct: Dict[str, Callable[..., Any]] = {}

    def serve(self) -> NoReturn:
        """Answer requests until the host says `shutdown` or is gone."""
        channel = self.channel
        lines, next_line, write, direct = channel.lines, channel.next_line, channel.write, self.direct.get
        page, running = self._page, RUNNING
        small = min(SPLIT_WRITE, self.limit - 64)
        while True:
            id, line, writing = 0, None, False
            try:
                if lines:
                    line = lines[-1]  # not pop: a signal handler that raises could strike before it is stored
                    del lines[-1]
                else:
                    line = next_line()
                if line is None:
                    _life.host_gone()
                running.began = began = monotonic_ns()
                request = line if isinstance(line, tuple) else parse_request(line)
                id, name, args, _, _, stream, _ = request
                page[BEGUN] = id
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
                    except BaseException as error:
                        answer = self.failed(id, error, COMMANDS[name], args)
                writing = True
                write(answer)
                # The host waits for no more than the answer: what follows costs it nothing. With requests at hand it would.
                if not lines:
                    page[WORKED] = (monotonic_ns() - began) & MAX_NS
                    foresee(id, name)
                # Nothing of a call stays alive while the loop waits.
                running.request = line = request = args = handler = result = text = answer = None  # type: ignore[assignment]
            except Several as several:
                lines.extend(several.requests)
            except Control:
                pass  # for a call that is over
            except RequestError as error:
                from . import _failure

                write(_failure.refusal(error))
                running.request = None
            except BaseException as error:
                from . import _failure

                _failure.escaped(self, line, id, error, writing)

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
