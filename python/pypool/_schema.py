"""What a command takes and gives, for programs that write clients: list_commands with {"schema":
true}.

A schema is JSON. A type is {"type": KIND, ...}:

    string integer number boolean null any          as in JSON Schema
    datetime date time uuid path decimal            strings on the wire
    bytes                                           a string in base64; in arguments a place that the request names
    ndarray                                         an array of numbers: a payload, or lists
    table                                           an Arrow stream, as a payload; "text" is the class
    duration                                        an integer of nanoseconds
    array map optional tuple union                  of other types: {"of": [TYPE, ...]}; a map whose keys are integers has "key"
    literal                                         one of some values: {"values": [...]}
    ref {"name"}                                    a class or an enumeration, under "types" of the same side
    unknown                                         a hint that has no JSON form; "text" says what it was

Arguments and results are described apart, each with its own "types": a pydantic model may have
other names in than out. In results whose missing values are null, what may be missing is optional,
and a class that has such fields has a name of its own, which ends in " with nulls".
"""

from __future__ import annotations

import collections.abc
import types
import typing

from . import _describe
from ._arrays import Array
from ._callables import signature_of
from ._describe import is_json
from ._forms import by_pydantic, is_a
from ._generics import as_base
from ._hints import ARRAYS, OBJECTS
from ._hints_tables import is_table
from ._quoted import resolved
from ._schema_fields import LAZY, UNSAID, Field, Unresolved, bare, elements, fields_of, is_alias, is_record, space_of
from ._schema_names import doc_of, key_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    import inspect
    from typing import Any, Dict, Iterable, List, Tuple

    from ._commands import Command

    Type = Dict[str, Any]

_ABC = collections.abc
_SCALARS = {bool: "boolean", int: "integer", float: "number", str: "string"}
_TEXTS = ("string", "date", "time", "uuid", "path", "decimal")
#: Classes by module and name, the first that fits.
_CLASSES = (
    ("datetime", "datetime", "datetime"),
    ("datetime", "date", "date"),
    ("datetime", "time", "time"),
    ("datetime", "timedelta", "duration"),
    ("uuid", "UUID", "uuid"),
    ("pathlib", "PurePath", "path"),
    ("decimal", "Decimal", "decimal"),
    ("ipaddress", "_IPAddressBase", "string"),
    ("zoneinfo", "ZoneInfo", "string"),
    ("pandas", "Period", "string"),
    ("numpy", "bool_", "boolean"),
    ("numpy", "timedelta64", "duration"),
    ("numpy", "datetime64", "string"),
    ("numpy", "integer", "integer"),
    ("numpy", "floating", "number"),
    ("numpy", "ndarray", "ndarray"),
)


def schema(entry: Command) -> Dict[str, Any]:
    """The schema of one command. "params" is None where the callable does not tell its parameters."""
    takes, gives = _Walker(False), _Walker(True, bool(entry.lacking))
    found: Dict[str, Any] = {"stream": entry.streams, "params": None}
    signature = signature_of(entry.func)
    if signature is None:
        found.update(returns=_unknown(""), input_types={}, output_types={})
        return found
    space = space_of(entry.func)
    found["params"] = [_param(takes, p, space) for p in signature.parameters.values()]
    found["returns"] = _returned(gives, entry, signature, space)
    found["input_types"], found["output_types"] = takes.types, gives.types
    return found


def _param(walker: _Walker, p: inspect.Parameter, space: Dict[str, Any]) -> Dict[str, Any]:
    param: Dict[str, Any] = {"name": p.name, "kind": p.kind.name.lower(), "required": p.default is p.empty}
    param["type"] = walker.annotation(p.annotation, space) if p.annotation is not p.empty else {"type": "any"}
    if p.default is not p.empty and is_json(p.default):
        param["default"] = p.default
    return param


def _returned(walker: _Walker, entry: Command, signature: inspect.Signature, space: Dict[str, Any]) -> Type:
    annotation = signature.return_annotation
    if annotation is signature.empty:
        return _unknown("")
    try:
        hint = bare(resolved(annotation, space))
    except Exception:
        return _unknown(_describe.annotation_text(annotation))
    origin, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if entry.streams and origin in LAZY:
        return walker.hint(args[0]) if args else {"type": "any"}
    if origin in (_ABC.Awaitable, _ABC.Coroutine) and args:
        return walker.hint(args[-1])
    if entry.streams:
        return _unknown(_describe.annotation_text(annotation))
    return walker.hint(hint)


def _unknown(text: str) -> Type:
    head, address, _ = text.partition(" at 0x")  # what differs from run to run helps nobody
    return {"type": "unknown", "text": head + ">" if address else text}


class _Walker:
    """Turns hints into types, and collects the classes it meets."""

    def __init__(self, output: bool, lacking: bool = False, names: bool = True) -> None:
        self.output = output
        self._lacking = lacking  # whether what is missing is null
        self._names = names  # whether a class that this makes another one has another name
        self.types: Dict[str, Dict[str, Any]] = {}
        self._aliases: List[Any] = []  # those in hand: one may mention itself
        self._model = ""  # whose rules count: "pydantic", "pydantic.v1", "msgspec"
        self._apart: Dict[str, bool] = {}  # by key, see _looks_other and _looks_lacking
        self.asked = False  # whether something depends on a model's rules

    def annotation(self, annotation: Any, space: Dict[str, Any]) -> Type:
        """The type of an annotation as written, maybe a string. Never raises."""
        try:
            return self.hint(resolved(annotation, space))
        except Exception:
            return _unknown(_describe.annotation_text(annotation))

    def hint(self, hint: Any) -> Type:
        """The type of a resolved hint."""
        found = self._hint(hint)
        return {"type": "optional", "of": [found]} if self._lacking and _may_lack(bare(hint), found) else found

    def _hint(self, hint: Any) -> Type:
        if is_alias(hint):
            if hint in self._aliases:
                return {"type": "any"}
            self._aliases.append(hint)
            try:
                return self.hint(bare(hint))
            finally:
                self._aliases.pop()
        if self.output and self._model == "pydantic" and hasattr(hint, "__metadata__"):
            from ._schema_pydantic import serialized  # for a library that many scripts have not

            plain, hint = hint, serialized(hint.__metadata__, hint)
            self.asked |= plain is not hint
        hint = bare(hint)
        if hint is typing.Any or hint is object:
            return {"type": "any"}
        if hint is None or hint is type(None):
            return {"type": "null"}
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if origin is None:
            return self._plain(hint)
        if origin is typing.Union or origin is getattr(types, "UnionType", typing.Union):
            return self._union(args)
        if str(origin).endswith("Literal"):
            return _literal(args)
        if origin is tuple:
            return self._tuple(args, hint)
        if origin in (_ABC.Iterator, _ABC.Iterable) and self.output:
            return _unknown(_describe.annotation_text(hint))
        if origin in ARRAYS:
            return self._array(origin, args)
        if origin in OBJECTS or (isinstance(origin, type) and issubclass(origin, dict) and not is_record(origin)):
            return self._map(origin, args)
        if isinstance(origin, type) and is_record(origin):
            return self._class(origin, args)
        if is_a(origin, "numpy", "ndarray", "generic"):
            return self._plain(origin)
        return _unknown(_describe.annotation_text(hint))

    # ----------------------------------------------------------------------------------- composites

    def _union(self, args: Tuple[Any, ...]) -> Type:
        members: List[Type] = []
        nullable = False
        for arg in args:
            member = self.hint(arg)
            if member["type"] == "optional":
                nullable, member = True, member["of"][0]
            if member["type"] == "null":
                nullable = True
            elif member["type"] == "any":
                return {"type": "any"}
            elif member not in members:
                members.append(member)
        kinds = {member["type"] for member in members}
        if not members:
            found: Type = {"type": "null"}
        elif len(members) == 1:
            found = members[0]
        elif kinds == {"integer", "number"}:
            found = {"type": "number"}
        elif kinds.issubset(_TEXTS):
            found = {"type": "string"}
        else:
            found = {"type": "union", "of": members}
        return {"type": "optional", "of": [found]} if nullable and members else found

    def _tuple(self, args: Tuple[Any, ...], hint: Any = tuple) -> Type:
        if len(args) == 2 and args[1] is Ellipsis:
            return {"type": "array", "of": [self.hint(args[0])]}
        first, middle, last = elements(hint) or ([], [], [])
        if not first + last and len(middle) < 2 or not args:
            return {"type": "array", "of": [self.hint(middle[0]) if middle else {"type": "any"}]}
        if middle:
            return {"type": "array", "of": [self._union((*first, *middle, *last))]}
        return {"type": "tuple", "of": [self.hint(arg) for arg in first]}

    def _map(self, kind: Any, args: Tuple[Any, ...]) -> Type:
        kind, args = as_base(kind, args, OBJECTS)
        args = (args[0], int) if kind is collections.Counter and args else args
        found: Type = {"type": "map", "of": [self.hint(args[1]) if len(args) > 1 else {"type": "any"}]}
        key = self.hint(args[0]) if args else {"type": "string"}
        if key["type"] == "ref":
            members = self.types[key["name"]].get("members") or [{"value": ""}]
            key = {"type": "integer" if all(type(member["value"]) is int for member in members) else "string"}
        if key["type"] == "integer":
            found["key"] = key
        return found

    def _array(self, origin: Any, args: Tuple[Any, ...]) -> Type:
        sent = origin in (list, tuple, collections.deque, _ABC.Sequence, _ABC.MutableSequence, _ABC.Collection, _ABC.Reversible)
        if self.output and not sent and self._rules() not in ("pydantic", "msgspec"):
            return _unknown(_describe.annotation_text(origin))  # a set is not JSON; a list is
        return {"type": "array", "of": [self.hint(args[0]) if args else {"type": "any"}]}

    # -------------------------------------------------------------------------------------- classes

    def _plain(self, hint: Any) -> Type:
        if hint in _SCALARS:
            return {"type": _SCALARS[hint]}
        if hint is tuple:
            return self._tuple(())
        if hint in ARRAYS:
            return self._array(hint, ())
        if not isinstance(hint, type):
            return _unknown(_describe.annotation_text(hint))
        if is_a(hint, "enum", "Enum"):
            return self._enum(hint)
        if is_a(hint, "datetime", "timedelta") and self._rules():
            return {"type": "number" if self._model == "pydantic.v1" else "string"}
        for module, name, found in _CLASSES:
            if is_a(hint, module, name):
                return {"type": found}
        if hint in (bytes, bytearray, memoryview):
            return {"type": "bytes"}
        if hint is Array:
            return {"type": "ndarray"}
        if is_table(hint):
            return {"type": "table", "text": _describe.annotation_text(hint)}
        if is_record(hint):
            return self._class(hint, ())
        if hint in OBJECTS or issubclass(hint, dict):
            return self._map(hint, ())
        for base, kind in _SCALARS.items():
            if issubclass(hint, base):
                return {"type": kind}
        return _unknown(_describe.annotation_text(hint))

    def _enum(self, kind: Any) -> Type:
        name = key_of(kind, ())
        if name not in self.types:
            members = [{"name": m.name, "value": m.value if is_json(m.value) else None} for m in kind]
            self.types[name] = {"kind": "enum", "name": kind.__qualname__, "doc": doc_of(kind), "members": members}
        return {"type": "ref", "name": name}

    def _rules(self) -> str:
        self.asked |= bool(self._model)
        return self._model

    def _class(self, kind: Any, args: Tuple[Any, ...]) -> Type:
        outer, self._model = self._model, _rules(kind, self.output) or _rules_within(self._model, kind, self.output)
        try:
            return self._described(kind, args)
        finally:
            self._model = outer

    def _described(self, kind: Any, args: Tuple[Any, ...]) -> Type:
        root = getattr(kind, "model_fields", {}).get("root") if is_a(kind, "pydantic", "RootModel") else None
        if root is not None:
            return self.hint(root.annotation)
        if _has_own_form(kind, self.output):
            return _unknown(kind.__qualname__)
        name = key_of(kind, args)
        within = "%s in %s" % (name, self._model)
        if self._model and not _rules(kind, self.output) and self._looks_other(within, kind, args):
            name = within
        if self._lacking and self._names and self._looks_lacking(name, kind, args):
            name += " with nulls"
        if name not in self.types:
            entry = self.types[name] = {"kind": "", "name": kind.__qualname__, "doc": doc_of(kind), "fields": []}
            entry["kind"], fields = fields_of(kind, self.output, args)
            entry["fields"] = [self._field(field) for field in fields]
            if args:
                entry["name"] += "[" + ", ".join(_describe.annotation_text(arg) for arg in args) + "]"
        return {"type": "ref", "name": name}

    def _looks_other(self, key: str, kind: Any, args: Tuple[Any, ...]) -> bool:
        """Whether a class that has no rules looks otherwise in a model than by itself."""
        if key not in self._apart:
            within = _Within(self.output)
            within._model = self._model
            within._class(kind, args)
            self._apart[key] = within.asked
        return self._apart[key]

    def _looks_lacking(self, key: str, kind: Any, args: Tuple[Any, ...]) -> bool:
        """Whether a class, or one in it, has fields that may be missing."""
        key += " with nulls"
        if key not in self._apart:
            types = []
            for lacking in (False, True):
                walker = _Walker(True, lacking, False)
                walker._model = self._model
                walker._described(kind, args)
                types.append(walker.types)
            self._apart[key] = types[0] != types[1]
        return self._apart[key]

    def _field(self, field: Field) -> Dict[str, Any]:
        found: Dict[str, Any] = {"name": field.name, "required": field.required}
        unresolved = isinstance(field.hint, Unresolved)
        found["type"] = _unknown(field.hint.text) if unresolved else self.hint(field.hint)
        if not field.required and field.default is not UNSAID and is_json(field.default):
            found["default"] = field.default
        if field.doc:
            found["doc"] = field.doc
        return found


#: The types of which pandas or numpy has a missing one, or a float is no number.
_LACKING = ("number", "decimal", "datetime", "date", "time", "duration")


def _may_lack(hint: Any, found: Type) -> bool:
    return found["type"] in _LACKING or is_a(hint, "numpy", "datetime64") or is_a(hint, "pandas", "Period")


class _Within(_Walker):
    """Looks at what has no rules of its own, and asks for a model's."""

    def _class(self, kind: Any, args: Tuple[Any, ...]) -> Type:
        if not _rules(kind, self.output):
            super()._class(kind, args)
        return {"type": "null"}

    def _looks_other(self, key: str, kind: Any, args: Tuple[Any, ...]) -> bool:
        return False


def _rules_within(model: str, kind: Any, output: bool) -> str:
    """Whose rules a class without any obeys in a model: what a library leaves as it is when it writes
    is written by pypool.
    """
    written: Any = {"msgspec": dict, "pydantic.v1": (dict, tuple)}.get(model, object)
    return model if not output or issubclass(kind, written) else ""


def _has_own_form(kind: Any, output: bool) -> bool:
    """Whether its fields do not tell how it looks in JSON: it is an array, or what a serializer of
    the class makes of it.
    """
    if is_a(kind, "msgspec", "Struct"):
        return bool(kind.__struct_config__.array_like)
    return (
        output
        and bool(_rules(kind, True))
        and bool(getattr(getattr(kind, "__pydantic_decorators__", None), "model_serializers", None))
    )


def _rules(kind: Any, output: bool) -> str:
    """Whose rules a class's fields obey."""
    if is_a(kind, "msgspec", "Struct"):
        return "msgspec"
    if is_a(kind, "pydantic.v1", "BaseModel") or (is_a(kind, "pydantic", "BaseModel") and not hasattr(kind, "model_fields")):
        return "pydantic.v1"
    own = is_a(kind, "pydantic", "BaseModel")
    if not own and hasattr(kind, "__pydantic_validator__"):
        own = not output or by_pydantic(kind)  # what is derived from one is read by pydantic, and written by pypool
    return "pydantic" if own else ""


def _literal(values: Iterable[Any]) -> Type:
    plain = [getattr(v, "value", v) for v in values if v is not None]
    found: Type = {"type": "literal", "values": [v for v in plain if is_json(v)]}
    return {"type": "optional", "of": [found]} if None in tuple(values) else found
