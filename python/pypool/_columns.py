"""What a batch command takes: for each parameter a list with one entry a call, and gives: a list of
as many results.

A call of it has arguments as any other has. So the handler stands behind a function for one call,
whose signature has the entries' hints: by that calls are bound, refused, described and, alone,
served.
"""

from __future__ import annotations

import collections.abc
import inspect
import types
import typing

from ._call import RUNNING
from ._callables import signature_of, unwrap
from ._describe import annotation_text
from ._forms import type_name
from ._hints_scalars import ConversionError, too_deep
from ._hints_unions import UNIONS
from ._quoted import resolved
from ._schema_fields import bare, space_of
from ._signatures import refused
from ._tables import is_table
from ._wire import ResultError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Sequence, Tuple

    from ._commands import Command
    from ._hints import Plan

_ABC = collections.abc
#: The hints of a list; what these are of is the hint of an entry.
_LISTS = (list, _ABC.Sequence, _ABC.MutableSequence, _ABC.Collection, _ABC.Iterable, _ABC.Reversible, _ABC.Sized)


class Columns:
    """The handler of a batch command, and how it takes its calls."""

    __slots__ = ("func", "names", "defaults", "by_position", "by_name", "bind")

    def __init__(self, func: Any, parameters: Sequence[inspect.Parameter]) -> None:
        self.func = func
        self.names = [p.name for p in parameters]
        #: Whether all may be given by name.
        self.by_name = not any(p.kind is p.POSITIONAL_ONLY for p in parameters)
        #: A request's args as a row, see `prepare_calls`.
        self.bind: Callable[[Any], Sequence[Any]] = _unprepared
        self.defaults: Dict[str, Any] = {p.name: p.default for p in parameters if p.default is not p.empty}
        self.by_position = sum(p.kind is not p.KEYWORD_ONLY for p in parameters)

    def row(self, positional: Sequence[Any], keyword: Dict[str, Any]) -> Tuple[Any, ...]:
        """The arguments of one call, which fit, one for each parameter."""
        rest = self.names[len(positional) :]
        return (*positional, *[keyword[name] if name in keyword else self.defaults[name] for name in rest])

    def call(self, rows: Sequence[Sequence[Any]]) -> Any:
        """What the handler returns for these calls."""
        return self.of([list(column) for column in zip(*rows)])

    def of(self, columns: Sequence[List[Any]]) -> Any:
        """What the handler returns for these lists."""
        if self.by_position == len(columns):
            return self.func(*columns)
        by_name = dict(zip(self.names[self.by_position :], columns[self.by_position :]))
        return self.func(*columns[: self.by_position], **by_name)

    def prepare_calls(self, entry: Command, plan: Plan) -> None:
        """Make what binds a request's args, and what serves a call alone, as quick as a plain command
        is. entry.adapt does what is not usual.
        """
        names, count, adapt = self.names, len(self.names), entry.adapt
        every, listed = frozenset(names) if self.by_name else None, self.by_position == count
        found = {**dict(plan.by_position), **plan.names}
        converters = [(i, convert) for i, convert in enumerate(map(found.get, names)) if convert is not None]

        def bind(args: Any) -> Sequence[Any]:
            if type(args) is dict and args.keys() == every:
                row = [args[name] for name in names]
            elif type(args) is list and listed and len(args) == count:
                row = args
            else:
                return self.row(*adapt(args))  # type: ignore[misc]
            if converters:
                i = 0
                try:
                    for i, convert in converters:
                        row[i] = convert(row[i])
                except ConversionError as error:
                    raise refused(entry, error.under(names[i]), dict(zip(names, row))) from None
                except RecursionError as error:
                    raise refused(entry, too_deep(row[i], error).under(names[i]), dict(zip(names, row))) from None
            return row

        call = self.func if listed else lambda *columns: self.of(columns)
        only = names[0] if every and listed and count == 1 and not converters else None  # as most models have it
        running = RUNNING

        def alone(*positional: Any, **keyword: Any) -> Any:
            columns: Any
            if only in keyword and len(keyword) == 1 and not positional:
                columns = ([keyword[only]],)
            else:
                columns = [[value] for value in bind(list(positional) if positional else keyword)]
            running.calls = (running.request,)  # type: ignore[assignment]
            try:
                returned = call(*columns)
                result = returned[0] if type(returned) is list and len(returned) == 1 else results(returned, 1)[0]
            finally:
                running.calls = None
            if isinstance(result, BaseException):
                raise result
            return result

        self.bind = bind
        if not entry.awaits:
            entry.direct = alone


def _unprepared(args: Any) -> Sequence[Any]:
    raise AssertionError("see Columns.prepare_calls")


def results(found: Any, count: int) -> Sequence[Any]:
    """What a batch's handler has returned as one result for each call. Raises ResultError."""
    if not isinstance(found, (list, tuple)):
        kind = type(found)
        # Of a table, and of what has keys, one gets the names and not what they stand for
        named = isinstance(found, (str, bytes, bytearray, _ABC.Mapping)) or is_table(found)
        if named or not hasattr(kind, "__len__") or not hasattr(kind, "__getitem__"):
            what = "a generator" if hasattr(kind, "gi_frame") or hasattr(kind, "ag_frame") else type_name(found)
            _refuse("a batch of %s takes a list of as many results, not %s" % (_calls(count), what))
        found = list(found)  # an array of numpy's, say
    if len(found) != count:
        _refuse("the list has %d result%s, for a batch of %s" % (len(found), "" if len(found) == 1 else "s", _calls(count)))
    return found  # type: ignore[no-any-return]


def _calls(count: int) -> str:
    return "1 call" if count == 1 else "%d calls" % count


def _refuse(message: str) -> None:
    raise ResultError("invalid_result", message=message, path="$")


def prepare(entry: Command) -> None:
    """Put a function for one call in front of the handler. Raises TypeError for a handler that cannot
    take lists.
    """
    handler = entry.func
    signature = signature_of(handler)
    if signature is None:
        raise TypeError("%s: its parameters cannot be known, so it has no batches" % _named(entry))
    space = space_of(handler)
    parameters = []
    for p in signature.parameters.values():
        if p.kind.name.startswith("VAR_"):
            raise TypeError("%s: each parameter of a batch command needs a name, *%s has none" % (_named(entry), p.name))
        parameters.append(p.replace(annotation=_of_entry(entry, p, space)))
    returns = _of_result(signature.return_annotation, space)
    columns = Columns(handler, parameters)
    func = _for_one(columns, handler)
    func.__signature__ = signature.replace(parameters=parameters, return_annotation=returns)
    func.__annotations__ = {p.name: p.annotation for p in parameters if p.annotation is not p.empty}
    if returns is not signature.empty:
        func.__annotations__["return"] = returns
    entry.func, entry.columns = func, columns


def _named(entry: Command) -> str:
    return "%s %r" % (entry.what, entry.name)


def _of_entry(entry: Command, p: inspect.Parameter, space: Dict[str, Any]) -> Any:
    """The hint of one call's argument."""
    if p.annotation is p.empty:
        return p.empty
    hint = _of_list(p.annotation, space)
    if hint is None:
        message = "%s: it gets %r as a list with one entry for each call, so that hint must be list[...], not %s"
        raise TypeError(message % (_named(entry), p.name, annotation_text(p.annotation)))
    return hint


def _of_result(annotation: Any, space: Dict[str, Any]) -> Any:
    empty = inspect.Signature.empty
    if annotation is empty:
        return empty
    hint = _of_list(annotation, space)
    return empty if hint is None else hint


def _of_list(annotation: Any, space: Dict[str, Any]) -> Any:
    """What the list is of that a hint says; empty where it does not tell, None for a hint of something
    else.
    """
    try:
        hint = bare(resolved(annotation, space))
    except Exception:  # a name under TYPE_CHECKING, say
        text = annotation_text(annotation).replace("typing.", "")
        head, _, rest = text.partition("[")
        return rest[:-1] if head in ("list", "List", "Sequence") and rest.endswith("]") else inspect.Parameter.empty
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in UNIONS and type(None) in args and len(args) == 2:  # with None for a default
        inner = _of_list(args[0] if args[1] is type(None) else args[1], space)
        return inner if inner is None or inner is inspect.Parameter.empty else typing.Optional[inner]
    if hint in (typing.Any, object):
        return inspect.Parameter.empty
    if origin in (_ABC.Awaitable, _ABC.Coroutine) and args:
        return _of_list(args[-1], space)
    if origin in _LISTS or hint in _LISTS:
        plain = not args or isinstance(args[0], typing.TypeVar)
        return inspect.Parameter.empty if plain else args[0]
    return None


def _for_one(columns: Columns, handler: Any) -> Any:
    """The handler for one call alone. It uses no global: its own are the handler's, for hints that
    are not resolved yet.
    """
    one = results

    def only(found: Any) -> Any:
        (result,) = one(found, 1)
        if isinstance(result, BaseException):
            raise result
        return result

    async def later(found: Any) -> Any:
        return only(await found)

    def single(*positional: Any, **keyword: Any) -> Any:
        found = columns.call([columns.row(positional, keyword)])
        return later(found) if hasattr(type(found), "__await__") else only(found)

    inner = unwrap(handler)
    space = getattr(inner, "__globals__", None)
    func: Any = types.FunctionType(single.__code__, space, single.__name__, None, single.__closure__) if space else single
    for name in ("__name__", "__qualname__", "__doc__", "__module__"):
        value = getattr(inner, name, None)
        if value is not None:
            setattr(func, name, value)
    return func
