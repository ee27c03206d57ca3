"""Children of multiprocessing's "spawn" and "forkserver" methods: they import the user's script, and need the runtime for it.

It exists in the worker's memory only, so it travels in the data with which multiprocessing prepares a child.
"""

from __future__ import annotations

from . import _finder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Carrier:
    """Installs the runtime in the child when multiprocessing unpacks it there: `exec` of our own source, nothing else."""

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
            )
            data["pypool"] = _Carrier("\n".join(lines))
        return data

    spawn.get_preparation_data = get_preparation_data
