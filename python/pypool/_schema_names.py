"""What a schema calls classes."""

from __future__ import annotations

import inspect
import typing

from . import _describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Tuple


def key_of(kind: Any, args: Tuple[Any, ...]) -> str:
    """What tells a class from all others, a generic one by its arguments."""
    generic = getattr(kind, "__pydantic_generic_metadata__", None) or {"args": ()}  # a class of pydantic's own
    if generic["args"]:
        kind, args = generic["origin"], generic["args"]
    name = "%s.%s" % (kind.__module__, kind.__qualname__)
    return name + "[" + ", ".join(map(_arg_of, args)) + "]" if args else name


def _arg_of(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is None or not args:
        return key_of(hint, ()) if isinstance(hint, type) and hint.__module__ != "builtins" else _describe.annotation_text(hint)
    if str(origin).endswith("Literal"):
        return _describe.annotation_text(hint)
    return "%s[%s]" % (_arg_of(origin), ", ".join(map(_arg_of, args)))


def doc_of(kind: Any) -> str:
    """The class's own docstring; not the one that dataclass, NamedTuple or Enum wrote."""
    doc = kind.__dict__.get("__doc__")
    if not isinstance(doc, str) or doc == "An enumeration." or doc.startswith(kind.__name__ + "("):
        return ""
    return inspect.cleandoc(doc)
