"""Trying a worker by hand.

    python -m pypool worker.py                          list its commands
    python -m pypool worker.py call NAME ['JSON']       call one, and show result, time or traceback
    python -m pypool check worker.py                    the doctor: interpreter, environment, script, commands

Arguments are a JSON object (by name) or array (by position); what is hinted as bytes is base64 text
there, or "@FILE". The exit status is 1 when something is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import Any, List, Optional

from . import (
    __version__,
    _answers,
    _bind,
    _call,
    _callables,
    _commands,
    _describe,
    _dispatch,
    _errors,
    _forms,
    _health,
    _hints,
    _hints_scalars,
    _host_calls,
    _json,
    _names,
    _packages,
    _retire,
    _user,
)

_end = os._exit
#: What protocol.go says of them, too.
_ADVICE = dict.fromkeys(
    ("nan is not JSON", "inf is not JSON", "-inf is not JSON"), ': put None in its place, or use @command(nan="null")'
)
#: Python's variables that have their effect in a worker, too: internal/interp/command.go, honoured.
_HONOURED = frozenset(
    """PYTHONOPTIMIZE PYTHONDEVMODE PYTHONPROFILEIMPORTTIME PYTHONNODEBUGRANGES PYTHONWARNDEFAULTENCODING PYTHONTRACEMALLOC
    PYTHONUTF8 PYTHONINTMAXSTRDIGITS PYTHONWARNINGS PYTHONHASHSEED PYTHONPATH
    PYTHONDONTWRITEBYTECODE PYTHONPYCACHEPREFIX PYTHONNOUSERSITE
    PYTHONUNBUFFERED PYTHONFAULTHANDLER PYTHONSAFEPATH""".split()
)


def main(argv: Optional[List[str]] = None) -> int:
    """Run the command line; returns the exit status."""
    args = list(sys.argv[1:] if argv is None else argv)
    if args[:1] == ["check"]:
        return _check(_parser("check").parse_args(args[1:]).script)
    if args[1:2] == ["call"]:
        options = _parser("call").parse_args([args[0]] + args[2:])
        return _call_by_hand(options)
    return _list(_parser("list").parse_args(args).script)


def _parser(mode: str) -> argparse.ArgumentParser:
    usage = {
        "list": "python -m pypool SCRIPT | SCRIPT call NAME [JSON] | check SCRIPT",
        "call": "python -m pypool SCRIPT call NAME [JSON] [--session ID]",
        "check": "python -m pypool check SCRIPT",
    }[mode]
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="pypool", usage=usage, description=__doc__, formatter_class=raw)
    parser.add_argument("script", help="the worker script, or the name of a module")
    if mode == "call":
        parser.add_argument("name", help="a command, or the id of a program")
        parser.add_argument("json", nargs="?", help="its arguments: a JSON object or array")
        parser.add_argument("--session", metavar="ID", help="the session the call is labelled with")
    return parser


def _load(script: str) -> Optional[str]:
    """Import the script as a worker does, and run its setups; returns the traceback when that
    fails.
    """
    is_file = script.endswith(".py") or os.path.exists(script)
    path, module = (os.path.abspath(script), None) if is_file else (None, script)
    try:
        if path is not None and os.path.isdir(path):
            return "%s is a folder: name a script in it, or a module that can be imported\n" % path
        if path is not None and not os.path.isfile(path):
            return "%s: no such file\n" % path
        _user.prepare_path(path, module)
        sys.argv = [script]
        _user.import_user(path, module)
        _user.run_setups()
    except BaseException as error:
        return _errors.format_traceback(error)
    return None


def _list(script: str) -> int:
    trouble = _load(script)
    if trouble is not None:
        sys.stderr.write(trouble)
        return 1
    entries = [*_commands.COMMANDS.values(), *_commands.PROGRAMS.values()]
    if not entries:
        print("%s has no commands: decorate a function with @command" % script)
        return 1
    for entry in entries:
        facts = _describe.describe(entry)
        labels = [facts["kind"]] if facts["kind"] != "function" else []
        if entry.batch:
            labels.append("batches of up to %d" % entry.batch[0])
        label = "  [%s]" % ", ".join(labels) if labels else ""
        print(facts["name"] + facts["signature"] + label)
        for line in facts["doc"].splitlines():
            print("    " + line if line else "")
    return 0


def _call_by_hand(options: argparse.Namespace) -> int:
    session = options.session
    if session is not None and not (session.isprintable() and 1 <= len(os.fsencode(session)) <= 256):
        sys.stderr.write("the session id %.64r is not 1 to 256 bytes of printable UTF-8\n" % session)
        return 1
    os._exit = _exits  # type: ignore[assignment]
    trouble = _load(options.script)
    if trouble is not None:
        sys.stderr.write(trouble)
        return 1
    name = options.name
    entry = _commands.COMMANDS.get(name) or _commands.PROGRAMS.get(name)
    if entry is None:
        known = {**_commands.COMMANDS, **_commands.PROGRAMS}
        sys.stderr.write(_names.unknown("command", name, known)["message"] + "\n")
        return 1
    try:
        exact = _bind.exact(entry)
        parse_float: Any = _forms.with_text if exact else _json.strict_float
        text = "null" if options.json is None else options.json
        args = json.loads(text, parse_float=parse_float, parse_constant=_json.refuse_constant)
        json.dumps(args, ensure_ascii=False).encode()  # no text of UTF-8 has half a surrogate pair
    except (ValueError, RecursionError) as error:
        sys.stderr.write("the arguments are not JSON: %s\n" % error)
        return 1
    _call.RUNNING.request = (1, name, args, session, None, entry.streams, None)
    began = _call.RUNNING.began = time.monotonic_ns()
    status = _run(entry, args)
    sys.stderr.write("%s in %.1f ms\n" % ("ok" if status == 0 else "failed", (time.monotonic_ns() - began) / 1e6))
    return status


def _run(entry: Any, args: Any) -> int:
    """Call as a worker does, for a host that wants items: a plain result is one."""
    _hints_scalars.TEXT_FOR_BYTES = True
    _host_calls._request = _no_host
    screen: Any = _Screen()
    line = _dispatch.run(_answers.Answers(screen, {"max_message_bytes": sys.maxsize}), 1, entry, args, True)
    if screen.left:
        raise _Left
    if _retire.RETIREMENT.reason is not None:
        sys.stderr.write("a pool would replace this worker: %s\n" % _retire.RETIREMENT.reason)
    error = json.loads(line).get("error")
    if error is None:
        return 0
    if error["kind"] in ("invalid_arguments", "invalid_result"):
        where = " (at %s)" % error["path"] if "path" in error else ""
        sys.stderr.write(
            "%s: %s%s%s\n" % (error["kind"].replace("_", " "), error["message"], where, _ADVICE.get(error["message"], ""))
        )
    else:
        sys.stderr.write(error["traceback"])
    return 1


def _no_host(id: int) -> Any:
    raise LookupError("there is no host here: functions of the Go program can be called in its own workers only")


def _exits(status: int) -> None:
    sys.stderr.write("os._exit(%r): a pool would lose this worker, and the call\n" % (status,))
    _end(status or 1)


class _Left(BaseException):
    """Whoever read the output has gone: `| head`."""


class _Screen:
    """A channel to whoever sits there."""

    torn = left = False

    def write(self, line: str) -> None:
        try:
            print(json.dumps(json.loads(line)["item"], indent=2, ensure_ascii=False), flush=True)
        except BrokenPipeError:
            self.left = True

    def told(self, control: bytes) -> bool:
        return self.left


def _check(script: str) -> int:
    """The doctor: one line a finding, and what to do about the bad ones."""
    ok = True
    version = "%d.%d.%d" % sys.version_info[:3]
    print("pypool        %s" % __version__)
    print("interpreter   %s (%s %s)" % (sys.executable, sys.implementation.name, version))
    if sys.prefix != sys.base_prefix:
        print("environment   virtual environment %s" % sys.prefix)
    else:
        print("environment   none: packages come from %s" % sys.prefix)
        wanted = os.environ.get("VIRTUAL_ENV")
        if wanted:
            ok = False
            print("              VIRTUAL_ENV is %s, but this interpreter is not its own: run %s/bin/python" % (wanted, wanted))
    ignored = sorted(name for name in os.environ if name.startswith("PYTHON") and os.environ[name] and name not in _HONOURED)
    if ignored:
        print("              %s: no effect in a worker" % ", ".join(ignored))
    for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        if entry and os.path.isfile(os.path.join(entry, "sitecustomize.py")):
            print("              %s/sitecustomize.py: not run in a worker, import it in the script" % entry.rstrip("/"))
    began = time.monotonic()
    trouble = _load(script)
    seconds = time.monotonic() - began
    if trouble is not None:
        print("script        %s cannot be imported:" % script)
        print("".join("              %s\n" % line for line in trouble.rstrip().splitlines()), end="")
        missing = _missing_module(trouble)
        if missing:
            print("              if it is a package, " + _packages.advice(sys.executable, missing))
            print("              if it is a file of yours, put it beside the script or its folder on PYTHONPATH")
        return 1
    print("script        %s, imported in %.0f ms" % (script, seconds * 1000))
    if seconds > 10:
        print("              a pool waits 30 s for its workers by default: raise Config.StartTimeout, or import less")
    names = [*_commands.COMMANDS, *_commands.PROGRAMS]
    if names:
        print("commands      " + ", ".join(names))
        ok = _check_health() and ok
        _check_hints()
    else:
        ok = False
        print("commands      none: decorate a function with @command")
    print("all is well" if ok else "there is trouble, see above")
    return 0 if ok else 1


def _check_health() -> bool:
    """Say what has a worker replaced, and whether this one would be."""
    for entry in (*_commands.COMMANDS.values(), *_commands.PROGRAMS.values()):
        if entry.retire_on:
            kinds = ", ".join(kind.__name__ for kind in entry.retire_on)
            print("retires       after %s in %s" % (kinds, entry.name))
    fit = True
    for func in _commands.HEALTH:
        began = time.monotonic()
        try:
            _health.run(func)
        except BaseException as error:
            fit = False
            trace = _errors.format_traceback(error).rstrip().splitlines()
            print("health        %s fails, and no worker would become ready:" % _health.name_of(func))
            print("".join("              %s\n" % line for line in trace), end="")
            continue
        seconds = time.monotonic() - began
        print("health        %s is content, after %.0f ms" % (_health.name_of(func), seconds * 1000))
        if seconds > 1:
            print("              a worker serves nothing meanwhile, and is killed when it takes 5 s: ask less")
    return fit


def _check_hints() -> None:
    """Say which hints convert, and which of the commands' do not."""
    entries = [*_commands.COMMANDS.values(), *_commands.PROGRAMS.values()]
    print("hints         str, int, bool, None, Any, and lists and dicts of them: passed as they come, not checked")
    print("              any other that pypool knows: the handler gets what it says, or the call is refused")
    for entry in entries:
        plan = _hints.Plan(entry.func, _callables.signature_of(entry.func))
        for problem in plan.unresolved:
            print("              %s: not converted, because it names what does not exist at run time: %s" % (entry.name, problem))
        for text in plan.unknown:
            print("              %s: passed as it comes, not converted: %s" % (entry.name, text))


def _missing_module(trouble: str) -> str:
    last = trouble.rstrip().rpartition("\n")[2]
    mark = "No module named '"
    return last.partition(mark)[2].partition("'")[0] if mark in last else ""


def run() -> int:
    """`main`, whose reader may leave before the end, be none, or know few characters."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))
        getattr(sys, name).reconfigure(errors="backslashreplace")
    try:
        status = main()
        sys.stdout.flush()
    except (_Left, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still to be flushed goes nowhere
        return 128 + 13  # as a program that SIGPIPE has ended
    return status


if __name__ == "__main__":
    sys.exit(run())
