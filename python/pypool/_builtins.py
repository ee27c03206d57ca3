"""The commands the runtime answers itself."""

from __future__ import annotations

import os
import sys
from time import monotonic

from . import _life
from ._commands import COMMANDS, PROGRAMS
from ._protocol import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, NoReturn, Optional

    from ._protocol import Request
    from ._worker import Worker


def answer(worker: Worker, request: Request) -> str:
    """The final line of a built-in command, or of one that nobody registered."""
    id, name, _, _, _, stream, _ = request
    if name == "execute_program":
        return _execute_program(worker, request)
    if name == "shutdown":
        _shutdown(worker, id)
    worker.calls += 1
    run = _SIMPLE.get(name)
    if run is None:
        from . import _errors, _failure

        names = [*COMMANDS, *_SIMPLE, "execute_program"]
        return _failure.refused(worker, id, _errors.unknown("command", name, names))
    text = encode(run(worker, request))
    if stream:
        from . import _dispatch

        _dispatch.send_item(worker, id, text)
        text = "null"
    return worker.succeeded(id, text)


def _execute_program(worker: Worker, request: Request) -> str:
    id, _, args, _, _, stream, _ = request
    problem = _program_problem(args)
    if problem:
        from . import _failure

        worker.calls += 1
        return _failure.refused(worker, id, {"kind": "invalid_arguments", "message": "execute_program: " + problem})
    entry = PROGRAMS.get(args["program_id"])
    if entry is None:
        from . import _errors, _failure

        worker.calls += 1
        return _failure.refused(worker, id, _errors.unknown("program", args["program_id"], PROGRAMS))
    from . import _bind, _dispatch

    inputs = args.get("inputs")
    return _dispatch.run(worker, id, entry, inputs if _bind.exact(entry) else _bind.plain(inputs), stream)


def _program_problem(args: Any) -> str:
    if type(args) is not dict:
        return 'the arguments must be {"program_id": ..., "inputs": ...}'
    if type(args.get("program_id")) is not str:
        return "'program_id' must be a string"
    for key in args:
        if key not in ("program_id", "inputs"):
            return "unknown argument %r" % key
    return ""


def _shutdown(worker: Worker, id: int) -> NoReturn:
    _life.WATCH.armed = False
    worker.channel.write(worker.succeeded(id, "null"))
    from . import _exit

    _exit.finish(0)


def _ping(worker: Worker, request: Request) -> Dict[str, Any]:
    session = request[3]
    reply: Dict[str, Any] = {"status": "ok", "worker_id": worker.worker_id, "pid": os.getpid()}
    if session is not None:
        reply["session_id"] = session
    return reply


def _get_stats(worker: Worker, request: Request) -> Dict[str, Any]:
    stats = {
        "calls": worker.calls,
        "errors": worker.errors,
        "uptime_s": round(monotonic() - worker.started, 3),
        "pid": os.getpid(),
        "python": "%d.%d.%d" % sys.version_info[:3],
        "rss_bytes": _rss_bytes(),
    }
    if _asked(request, "sources"):
        from . import _sources

        stats["sources"] = _sources.files()
    return stats


def _asked(request: Request, option: str) -> bool:
    return type(request[2]) is dict and request[2].get(option) is True


def _rss_bytes() -> Optional[int]:
    """Resident memory now; where the system does not say it, the highest so far; None where it says neither."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        pass
    try:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    except (ImportError, OSError):
        return None


def _list_commands(worker: Worker, request: Request) -> Any:
    from . import _describe

    entries = [entry for registry in (COMMANDS, PROGRAMS) for entry in registry.values()]
    found = [_describe.describe(entry) for entry in entries]
    if _asked(request, "schema"):
        from . import _schema

        for facts, entry in zip(found, entries):
            facts["schema"] = _schema.schema(entry)
    return found


def _list_programs(worker: Worker, request: Request) -> Any:
    return list(PROGRAMS)


_SIMPLE: Dict[str, Callable[[Worker, Request], Any]] = {
    "ping": _ping,
    "get_stats": _get_stats,
    "list_commands": _list_commands,
    "list_programs": _list_programs,
}
