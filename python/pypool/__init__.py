"""The Python side of pypool: the functions that a Go program calls in warm worker processes.

::

    from pypool import command

    @command
    def summarize(text: str, limit: int = 100) -> dict:
        return {"summary": text[:limit]}

In a worker this package comes from the Go library and needs no installation. Try a script by hand
with ``python -m pypool worker.py``.
"""

from __future__ import annotations

# The modules, from the ground up; one imports only what stands before it (tests/test_layers.py).
#
#   in memory     _finder _room
#   values        _wire _fallback _json _forms _tables _arrays _names _advice
#   shared        _page _memory
#   process       _call _stdio _life _errors _exit _output _logging _telemetry
#   requests      _payloads _envelope _requests
#   results       _convert_libraries _convert _keys _results _orjson
#   channel       _cancel _channel
#   commands      _callables _commands _retire
#   hints         _describe _generics _schema_pydantic _quoted _schema_fields _hints_scalars _hints_numpy _hints_tables
#                 _hints_arrays _refusal _hints_records _hints_unions _hints_keys _hints_json _hints_msgspec _hints_models
#                 _hints _hints_results _schema_names _schema
#   binding       _signatures _wrapped _columns _bind
#   answers       _failure _answers _blobs
#   calls         _async _health _stream _dispatch _batch _stats _builtins
#   the host      _replies _beside _host_calls _host
#   the loop      _stacks _tasks _escaped _worker
#   the start     __init__ _scripts _user _spawn _forkable _forkserver _start _boot
#   by hand       _packages __main__
from ._call import Call as Call
from ._call import Worker as Worker
from ._call import current_call as current_call
from ._call import current_calls as current_calls
from ._call import current_worker as current_worker
from ._cancel import Canceled as Canceled
from ._cancel import shield as shield
from ._commands import command as command
from ._commands import health as health
from ._commands import program as program
from ._commands import setup as setup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._arrays import Array as Array
    from ._arrays import payload as payload
    from ._host import host as host
    from ._replies import HostError as HostError
    from ._retire import retire as retire

__all__ = [
    *("Array", "Call", "Canceled", "HostError", "Worker", "command", "current_call", "current_calls", "current_worker", "host"),
    *("health", "payload", "program", "retire", "setup", "shield"),
]
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """What few workers need."""
    if name in ("Array", "payload"):
        from . import _arrays

        return getattr(_arrays, name)
    if name == "retire":
        from . import _retire

        return _retire.retire
    if name not in ("host", "HostError"):
        raise AttributeError("module %r has no attribute %r" % (__name__, name))
    from . import _host, _replies

    return _host.host if name == "host" else _replies.HostError
