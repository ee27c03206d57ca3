"""Child interpreters that a script's libraries start: they import the script, and need the runtime
for it.

It exists in the worker's memory only. multiprocessing's "spawn" and "forkserver" carry it in the
data with which they prepare a child; all others find it on their PYTHONPATH, as an archive in the
worker's memory.
"""

from __future__ import annotations

import os
import sys

from . import _finder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Carrier:
    """Installs the runtime in the child when multiprocessing unpacks it there: `exec` of our own
    source, nothing else.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    def __reduce__(self) -> Any:
        return exec, (self._text, {"__name__": "pypool._finder"})


def carry(spawn: Any) -> None:
    """Hook for `multiprocessing.spawn`: its children can import the runtime and the user's script."""
    finder = _finder.installed()
    original = spawn.get_preparation_data

    def get_preparation_data(name: str) -> Any:
        data = original(name)
        if finder is not None:
            lines = (
                finder.sources["_finder"],
                "_finder = install(%r)" % (finder.sources,),
                "_finder.scripts.update(%r)" % (finder.scripts,),
                "_finder.worker = %r" % (finder.worker,),
            )
            data["pypool"] = _Carrier("\n".join(lines))
        return data

    spawn.get_preparation_data = get_preparation_data


def lend(posixsubprocess: Any) -> None:
    """Hook for what starts all child processes: `import pypool` works in those that are Python, as
    long as this worker lives.
    """
    plain = posixsubprocess.fork_exec

    def fork_exec(args: Any, executables: Any, close_fds: Any, pass_fds: Any, cwd: Any, env: Any, *rest: Any) -> Any:
        if _is_python(args, executables):
            env = _lending(env)
        return plain(args, executables, close_fds, pass_fds, cwd, env, *rest)

    posixsubprocess.fork_exec = fork_exec


def lend_loky(spawn: Any) -> None:
    """Hook for loky, which hands its children the path."""
    _archive_path()


def _is_python(args: Any, executables: Any) -> bool:
    try:
        names = [os.path.basename(os.fsencode(name)) for name in executables]
        return any(b"python" in text for text in [*names, *map(os.fsencode, args)])
    except Exception:
        return False


def _lending(env: Any) -> Any:
    path = os.fsencode(_archive_path())
    if not path:
        return env
    entries = list(env) if env is not None else [name + b"=" + value for name, value in os.environb.items()]
    mark = b"PYTHONPATH="
    old = [entry[len(mark) :] for entry in entries if entry.startswith(mark)]
    kept = [entry for entry in entries if not entry.startswith(mark)]
    return [*kept, mark + os.fsencode(os.pathsep).join([part for part in [*old[-1:], path] if part])]


_path = ""


def _archive_path() -> str:
    """Where children find the archive; empty where there can be none: not Linux, or no descriptor
    is left.
    """
    global _path
    finder = _finder.installed()
    if _path or finder is None:
        return _path
    try:
        import fcntl

        made = os.memfd_create("pypool")  # type: ignore[attr-defined,unused-ignore]
        fd = fcntl.fcntl(made, fcntl.F_DUPFD_CLOEXEC, 100)
        os.close(made)
        if os.write(fd, _archive(finder.sources)) > 0:
            _path = "/proc/%d/fd/%d" % (os.getpid(), fd)
            sys.path.append(_path)
    except (ImportError, AttributeError, OSError):
        pass
    return _path


def forked() -> None:
    """In a worker that was forked: the archive's descriptor is inherited, and its path another."""
    global _path
    if _path:
        own = "/proc/%d/fd/%s" % (os.getpid(), _path.rpartition("/")[2])
        sys.path[:] = [own if entry == _path else entry for entry in sys.path]
        _path = own


def _archive(sources: Any) -> bytes:
    """A zip archive of the package, not compressed."""
    from binascii import crc32
    from struct import pack

    body, index = b"", b""
    for key, source in sources.items():
        name, data = ("pypool/%s.py" % key).encode(), source.encode()
        # version, flags, method, time and date (1980), checksum, sizes, lengths of name and extra
        facts = pack("<5H3L2H", 20, 0, 0, 0, 33, crc32(data), len(data), len(data), len(name), 0)
        index += b"PK\1\2" + pack("<H", 20) + facts + pack("<3H2L", 0, 0, 0, 0, len(body)) + name
        body += b"PK\3\4" + facts + name + data
    return body + index + b"PK\5\6" + pack("<4H2LH", 0, 0, len(sources), len(sources), len(index), len(body), 0)


def free_tracker(util: Any) -> None:
    """Hook for `multiprocessing.util`: the tracker of shared memory outlives the worker, whose
    group is killed, by the moment that it takes to clean up. It ends by itself, when nobody holds
    the pipe to it.
    """
    plain = util.spawnv_passfds

    def spawnv_passfds(path: Any, args: Any, passfds: Any) -> Any:
        if type(args[-1]) is not str or "resource_tracker import main" not in args[-1]:
            return plain(path, args, passfds)
        private = [fd for fd in passfds if not os.get_inheritable(fd)]
        try:
            for fd in private:
                os.set_inheritable(fd, True)
            return os.posix_spawn(path, args, os.environ, setpgroup=0)
        finally:
            for fd in private:
                os.set_inheritable(fd, False)

    util.spawnv_passfds = spawnv_passfds
