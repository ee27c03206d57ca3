"""The user's own source files, for a host that reloads its workers when one changes: get_stats with
{"sources": true}.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List

_INSTALLED = ("site-packages", "dist-packages")


def files() -> List[str]:
    """The absolute paths of the modules imported from neither the standard library nor an installed
    package.
    """
    stdlib = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
    found = set()
    for module in list(sys.modules.values()):
        path = _path(module)
        if not path.endswith((".py", ".pyw")):
            continue
        path = os.path.abspath(path)
        if not path.startswith(stdlib) and not any(part in _INSTALLED for part in path.split(os.sep)):
            found.add(path)
    return sorted(found)


def _path(module: Any) -> str:
    try:
        # Not getattr: a lazy module would import what it stands for
        path = vars(module).get("__file__")
    except TypeError:
        return ""
    # The runtime itself has no files: its modules are called <pypool>/_name.py.
    return path if isinstance(path, str) and not path.startswith("<") else ""
