"""The Python side of pypool: the functions that a Go program calls in warm worker processes.

::

    from pypool import command

    @command
    def summarize(text: str, limit: int = 100) -> dict:
        return {"summary": text[:limit]}

In a worker this package comes from the Go library and needs no installation. Try a script by hand with
``python -m pypool worker.py``.
"""

# General layout: _boot (given to python -c) -> _start (hello, import of the script) -> _worker (the loop) -> _protocol (frames).
# _commands is the registry, _call the running call, _life how a worker ends. The rest is cold and imported by who needs it.
from ._call import Call as Call
from ._call import current_call as current_call
from ._commands import command as command
from ._commands import program as program
from ._commands import setup as setup

__all__ = ["Call", "command", "current_call", "program", "setup"]
__version__ = "0.1.0"
