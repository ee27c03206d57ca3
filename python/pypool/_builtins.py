"""The commands the runtime answers itself."""

from __future__ import annotations

import os

from . import _life
from ._commands import COMMANDS, PROGRAMS
from ._results import encode
from ._wire import STREAM, BindError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, NoReturn

    from ._answers import Answers
    from ._wire import Request


def answer(answers: Answers, request: Request) -> str:
    """The final line of a built-in command, or of one that nobody registered."""
    id, name, args, _, _, how, _ = request
    if type(args) is tuple:
        from . import _batch  # few scripts have any

        _batch.run(answers, id, args)
        return ""
    if name == "execute_program":
        return _execute_program(answers, request)
    if name == "shutdown":
        _shutdown(answers, id)
    answers.calls += 1
    run = _SIMPLE.get(name)
    if run is None:
        return _unknown(answers, id, "command", name, [*COMMANDS, *_SIMPLE, "execute_program"])
    text = encode(run(answers, request))
    if how & STREAM:
        answers.item(id, text)
        text = "null"
    return answers.succeeded(id, text)


def _execute_program(answers: Answers, request: Request) -> str:
    id, _, args, _, _, how, _ = request
    problem = _program_problem(args)
    if problem:
        answers.calls += 1
        return answers.refused(id, {"kind": "invalid_arguments", "message": "execute_program: " + problem})
    entry = PROGRAMS.get(args["program_id"])
    if entry is None:
        answers.calls += 1
        return _unknown(answers, id, "program", args["program_id"], PROGRAMS)
    # The first ping, which is part of the start, needs none of them
    from . import _bind, _dispatch

    try:
        inputs = _bind.inputs_of(entry, args.get("inputs"))
    except BindError as error:
        answers.calls += 1
        return answers.refused(id, error.fields())
    return _dispatch.run(answers, id, entry, inputs, how)


def _unknown(answers: Answers, id: int, what: str, name: str, names: Iterable[str]) -> str:
    from . import _names  # seldom needed

    return answers.refused(id, _names.unknown(what, name, names))


def _program_problem(args: Any) -> str:
    if type(args) is not dict:
        return 'the arguments must be {"program_id": ..., "inputs": ...}'
    if type(args.get("program_id")) is not str:
        return "'program_id' must be a string"
    for key in args:
        if key not in ("program_id", "inputs"):
            return "unknown argument %r" % key
    return ""


def _shutdown(answers: Answers, id: int) -> NoReturn:
    _life.WATCH.armed = False
    answers.channel.write(answers.succeeded(id, "null"))
    from . import _exit  # only now

    _exit.finish(0)


def _ping(answers: Answers, request: Request) -> Dict[str, Any]:
    session = request[3]
    if _asked(request, "health"):
        from . import _health  # few scripts have any

        _health.examine()
    reply: Dict[str, Any] = {"status": "ok", "worker_id": answers.worker_id, "pid": os.getpid()}
    if session is not None:
        reply["session_id"] = session
    return reply


def _get_stats(answers: Answers, request: Request) -> Dict[str, Any]:
    from . import _stats  # the first ping, which is part of the start, has no time for it

    return _stats.of(answers, _asked(request, "sources"))


def _asked(request: Request, option: str) -> bool:
    return type(request[2]) is dict and request[2].get(option) is True


def _list_commands(answers: Answers, request: Request) -> Any:
    from . import _describe  # imports inspect

    entries = [entry for registry in (COMMANDS, PROGRAMS) for entry in registry.values()]
    found = [_describe.describe(entry) for entry in entries]
    if _asked(request, "schema"):
        from . import _schema  # only for pypoolgen

        for facts, entry in zip(found, entries):
            facts["schema"] = _schema.schema(entry)
    return found


def _list_programs(answers: Answers, request: Request) -> Any:
    return list(PROGRAMS)


_SIMPLE: Dict[str, Callable[[Answers, Request], Any]] = {
    "ping": _ping,
    "get_stats": _get_stats,
    "list_commands": _list_commands,
    "list_programs": _list_programs,
}
