"""The same as a module of a package."""

from pypool import command

from . import _private


@command
def private() -> list:
    return [_private.VALUE, __name__, __file__]
