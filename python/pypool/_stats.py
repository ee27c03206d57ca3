"""What a worker tells of itself: get_stats."""

from __future__ import annotations

import os
import sys
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional

    from ._answers import Answers

_INSTALLED = ("site-packages", "dist-packages")


def of(answers: Answers, sources: bool) -> Dict[str, Any]:
    """The answer to get_stats."""
    stats = {
        "calls": answers.calls,
        "errors": answers.errors,
        "uptime_s": round(monotonic() - answers.started, 3),
        "pid": os.getpid(),
        "python": "%d.%d.%d" % sys.version_info[:3],
        "rss_bytes": _rss_bytes(),
    }
    if sources:
        stats["sources"] = files()
    return stats


def _rss_bytes() -> Optional[int]:
    """Resident memory now; where the system does not say it, the highest so far; None where it says
    neither.
    """
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


def files() -> List[str]:
    """The user's own source files, absolute, for a host that reloads its workers when one changes."""
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
