"""The user's script: the import path, its import under a name of its own, its setups."""

from __future__ import annotations

import os
import sys

from . import _finder
from ._commands import COMMANDS, PROGRAMS, SETUPS, instantiate_programs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Optional


def prepare_path(script: Optional[str], module: Optional[str], folder: Optional[str] = None) -> None:
    """Make importable what `python script` could import, or `python -m module` in the folder (None:
    the working directory), behind the standard library and before site-packages.

    Behind, so that a file called json.py beside the script cannot take the place of the one the
    runtime imports later.
    """
    entries: List[str] = []
    if script:
        entries.append(os.path.dirname(os.path.realpath(script)))
    elif module:
        entries.append(folder or os.getcwd())
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
    # -I ignores the environment; these two say where files may be written, and that stays the
    # user's decision.
    if os.environ.get("PYTHONDONTWRITEBYTECODE"):
        sys.dont_write_bytecode = True
    if os.environ.get("PYTHONPYCACHEPREFIX"):
        sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"]


def _user_site() -> List[str]:
    """What the user's own site directory adds to the path, .pth files included; nothing where
    Python would not use it.
    """
    if os.environ.get("PYTHONNOUSERSITE") or "site" not in sys.modules:
        return []
    if hasattr(os, "geteuid") and (os.geteuid() != os.getuid() or os.getegid() != os.getgid()):
        return []
    if sys.prefix != sys.base_prefix and not _system_site():
        return []
    import site  # loaded, see above

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
    _finder.remember()
    _import_user(script, module)
    _finder.keep()


def _import_user(script: Optional[str], module: Optional[str]) -> None:
    if script:
        name = module_name(script)
        if not script.endswith((".py", ".pyw")):
            from . import _scripts  # seldom needed

            if _scripts.load(name, script):
                return
        finder = _finder.installed() or _finder.install({})
        finder.scripts[name] = script
        try:
            _finder.plain_import(name)
        except ImportError as error:
            if "attempted relative import" in str(error):
                error.msg += (
                    ": a script belongs to no package; import absolutely, or start the workers with Config.Module, "
                    'like "package.worker", found from Config.Dir or PYTHONPATH'
                )
            raise
    elif module:
        _finder.plain_import(module)


def module_name(script: str) -> str:
    """The name a script is imported under: its stem, with `_worker_` before it when that means
    something else already.
    """
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
    """Run the setups in order, then make the objects of program classes, and look at the batches."""
    for func in SETUPS:
        result: Any = func()
        if result is not None:
            from . import _health  # few return anything

            _health.finished(func, result, True)
    instantiate_programs()
    for entry in (*COMMANDS.values(), *PROGRAMS.values()):
        if entry.batch is not None and entry.columns is None:
            from . import _columns  # few scripts have batches

            _columns.prepare(entry)
