"""What a command's hint says of its results: keys that are no text.

Most commands have nothing of it, which is found out once, upon the first call.
"""

from __future__ import annotations

import collections.abc
import typing

from . import _hints_keys
from ._callables import annotations_of, unwrap
from ._convert import RefusedKey, to_json
from ._forms import by_pydantic, is_one
from ._generics import as_base
from ._hints import ARRAYS, OBJECTS, Maker
from ._hints_unions import UNIONS
from ._quoted import resolved
from ._schema_fields import (
    LAZY,
    Guarded,
    Unresolved,
    bare,
    elements,
    fields_of,
    is_alias,
    is_record,
    space_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional

    from ._commands import Command

    #: Makes of a value what the encoder takes.
    Change = Callable[[Any], Any]


def change_of(entry: Command, items: bool) -> Optional[Change]:
    """What a result, or each item, goes through before it is encoded; None for nothing. What gives
    items is not to be seen of a function behind a decorator.
    """
    try:
        hint = annotations_of(unwrap(entry.func))["return"]
        hint = bare(resolved(hint, space_of(entry.func)))
        if typing.get_origin(hint) in (collections.abc.Awaitable, collections.abc.Coroutine):
            hint = bare(typing.get_args(hint)[-1])
        if items and typing.get_origin(hint) in LAZY:
            hint = typing.get_args(hint)[0]
        change = _Maker().make(hint)
    except Exception:
        return None
    return None if change is None else _bounded(change)


def _bounded(change: Change) -> Change:
    def bounded(value: Any) -> Any:
        try:
            return change(value)
        except RecursionError:
            return value  # nested too deeply: the encoder knows what is wrong with it

    return bounded


class _Maker(Guarded):
    """Makes changes of hints. Only what is as the hint says is changed; the rest is left for the
    encoder to judge.
    """

    def __init__(self) -> None:
        super().__init__()
        self._reader = Maker(True)

    def make(self, hint: Any) -> Optional[Change]:
        """The change for a resolved hint, or None."""
        if is_alias(hint):
            return self.guarded(hint, lambda: self.make(bare(hint)))
        hint = bare(hint)
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        target = origin or hint
        if origin in UNIONS:
            return _first_of([(arg, self.make(arg)) for arg in args])
        if str(origin).endswith("Literal") or not isinstance(target, type):
            return None
        if target in OBJECTS or (issubclass(target, dict) and not is_record(target)):
            return self._mapping(as_base(target, args, OBJECTS)[1])
        if target is tuple and args and not (len(args) == 2 and args[1] is Ellipsis):
            return _fixed(*[[self.make(arg) for arg in part] for part in elements(hint) or ()])
        if target in ARRAYS:
            change = self.make(args[0]) if args else None
            return None if change is None else lambda value: [change(item) for item in value] if _is_array(value) else value
        if is_record(target):
            return self.guarded(hint, lambda: self._class(target, args))
        return None

    def _mapping(self, args: Any) -> Optional[Change]:
        on_key = _hints_keys.writer(args[0], self._reader) if args else None
        on_value = self.make(args[1]) if len(args) > 1 else None
        if on_key is None and on_value is None:
            return None

        def mapping(value: Any) -> Any:
            if not isinstance(value, collections.abc.Mapping):
                return value
            out: Dict[Any, Any] = {}
            refused = ""
            for key, item in value.items():
                try:
                    text = key if on_key is None else on_key(key)
                except _hints_keys.KeyRefused as error:
                    text, refused = error.text, refused or str(error)
                except (TypeError, ValueError):
                    text = key  # refused by the encoder
                if text in out:
                    refused = "two keys are %.100r as text" % (text,)
                    break
                out[text] = item if on_value is None else on_value(item)
            return {RefusedKey(refused): None} if refused else out

        return mapping

    def _class(self, kind: Any, args: Any) -> Optional[Change]:
        sort, fields = fields_of(kind, True, args)
        if sort in ("model", "struct") or (sort == "dataclass" and by_pydantic(kind)):
            return None  # pydantic and msgspec make text of keys themselves
        changes = {}
        for field in fields:
            change = None if isinstance(field.hint, Unresolved) else self.make(field.hint)
            if change is not None:
                changes[field.name] = change
        if not changes:
            return None
        if sort == "typed_dict":
            return lambda value: _some({**value}, changes) if isinstance(value, dict) else value
        if sort == "named_tuple":
            return lambda value: list(_some(value._asdict(), changes).values()) if isinstance(value, kind) else value
        return lambda value: _some(to_json(value), changes) if isinstance(value, kind) else value


def _some(value: Dict[str, Any], changes: Dict[str, Change]) -> Dict[str, Any]:
    for name, change in changes.items():
        if name in value:
            value[name] = change(value[name])
    return value


def _is_array(value: Any) -> bool:
    """Whether it is what to_json makes an array of whose items may be of any kind."""
    if isinstance(value, (list, tuple)):
        return not hasattr(type(value), "_fields")
    return is_one(value, "collections", "deque", "UserList")


def _fixed(first: Any, middle: Any, last: Any) -> Optional[Change]:
    if not any(first + middle + last):
        return None
    known = len(first) + len(last)

    def fixed(value: Any) -> Any:
        if not _is_array(value) or len(value) < known or (len(value) > known and not middle):
            return value
        changes = first + middle * (len(value) - known) + last
        return [item if change is None else change(item) for item, change in zip(value, changes)]

    return fixed


def _first_of(members: Any) -> Optional[Change]:
    changes = [(arg, change) for arg, change in members if change is not None]
    if not changes:
        return None

    def first_of(value: Any) -> Any:
        refused = value
        for _, change in changes:
            changed = change(value)
            if changed is not value:
                if not _is_refused(changed):
                    return changed
                refused = changed
        return value if any(change is None and _takes(arg, value) for arg, change in members) else refused

    return first_of


def _is_refused(changed: Any) -> bool:
    if type(changed) is dict:
        return any(type(key) is RefusedKey for key in changed) or any(map(_is_refused, changed.values()))
    return type(changed) is list and any(map(_is_refused, changed))


def _takes(hint: Any, value: Any) -> bool:
    """Whether a value whose keys are text is of a hint, as far as its objects and arrays tell."""
    hint = bare(hint)
    origin, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if hint is typing.Any or hint is object:
        return True
    if origin in UNIONS:
        return any(_takes(arg, value) for arg in args)
    if isinstance(value, collections.abc.Mapping):
        if not isinstance(origin, type) or not issubclass(origin, collections.abc.Mapping):
            return False
        args = () if is_record(origin) else as_base(origin, args, OBJECTS)[1]
        return all(type(key) is str and _takes(args[1] if len(args) > 1 else object, item) for key, item in value.items())
    if _is_array(value):
        return origin in ARRAYS and all(_takes(args[0] if len(args) == 1 else object, item) for item in value)
    return True
