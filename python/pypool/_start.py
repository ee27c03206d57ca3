"""From hello to ready: the private descriptors, the import path, the user's script, its setups, and
hello's answer. A fork server goes as far as the script; the workers that it forks go on from there.
"""

from __future__ import annotations

import os
import sys

from . import __version__, _call, _cancel, _channel, _commands, _finder, _life, _page, _results, _stdio, _user, _worker
from ._channel import Channel
from ._wire import SUCCESS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Tuple

PROTOCOL = 1
PYTHON = "%d.%d.%d" % sys.version_info[:3]
CAPABILITIES = ("stream", "page", "log", "packed", "cancel", "batch", "functions", "shared", "retire", "memory")


def main(hello: Dict[str, Any], fds: List[int], rest: bytes) -> None:
    """Serve a host until it leaves. `fds` are the private copies of stdin, stdout and stderr;
    `rest` is what followed hello.
    """
    args = hello["args"]
    _life.volunteer()
    _life.own_group(args.get("pid"))
    _life.leave_terminal()
    page = _page.shared(_life.private(args.get("page_fd")), args.get("fork_fd") is None)
    channel = Channel(fds[0], fds[1], rest, page)
    if PROTOCOL not in args["protocol"]:
        message = "the host speaks protocol %s, this runtime (%s) speaks [%d]" % (args["protocol"], __version__, PROTOCOL)
        from . import _failure  # see the other one

        channel.write(_failure.error_line(0, {"kind": "protocol_mismatch", "message": message, "supported": [PROTOCOL]}))
        os._exit(1)
    stack_fd = _life.private(args.get("stack_fd"))
    leash_fd = _life.private(args.get("leash_fd"))
    ask_fd = _life.private(args.get("ask_fd"))
    fork_fd = _life.private(args.get("fork_fd"))
    _life.close_inherited()
    second_leash = _life.leash(leash_fd)
    _life.guard_process(fds[2], stack_fd)
    _guard_forks(channel, stack_fd, ask_fd, leash_fd, second_leash, fork_fd)
    if args.get("fork_fd") is None:
        _life.watch_host(fds[0], stack_fd, ask_fd)  # a thread, which a fork server must not have; it has its leash
    worker = _serve_on(channel, args)
    _name_worker(args.get("worker_id") or "", args.get("slot") or 0)
    _call.THIS.many = args.get("fork_fd") is not None
    _call.RUNNING.host = _host_of
    cancels = page is not None and _cancel.install(page)
    _stdio.install(args.pop("log_word", ""), fds[2], _print)
    _prepare_logging(args)
    for module, hook in (
        ("multiprocessing.spawn", "carry"),
        ("multiprocessing.util", "free_tracker"),
        ("_posixsubprocess", "lend"),
        ("joblib.externals.loky.backend.spawn", "lend_loky"),
        ("loky.backend.spawn", "lend_loky"),
    ):
        _finder.when_imported(module, _of_spawn(hook))
    _finder.when_imported("orjson", _use_orjson)
    _finder.when_imported("opentelemetry.trace", _use_telemetry)

    if args.get("fork_fd") is not None:
        from . import _forkserver  # before the script may change what it goes by

    able = {"page": page is not None, "cancel": cancels, "shared": channel.waiter.polls, "memory": bool(channel.memory)}
    stage = "import"
    try:
        os.environ.update(args.get("environ") or {})
        _user.prepare_path(args.get("script"), args.get("module"), args.get("module_dir"))
        sys.argv = [args.get("script") or args.get("module") or ""] + list(args.get("args") or ())
        _user.import_user(args.get("script"), args.get("module"))
        if args.get("fork_fd") is not None:
            own = _forkserver.Own(fds, stack_fd, ask_fd, leash_fd, second_leash)
            server = _forkserver.ready(fork_fd, own, channel)
            _end_lines()
            result = _results.encode(_describe_self(args, able))
            _life.WATCH.started = True
            channel.write(SUCCESS % (0, result))
            page = server.run()
            # From here on this is a worker that the server has forked.
            _life.WATCH.started = False
            channel, args = _hello_of(args, fds, own, page)
            able["page"], able["cancel"] = page is not None, cancels and page is not None
            worker = _serve_on(channel, args)
            able["memory"] = bool(channel.memory)
            _name_worker(args.get("worker_id") or "", args.get("slot") or 0)
            for environ in (os.environ, getattr(_finder.imported("os"), "environ", os.environ)):  # or the script's own
                environ.update(args.get("environ") or {})
            _life.watch_host(fds[0], stack_fd, ask_fd)
        stage = "setup"
        _user.run_setups()
        if _commands.HEALTH:
            from . import _health  # few scripts have any

            stage = "health"
            _health.check()
        _end_lines()
        result = _results.encode(_describe_self(args, able))
    except BaseException as error:
        from . import _errors, _exit, _failure  # a start that goes well has no time for them

        fields: Dict[str, Any] = {"kind": "start_failed", "stage": stage, "python": PYTHON}
        fields.update(_errors.exception_fields(error))
        if args.get("sources"):
            from . import _stats

            fields["sources"] = _stats.files()
        channel.write(_failure.error_line(0, fields))
        _exit.finish(1)
    # First: the answer may be followed at once by `shutdown` and the end of file
    _life.WATCH.started = True
    channel.write(SUCCESS % (0, result))
    try:
        worker.serve()
    finally:
        # Which is not to happen; nothing else may keep this process alive
        _life.host_gone("the worker ends: its loop was left")


def _name_worker(id: str, slot: int) -> None:
    _call.THIS.worker, _call.THIS.many = _call.Worker(id, slot), False
    finder = _finder.installed()
    if finder is not None:
        finder.worker = id, slot


def _end_lines() -> None:
    if _stdio.OPEN:
        from . import _output  # loaded by what was printed

        _output.end_lines()


def _guard_forks(channel: Channel, *others: Optional[int]) -> None:
    _life.guard_forks([channel.fd_in, channel.fd_out, *[fd for fd in others if fd is not None]], channel.lines)


def _serve_on(channel: Channel, args: Dict[str, Any]) -> _worker.Worker:
    """The worker that serves this channel as hello says."""
    worker = _worker.Worker(channel, args)
    _channel.OURS.channel = channel
    channel.limit = args.get("max_message_bytes") or channel.limit
    channel.retires = "retire" in (args.get("capabilities") or ())
    if "functions" in (args.get("capabilities") or ()):
        channel.functions = args.get("functions") or ()
        channel.blob_functions = args.get("blob_functions") or ()
    if _page.MEMORY.half and "memory" in (args.get("capabilities") or ()):
        channel.memory = args.get("min_lent", 1) or 1
    channel.smallest = args.get("min_blob", channel.smallest)
    return worker


def _hello_of(args: Dict[str, Any], fds: List[int], own: Any, page: Any) -> Tuple[Channel, Dict[str, Any]]:
    """In a forked worker: its channel, and what its own hello adds to its server's."""
    from ._json import scan

    channel = Channel(fds[0], fds[1], b"", page)
    _guard_forks(channel, own.stacks, own.asks, own.leash, own.second)
    line = channel.next_line()
    if line is None:
        _life.host_gone()
    hello, _ = scan(line.decode(), 0)  # type: ignore[union-attr]
    args = {**args, "environ": None, **hello["args"]}
    _stdio.mark(args.pop("log_word", ""), fds[2])
    _cancel.STATE.page = page
    return channel, args


def _describe_self(args: Dict[str, Any], able: Dict[str, bool]) -> Dict[str, Any]:
    theirs = args.get("capabilities") or ()
    entries = (*_commands.COMMANDS.values(), *_commands.PROGRAMS.values()) if "batch" in theirs else ()
    batches = [
        {entry.what: entry.name, "max_batch_size": entry.batch[0], "max_wait_ms": entry.batch[1]}
        for entry in entries
        if entry.batch is not None
    ]
    concurrent = {entry.name: entry.concurrency for entry in _commands.COMMANDS.values() if entry.concurrency}
    facts: Dict[str, Any] = {"concurrent": concurrent} if concurrent and able["shared"] and "shared" in theirs else {}
    if _commands.HEALTH and "retire" in theirs:
        facts["health"] = True
    return {
        **facts,
        "protocol": PROTOCOL,
        "runtime": __version__,
        "python": PYTHON,
        "implementation": sys.implementation.name,
        "executable": sys.executable,
        "pid": os.getpid(),
        "commands": list(_commands.COMMANDS),
        "programs": list(_commands.PROGRAMS),
        "capabilities": [name for name in CAPABILITIES if name in theirs and able.get(name, True)],
        **({"batches": batches} if batches else {}),
    }


def _prepare_logging(args: Dict[str, Any]) -> None:
    """Records go to the host from the moment somebody imports `logging`; until then it costs
    nothing.
    """
    level = args.get("log_level", 20)

    def hook(logging: Any) -> None:
        from . import _logging  # as the others here: only now

        _logging.install(logging, level)

    def show_warnings(warnings: Any) -> None:
        def show(*args: Any, **options: Any) -> None:
            from . import _logging

            _logging.show_warning(warnings, plain, *args, **options)

        plain = warnings.showwarning
        warnings.showwarning = show

    def threads(threading: Any) -> None:
        def start(self: Any) -> Any:
            from . import _output

            call = _output.printing()
            self._pypool_call = None if call is None else call[0]
            if not inherits:
                return plain(self)
            # A pool's thread outlives the call in whose context it is started, and serves others
            token = _call.CALL.set(None)
            try:
                return plain(self)
            finally:
                _call.CALL.reset(token)

        # So in free-threaded builds, and where a flag says so, from Python 3.14 on
        inherits = getattr(sys.flags, "thread_inherit_context", False)
        plain = threading.Thread.start
        start.__wrapped__, start.__doc__ = plain, plain.__doc__  # type: ignore[attr-defined]
        threading.Thread.start = start

    _finder.when_imported("logging", hook)
    _finder.when_imported("warnings", show_warnings)
    _finder.when_imported("threading", threads)


def _use_orjson(orjson: Any) -> None:
    try:
        from . import _orjson  # only now

        _results.through_orjson = _orjson.encoder(orjson)
    except Exception:
        pass  # some other module of that name, or too old a one


def _use_telemetry(api: Any) -> None:
    try:
        from . import _telemetry  # only now

        _telemetry.install(api)
    except Exception:
        pass  # some other module of that name


def _of_spawn(hook: str) -> Callable[[Any], None]:
    """A hook of `_spawn`, which few scripts need."""

    def run(module: Any) -> None:
        from . import _spawn

        getattr(_spawn, hook)(module)

    return run


def _host_of(id: int) -> Any:
    from . import _host  # few workers call their host

    return _host.Host(id)


def _print(self: Any, data: Any) -> int:
    """Write to stdout or stderr for the first time: many scripts never do."""
    from . import _output

    _stdio.Printed.write = _output.write_text  # type: ignore[method-assign]
    return _output.write_text(self, data)
