"""What a command looks like to somebody who has not read its source: list_commands, refusals, and
the command line.
"""

from __future__ import annotations

import inspect
import re

from ._callables import signature_of, unwrap
from ._results import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List

    from ._commands import Command


class _Words:
    """An annotation that prints itself without the quotes a string has."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def describe(entry: Command) -> Dict[str, Any]:
    """One entry of list_commands. `default` is present only when it is JSON."""
    kind = "program" if entry.what == "program" else "generator" if entry.streams or _generates(entry.func) else "function"
    size, wait = entry.batch or (0, 0)
    facts: Dict[str, Any] = {
        "name": entry.name,
        "doc": _doc(entry.func),
        "signature": signature_text(entry.func),
        "kind": kind,
        "params": _params(entry.func),
        "returns": _returns(entry.func),
        **({"max_batch_size": size, "max_wait_ms": wait} if size else {}),
    }
    if entry.concurrency:
        facts["concurrency"] = entry.concurrency
    return facts


def _generates(func: Any) -> bool:
    """Whether the innermost function is a generator. What a decorator makes of it is not to be
    seen.
    """
    inner = unwrap(func)
    return inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner)


def _doc(func: Any) -> str:
    doc = getattr(func, "__doc__", None)
    if not hasattr(func, "__code__") and not isinstance(func, type):
        # An object's own docstring, or its __call__'s; never functools.partial's or a library base
        # class's.
        doc = getattr(unwrap(func), "__doc__", None) or type(func).__dict__.get("__doc__")
    return inspect.cleandoc(doc) if isinstance(doc, str) else ""


def signature_text(func: Any) -> str:
    """(parameters) -> result; "(...)" for what does not tell."""
    signature = signature_of(func)
    if signature is None:
        return "(...)"
    empty = inspect.Parameter.empty
    parameters = []
    for p in signature.parameters.values():
        if p.annotation is not empty:
            p = p.replace(annotation=_Words(annotation_text(p.annotation)))
        if p.default is not empty:
            p = p.replace(default=_Words(_default_text(p.default)))
        parameters.append(p)
    returns = signature.return_annotation
    if returns is not empty:
        returns = _Words(annotation_text(returns))
    return str(signature.replace(parameters=parameters, return_annotation=returns))


def annotation_text(annotation: Any) -> str:
    """A hint as its author wrote it: int, list[str], datetime."""
    if type(annotation).__name__ == "ForwardRef":
        annotation = getattr(annotation, "__resolved_str__", annotation.__forward_arg__)
    if isinstance(annotation, str):
        return annotation
    if isinstance(annotation, type) and not hasattr(annotation, "__args__"):
        return annotation.__qualname__
    try:
        text = inspect.formatannotation(annotation).replace("typing.", "")
        return re.sub(r"ForwardRef\('([^']*)'[^()]*\)", r"\1", text)  # a name that does not exist
    except BaseException:  # its repr is somebody's
        return "\u2026"


def _default_text(default: Any) -> str:
    """A default as Python shows it, unless that is long or fails."""
    try:
        text = repr(default)
    except BaseException:
        return "\u2026"
    return text if len(text) <= 200 else "\u2026"


def _params(func: Any) -> List[Dict[str, Any]]:
    signature = signature_of(func)
    if signature is None:
        return []
    params = []
    for p in signature.parameters.values():
        prefix = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}.get(p.kind.name, "")
        param: Dict[str, Any] = {
            "name": prefix + p.name,
            "type": "" if p.annotation is p.empty else annotation_text(p.annotation),
            "required": p.default is p.empty and not prefix,
        }
        if p.default is not p.empty and is_json(p.default):
            param["default"] = p.default
        params.append(param)
    return params


def _returns(func: Any) -> str:
    signature = signature_of(func)
    returns = inspect.Signature.empty if signature is None else signature.return_annotation
    return "" if returns is inspect.Signature.empty else annotation_text(returns)


def is_json(value: Any) -> bool:
    """Whether a value can be a result, and so a default in a description."""
    try:
        encode(value)
    except Exception:
        return False
    return True
