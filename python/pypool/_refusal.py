"""What is wrong with arguments, for programs: the `errors` of an invalid_arguments answer.
docs/protocol.md has their form.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Mapping, Optional

    from ._hints_scalars import ConversionError

#: Errors of a model that are named in the one line; `errors` has all.
_NAMED = 3


def conversion(error: ConversionError, arguments: Mapping[str, Any]) -> List[Dict[str, Any]]:
    """The errors of an argument that could not be converted: a model's own where there are any,
    else one.
    """
    at = location(error.path, arguments)
    # The exception that the conversion met, pydantic's for one, is this one's context, though it is
    # not shown.
    inner = _model_errors(error.__context__)
    if not inner:
        return [{"loc": at, "msg": error.expected, "type": "type"}]
    return [dict(each, loc=at + each["loc"]) for each in inner]


def in_words(error: BaseException) -> str:
    """A model's refusal in one line."""
    errors = _model_errors(error)
    if not errors:
        return str(error)
    named = ["%s: %s" % (_path(each["loc"]), each["msg"]) if each["loc"] else each["msg"] for each in errors[:_NAMED]]
    more = len(errors) - len(named)
    return "; ".join(named) + ("; and %d more" % more if more else "")


def _model_errors(error: Optional[BaseException]) -> List[Dict[str, Any]]:
    """What pydantic's ValidationError lists, of version 1 or 2; empty for any other exception."""
    listed = getattr(error, "errors", None)
    if not callable(listed) or type(error).__module__.partition(".")[0] not in ("pydantic", "pydantic_core"):
        return []
    try:
        try:
            # The input is not sent back: it may be large, or a secret.
            found: Any = listed(include_url=False, include_context=False, include_input=False)
        except TypeError:
            found = listed()
        return [
            {"loc": [_step(step) for step in each["loc"]], "msg": str(each["msg"]), "type": str(each["type"])} for each in found
        ]
    except Exception:
        return []


def _step(step: Any) -> Any:
    return step if type(step) in (int, str) else str(step)


def _path(steps: List[Any]) -> str:
    text = ""
    for step in steps:
        text += "[%d]" % step if type(step) is int else "." + str(step) if text else str(step)
    return text


def location(path: str, arguments: Mapping[str, Any]) -> List[Any]:
    """A converter's path (`rows[3].score`) as its steps. The arguments tell where a key with a dot
    or a bracket in it ends.
    """
    found = _walk(path, arguments)
    return [path] if found is None else found


def _walk(rest: str, value: Any) -> Optional[List[Any]]:
    if not rest:
        return []
    if rest[0] == "[" and isinstance(value, (list, tuple)):
        number, _, tail = rest[1:].partition("]")
        if not number.isdigit() or int(number) >= len(value):
            return None
        steps = _walk(tail, value[int(number)])
        return None if steps is None else [int(number), *steps]
    if not hasattr(value, "keys"):
        return None
    if rest[0] == ".":
        rest = rest[1:]
    for key in sorted((key for key in value if type(key) is str and rest.startswith(key)), key=len, reverse=True):
        tail = rest[len(key) :]
        if not tail or tail[0] in ".[":
            steps = _walk(tail, value[key])
            if steps is not None:
                return [key, *steps]
    return None
