"""From hello to ready: the private descriptors, the import path, the user's script, its setups, and hello's answer."""

from __future__ import annotations

import os
import sys

from . import __version__, _commands, _finder, _life, _stdio
from ._channel import PAGE, Channel
from ._protocol import SUCCESS, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional

PROTOCOL = 1
CAPABILITIES = ("stream", "page", "log", "packed")


def main(hello: Dict[str, Any], fds: List[int], rest: bytes) -> None:
    """Serve a host until it leaves. `fds` are the private copies of stdin, stdout and stderr; `rest` is what followed hello."""
    from . import _worker

    args = hello["args"]
    _life.volunteer()
    _life.own_group(args.get("pid"))
    _life.leave_terminal()
    page = _shared_page(_life.private(args.get("page_fd")))
    channel = Channel(fds[0], fds[1], rest, page)
    if PROTOCOL not in args["protocol"]:
        message = "the host speaks protocol %s, this runtime (%s) speaks [%d]" % (args["protocol"], __version__, PROTOCOL)
        from . import _failure

        channel.write(_failure.error_line(0, {"kind": "protocol_mismatch", "message": message, "supported": [PROTOCOL]}))
        os._exit(1)
    stack_fd = _life.private(args.get("stack_fd"))
    leash_fd = _life.private(args.get("leash_fd"))
    _life.close_inherited()
    second_leash = _life.leash(leash_fd)
    _life.guard_process(fds[2], stack_fd)
    _life.guard_forks(fds[:2] + [fd for fd in (stack_fd, leash_fd, second_leash) if fd is not None], channel.lines)
    _life.watch_host(fds[0])
    worker = _worker.Worker(channel, args)
    _stdio.install(args.pop("log_word", ""), fds[2])
    _prepare_logging(args)
    _finder.when_imported("multiprocessing.spawn", _carry)
    _finder.when_imported("multiprocessing.util", _free_tracker)
    _finder.when_imported("_posixsubprocess", _lend)
    for loky in ("joblib.externals.loky", "loky"):
        _finder.when_imported(loky + ".backend.spawn", _lend_loky)
    _finder.when_imported("orjson", _use_orjson)

    stage = "import"
    try:
        os.environ.update(args.get("environ") or {})
        prepare_path(args.get("script"), args.get("module"))
        sys.argv = [args.get("script") or args.get("module") or ""] + list(args.get("args") or ())
        import_user(args.get("script"), args.get("module"))
        stage = "setup"
        run_setups()
        if _stdio.OPEN:
            _end_lines()
        result = encode(_describe_self(args, page is not None))
    except BaseException as error:
        from . import _errors, _exit, _failure

        fields: Dict[str, Any] = {"kind": "start_failed", "stage": stage}
        fields.update(_errors.exception_fields(error))
        channel.write(_failure.error_line(0, fields))
        _exit.finish(1)
    _life.WATCH.started = True  # first: the answer may be followed at once by `shutdown` and the end of file
    channel.write(SUCCESS % (0, result))
    try:
        worker.serve()
    finally:
        _life.host_gone("the worker ends: its loop was left")  # which is not to happen; nothing else may keep this process alive


def _describe_self(args: Dict[str, Any], paged: bool) -> Dict[str, Any]:
    theirs = args.get("capabilities") or ()
    return {
        "protocol": PROTOCOL,
        "runtime": __version__,
        "python": "%d.%d.%d" % sys.version_info[:3],
        "implementation": sys.implementation.name,
        "executable": sys.executable,
        "pid": os.getpid(),
        "commands": list(_commands.COMMANDS),
        "programs": list(_commands.PROGRAMS),
        "capabilities": [name for name in CAPABILITIES if name in theirs and (name != "page" or paged)],
    }


def _shared_page(fd: Optional[int]) -> Any:
    """The page shared with the host as an array of 64-bit numbers, or None."""
    if fd is None:
        return None
    try:
        import mmap

        page = memoryview(mmap.mmap(fd, 8 * PAGE)).cast("Q")
    except (ImportError, OSError, ValueError):
        return None
    os.close(fd)
    return page


def _prepare_logging(args: Dict[str, Any]) -> None:
    """Records go to the host from the moment somebody imports `logging`; until then it costs nothing."""
    level = args.get("log_level", 20)

    def hook(logging: Any) -> None:
        from . import _logging

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
            return plain(self)

        plain = threading.Thread.start
        start.__wrapped__, start.__doc__ = plain, plain.__doc__  # type: ignore[attr-defined]
        threading.Thread.start = start

    _finder.when_imported("logging", hook)
    _finder.when_imported("warnings", show_warnings)
    _finder.when_imported("threading", threads)


def _end_lines() -> None:
    from . import _output

    _output.end_lines()


def _use_orjson(orjson: Any) -> None:
    try:
        from . import _orjson, _protocol

        _protocol.through_orjson = _orjson.encoder(orjson)
    except Exception:
        pass  # some other module of that name, or too old a one


def _carry(spawn: Any) -> None:
    from . import _spawn

    _spawn.carry(spawn)


def _free_tracker(util: Any) -> None:
    from . import _spawn

    _spawn.free_tracker(util)


def _lend_loky(spawn: Any) -> None:
    from . import _spawn

    _spawn.lend_loky(spawn)


def _lend(posixsubprocess: Any) -> None:
    from . import _spawn

    _spawn.lend(posixsubprocess)


def prepare_path(script: Optional[str], module: Optional[str]) -> None:
    """Make importable what `python script` could import, behind the standard library and before site-packages.

    Behind, so that a file called json.py beside the script cannot take the place of the one the runtime imports later.
    """
    entries: List[str] = []
    if script:
        entries.append(os.path.dirname(os.path.realpath(script)))
    elif module:
        entries.append(os.getcwd())
    entries += [os.path.abspath(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    entries += _user_site()
    at = len(sys.path)
    for index, entry in enumerate(sys.path):
        if os.path.basename(entry) in ("site-packages", "dist-packages"):
            at = index
            break
    fresh: List[str] = []
    for entry in entries:
        if entry not in fresh and entry not in sys.path[:at]:
            fresh.append(entry)
    sys.path[at:at] = fresh
    # -I ignores the environment; these two say where files may be written, and that stays the user's decision.
    if os.environ.get("PYTHONDONTWRITEBYTECODE"):
        sys.dont_write_bytecode = True
    if os.environ.get("PYTHONPYCACHEPREFIX"):
        sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"]


def _user_site() -> List[str]:
    """What the user's own site directory adds to the path, .pth files included; nothing where Python would not use it."""
    if os.environ.get("PYTHONNOUSERSITE") or "site" not in sys.modules:
        return []
    if hasattr(os, "geteuid") and (os.geteuid() != os.getuid() or os.getegid() != os.getgid()):
        return []
    if sys.prefix != sys.base_prefix and not _system_site():
        return []
    import site

    try:
        folder = site.getusersitepackages()
        if not folder or not os.path.isdir(folder):
            return []
        before = len(sys.path)
        site.addsitedir(folder)
    except Exception:
        return []
    added = sys.path[before:]
    del sys.path[before:]
    return added


def _system_site() -> bool:
    """Whether this virtual environment shares the packages of its base installation."""
    try:
        with open(os.path.join(sys.prefix, "pyvenv.cfg"), encoding="utf-8") as config:
            for line in config:
                key, _, value = line.partition("=")
                if key.strip().lower() == "include-system-site-packages":
                    return value.strip().lower() == "true"
    except OSError:
        pass
    return False


def import_user(script: Optional[str], module: Optional[str]) -> None:
    """Import the script under its stem, or the module; raises whatever that raises."""
    if script:
        name = module_name(script)
        if not script.endswith((".py", ".pyw")):
            from . import _scripts

            if _scripts.load(name, script):
                return
        finder = _finder.installed() or _finder.install({})
        finder.scripts[name] = script
        try:
            __import__(name)
        except ImportError as error:
            if "attempted relative import" in str(error):
                error.msg += (
                    ": a script belongs to no package; import absolutely, or start the workers with Config.Module, "
                    'like "package.worker", found from Config.Dir or PYTHONPATH'
                )
            raise
    elif module:
        __import__(module)


def module_name(script: str) -> str:
    """The name a script is imported under: its stem, with `_worker_` before it when that means something else already."""
    stem = os.path.splitext(os.path.basename(script))[0].replace(".", "_")
    return "_worker_" + stem if _taken(stem, script) else stem


def _taken(stem: str, script: str) -> bool:
    if stem in sys.modules or stem in sys.builtin_module_names or stem == "__main__":
        return True
    if stem in getattr(sys, "stdlib_module_names", ()):
        return True
    from _frozen_importlib_external import PathFinder

    try:
        spec = PathFinder.find_spec(stem)
    except Exception:
        return True
    if spec is None:
        return False
    return spec.origin is None or os.path.realpath(spec.origin) != os.path.realpath(script)


def run_setups() -> None:
    """Run the setups in order, then make the objects of program classes."""
    for func in _commands.SETUPS:
        result: Any = func()
        if hasattr(result, "__await__"):
            from . import _async

            _async.run(result)
    _commands.instantiate_programs()


