"""The functions of the host: ``from pypool import host``, ``host.lookup(id="7")``."""

from __future__ import annotations

from . import _channel
from ._host_calls import call, call_aio
from ._replies import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List


class _Unknown(HostError, AttributeError):
    """There is no such function: `host` has no such attribute."""


_Unknown.__name__ = _Unknown.__qualname__ = "HostError"


class _Aio:
    """The functions for coroutines: ``await host.aio.lookup(id="7")``."""

    def __init__(self, id: int) -> None:
        self._id = id

    def __getattr__(self, name: str) -> Any:
        _check(name)
        id = self._id

        async def function(*args: Any, **keyword: Any) -> Any:
            return await call_aio(id, name, args, keyword)

        return _named(function, name)


def _check(name: str) -> None:
    """Raise where there is no such function, as far as that is known here."""
    if name.startswith("_"):
        raise AttributeError(name)
    channel = _channel.OURS.channel
    known = None if channel is None else channel.functions
    if known is None or name in known:
        return
    from ._names import nearest  # only now

    close = nearest(name, known)
    if not known:
        close = ": it has none (Config.Functions)"
    elif not close:
        close = "; it has: " + ", ".join(list(known)[:10])
    raise _Unknown("unknown_function", "the host has no function %r%s" % (name[:64], close))


def _named(function: Any, name: str) -> Any:
    function.__name__ = name
    function.__qualname__ = "host." + name
    return function


class Host:
    """The functions of the Go program that runs this worker, as methods: ``host.lookup(id="7")``.

    Keyword arguments are the fields of the function's argument in Go, one positional argument is
    that argument itself, several are an array. What the function fails with is raised as HostError.
    In a thread of its own a call of one raises LookupError when the thread's call is over; a thread
    that no call has started takes one along: ``call = current_call()``, ``call.host.lookup(...)``.
    """

    def __init__(self, id: int = 0) -> None:
        self._id = id

    @property
    def aio(self) -> _Aio:
        """The same for coroutines: ``await host.aio.lookup(id="7")``."""
        return _Aio(self._id)

    def __getattr__(self, name: str) -> Any:
        _check(name)
        id = self._id

        def function(*args: Any, **keyword: Any) -> Any:
            return call(id, name, args, keyword)

        function = _named(function, name)
        if _channel.OURS.channel is not None:
            self.__dict__[name] = function
        return function

    def __dir__(self) -> List[str]:
        channel = _channel.OURS.channel
        return ["aio", *((channel.functions or ()) if channel is not None else ())]

    def __repr__(self) -> str:
        return "pypool.host"


host = Host()
