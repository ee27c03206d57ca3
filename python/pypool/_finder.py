"""Where `import pypool` finds the runtime in a worker: in memory.

The host sends the sources in hello; no file is written anywhere. This module is executed by the
bootstrap before the package exists, and again in the children of multiprocessing's "spawn" and
"forkserver" (see `_spawn`), so it stands alone: it imports nothing but what an interpreter has
loaded by itself.
"""

from __future__ import annotations

# The frozen half of importlib is in every interpreter's memory; importlib.util would cost
# milliseconds at each start.
import _frozen_importlib as _bootstrap
import _frozen_importlib_external as _external
import builtins
import sys
from _thread import RLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import CodeType, ModuleType
    from typing import Any, Callable, Dict, Optional, Sequence

    Hook = Callable[[ModuleType], None]

PACKAGE = "pypool"
#: The runtime's modules, by name without the package's.
_MODULES: Dict[str, ModuleType] = {}
#: What they have imported from elsewhere, by name and whether names are taken from it.
_OTHERS: Dict[Any, Any] = {}
#: Modules of which the runtime has a copy, made when it imports them first: scripts, and libraries
#: as gevent, put functions of their own into them, for which the runtime is no place.
_COPIED = ("_signal", "_socket", "_thread", "faulthandler", "fcntl", "gc", "mmap", "os", "select", "time")
plain_import = builtins.__import__
_ModuleSpec = _bootstrap.ModuleSpec


def _import(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
    """What `import` does in the runtime's modules. They find each other, and what one of them has
    imported before, whatever has become of sys.modules, sys.meta_path and sys.path, for an
    exception can be told only so; and at half the cost that importlib has.
    """
    if level != 1 or _finder is None:
        known = name, bool(fromlist)
        if known not in _OTHERS:
            found = _first_import(name, globals, locals, fromlist, level)
            _BEGUN.keep()
            if name in _COPIED:
                copy = _Module(name)
                copy.__dict__.update(vars(found))
                found = copy
            _OTHERS[known] = found
        return _OTHERS[known]
    for key in (name,) if name else fromlist:
        if key in _finder.sources and (key not in _MODULES or getattr(_MODULES[key].__spec__, "_initializing", False)):
            _finder.load(key)
    return _MODULES[name or "__init__"]


def _first_import(*args: Any) -> Any:
    """An import from elsewhere. Where it fails by what the script has done, it is done as if the
    script had not.
    """
    if not _BEGUN.lost(args[0]):
        try:
            found = plain_import(*args)
        except Exception:
            if not _BEGUN.changed():
                raise
        else:
            if isinstance(found, _Module):
                return found
    with _LOCK, _BEGUN:
        return plain_import(*args)


def soundly(do: Callable[[], Any]) -> Any:
    """What a function of the library makes that may import: as if the script had changed nothing of what
    imports go by.
    """
    if not _BEGUN.changed():
        return do()
    with _LOCK, _BEGUN:
        return do()


class _Begun:
    """What imports go by, as it was before the script, which may have taken away what the runtime has
    yet to import. As a context it is in force, for the whole process; after it, what the script has
    made of it is again.
    """

    def __init__(self) -> None:
        self._modules = sys.modules  # a script may put another object in its place
        self._loaded: Dict[str, Any] = {}
        self._builtins: Dict[str, Any] = {}
        self._lists: Dict[str, Any] = {}
        self._count = 0  # of the modules, when all of them were known
        self._theirs: Any = ()

    def remember(self) -> None:
        """Take what imports go by now for sound."""
        self._builtins = dict(vars(builtins))
        self._lists = {name: list(getattr(sys, name)) for name in ("path", "meta_path", "path_hooks")}
        self.keep()

    def keep(self) -> None:
        """Know the modules that are there now, beside those of before, once there was a `remember`.
        One whose import is not over yet may have failed when it is.
        """
        if not self._lists or self._count == len(self._modules):
            return
        self._count = len(self._modules)
        for name, module in list(self._modules.items()):
            if name not in self._loaded and isinstance(module, _Module):
                if _begins(module):
                    self._count = 0
                else:
                    self._loaded[name] = module

    def imported(self, name: str) -> Any:
        """A module that somebody has imported, else None; whatever has become of sys.modules."""
        found = self._modules.get(name)
        return found if isinstance(found, _Module) else self._loaded.get(name, found)

    def lost(self, name: str) -> bool:
        """Whether it was imported, and no longer is: another copy of it would have other classes."""
        return name in self._loaded and not isinstance(self._modules.get(name), _Module)

    def changed(self) -> bool:
        as_lists = all(getattr(sys, name, None) == value for name, value in self._lists.items())
        return not as_lists or sys.modules is not self._modules or any(_lacking(have, want) for have, want in self._spaces())

    def _spaces(self) -> Any:
        return (self._modules, self._loaded), (vars(builtins), self._builtins)

    def __enter__(self) -> None:
        attributes = {name: getattr(sys, name, None) for name in (*self._lists, "modules", "path_importer_cache")}
        lacking = [(have, _lacking(have, want)) for have, want in self._spaces()]
        self._theirs = attributes, [(have, {name: have.get(name, _Begun) for name in names}) for have, names in lacking]
        for name, value in self._lists.items():
            setattr(sys, name, list(value))
        sys.modules, sys.path_importer_cache = self._modules, {}
        for have, names in lacking:
            have.update(names)

    def __exit__(self, *_: Any) -> None:
        attributes, spaces = self._theirs
        for name, value in attributes.items():
            setattr(sys, name, value)
        for have, before in spaces:
            for name, value in before.items():
                if value is _Begun:  # it was not there
                    have.pop(name, None)
                else:
                    have[name] = value


def _begins(module: Any) -> bool:
    """Whether a module's import is not over. One that loads itself when it is first used is not used."""
    space = object.__getattribute__(module, "__dict__")
    return bool(getattr(space.get("__spec__"), "_initializing", False))


def _lacking(have: Dict[str, Any], want: Dict[str, Any]) -> Dict[str, Any]:
    return {name: value for name, value in want.items() if have.get(name) is not value}


#: The runtime's own copy: what a script puts in the place of a builtin does not reach it. This
#: module has one from `_boot`.
_BUILTINS = dict(vars(builtins), __import__=_import)
_LOCK = RLock()
_Module = type(sys)
_BEGUN = _Begun()
remember, keep, imported = _BEGUN.remember, _BEGUN.keep, _BEGUN.imported


class _Loader:
    """Loads one runtime module from its source; `get_source` lets tracebacks show the lines."""

    def __init__(self, source: str, filename: str) -> None:
        self._source = source
        self._filename = filename

    def create_module(self, spec: ModuleSpec) -> Optional[ModuleType]:
        return None

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__builtins__"] = _BUILTINS
        key = self._filename[len(PACKAGE) + 3 : -3]
        _MODULES[key] = module
        if key == "__init__" and "_finder" in _MODULES:
            vars(module)["_finder"] = _MODULES["_finder"]  # as an import would, of which it has had none
        exec(self.get_code(), module.__dict__)

    def get_code(self, name: str = "") -> CodeType:
        return compile(self._source, self._filename, "exec", dont_inherit=True)

    def get_source(self, name: str = "") -> str:
        return self._source


class _Hooked:
    """Another loader, followed by a hook: how the runtime learns that somebody has imported
    `logging`.
    """

    def __init__(self, loader: Any, hook: Hook) -> None:
        self._loader = loader
        self._hook = hook

    def create_module(self, spec: ModuleSpec) -> Optional[ModuleType]:
        module: Optional[ModuleType] = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The module looks as if nobody had stood between: tools read __spec__ and __loader__.
        spec: Any = module.__spec__
        spec.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._hook(module)


class Finder:
    """A meta path finder for the runtime, for the user's script under its name, and for modules
    somebody waits for.
    """

    def __init__(self, sources: Dict[str, str]) -> None:
        self.sources = sources
        self.scripts: Dict[str, str] = {}
        self.hooks: Dict[str, Hook] = {}
        self.worker: Any = ()  # id and slot of the worker that this is, or is a child of

    def find_spec(
        self, name: str, path: Optional[Sequence[str]] = None, target: Optional[ModuleType] = None
    ) -> Optional[ModuleSpec]:
        if name == PACKAGE or name.startswith(PACKAGE + "."):
            return self._runtime(name)
        if name in self.scripts:
            filename = self.scripts[name]
            loader = _external.SourceFileLoader(name, filename)
            return _external.spec_from_file_location(name, filename, loader=loader)
        if name in self.hooks:
            return self._hooked(name, path)
        return None

    def load(self, key: str) -> None:
        """Load a module of the runtime as an import does, but for the search."""
        name = PACKAGE + "." + key
        with _LOCK:
            if key in _MODULES:
                return  # by another thread, meanwhile; or this one is about it
            spec: Any = self._runtime(name)
            spec._initializing = True
            module = _Module(name)
            module.__spec__, module.__loader__, module.__package__ = spec, spec.loader, PACKAGE
            try:
                spec.loader.exec_module(module)
            except BaseException:
                _MODULES.pop(key, None)
                raise
            spec._initializing = False
            try:
                sys.modules[name] = module
            except Exception:
                pass  # a script has put something odd in its place
            setattr(_MODULES["__init__"], key, module)

    def _runtime(self, name: str) -> Optional[ModuleSpec]:
        key = name[len(PACKAGE) + 1 :] or "__init__"
        source = self.sources.get(key)
        if source is None:
            return None
        filename = "<" + PACKAGE + ">/" + key + ".py"
        loader: Any = _Loader(source, filename)
        return _ModuleSpec(name, loader, origin=filename, is_package=key == "__init__")

    def _hooked(self, name: str, path: Optional[Sequence[str]]) -> Optional[ModuleSpec]:
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, "find_spec"):
                spec: Any = finder.find_spec(name, path)
                if spec is not None:
                    if hasattr(spec.loader, "exec_module"):
                        spec.loader = _Hooked(spec.loader, self.hooks.pop(name))
                    found: ModuleSpec = spec
                    return found
        return None


_finder: Any = None


def install(sources: Dict[str, str]) -> Finder:
    """Put the runtime in front of every other finder, so that an installed package of the same name
    never shadows it.
    """
    global _finder
    finder = _finder = Finder(sources)
    sys.meta_path.insert(0, finder)
    own = sys.modules.get(PACKAGE + "._finder")
    if own is not None and own.__dict__ is globals():
        _MODULES["_finder"] = own
    return finder


def installed() -> Optional[Finder]:
    """The finder of this process; None where pypool was imported from files."""
    for finder in sys.meta_path:
        if type(finder).__name__ == "Finder" and hasattr(finder, "scripts"):
            return finder  # type: ignore[return-value]
    return None


def loaded(key: str) -> Any:
    """A module of the runtime's if it has been loaded, else None."""
    return _MODULES.get(key)


def when_imported(name: str, hook: Hook) -> None:
    """Call hook(module) as soon as `name` is imported by somebody, or now if it already is."""
    found = imported(name)
    finder = installed()
    if found is not None:
        hook(found)
    elif finder is not None:
        finder.hooks[name] = hook
