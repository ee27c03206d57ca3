"""Annotations as hints: `typing` evaluates the names in quotes, and leaves those that a value has of
itself.
"""

from __future__ import annotations

import sys
import typing

from . import _finder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Optional, Tuple

#: What names in quotes stand for, with themselves, by id: from Python 3.14 on they do not keep it.
_values: Dict[int, Tuple[Any, Any]] = {}
#: Whether typing has yet to import what it evaluates with: so from Python 3.14 on.
_unready = sys.version_info >= (3, 14)


def resolved(annotation: Any, space: Dict[str, Any], local: Optional[Dict[str, Any]] = None) -> Any:
    """An annotation as a hint; raises whatever its evaluation raises."""
    annotation = _inside_init_var(annotation)
    for _ in range(4):
        found = _hint_of(annotation, space, local or space)
        # Python 3.8 leaves quotes within quotes, which `from __future__ import annotations` makes
        # of every quoted hint. What mentions itself grows with each turn.
        quoted = "ForwardRef(" in repr(found)
        if not quoted or sys.version_info >= (3, 9) or found == annotation:
            break
        annotation = found
    if quoted:
        _evaluate(found, space, local)
    return found


def _hint_of(annotation: Any, space: Dict[str, Any], local: Dict[str, Any]) -> Any:
    global _unready
    extras: Dict[str, Any] = {"include_extras": True} if sys.version_info >= (3, 9) else {}
    if _unready:
        _finder.soundly(lambda: typing.get_type_hints(_holder("int")))
        _unready = False
    return typing.get_type_hints(_holder(annotation), space, local, **extras)["hint"]


def _holder(annotation: Any) -> Any:
    """What has an annotation for typing: a class, in which alone that takes Final for a hint."""
    return type("Holder", (), {"__annotations__": {"hint": annotation}})


def _evaluate(hint: Any, space: Dict[str, Any], local: Optional[Dict[str, Any]]) -> None:
    """Have typing evaluate the names in quotes that it has left in a hint: those of what is being
    named.
    """
    pending, seen = [hint], set()
    while pending:
        one = pending.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if type(one).__name__ == "ForwardRef":
            if not is_evaluated(one):
                try:
                    found = _hint_of(one, space, local or space)
                except Exception:
                    continue  # it names what does not exist
                if not hasattr(one, "__forward_evaluated__"):
                    _values[id(one)] = one, found
            if is_evaluated(one):
                pending.append(value_of(one))
        pending.extend(typing.get_args(one))


def unquoted(hint: Any, space: Dict[str, Any]) -> Any:
    """The hint with the names in quotes evaluated, where they exist."""
    if isinstance(hint, str) or "ForwardRef(" in repr(hint):
        try:
            return resolved(hint, space)
        except Exception:
            pass
    return hint


def is_evaluated(hint: Any) -> bool:
    """Whether it is a name in quotes that has been evaluated: within its own value it is left so."""
    if type(hint).__name__ != "ForwardRef":
        return False
    return id(hint) in _values or getattr(hint, "__forward_evaluated__", False) is True


def value_of(hint: Any) -> Any:
    """What such a name stands for."""
    return _values[id(hint)][1] if id(hint) in _values else hint.__forward_value__


def _inside_init_var(annotation: Any) -> Any:
    """InitVar[int] as int: before Python 3.11 `typing` refuses it, and later leaves what is in it
    as it was.
    """
    if type(annotation).__name__ == "InitVar":
        return annotation.type
    for prefix in ("InitVar[", "dataclasses.InitVar["):
        if isinstance(annotation, str) and annotation.startswith(prefix) and annotation.endswith("]"):
            return annotation[len(prefix) : -1]
    return annotation
