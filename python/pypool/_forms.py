"""Values that JSON alone does not say: a number with its digits, bytes, and objects of classes
known by name.
"""

from __future__ import annotations

from ._finder import imported
from ._json import make_scanner, strict_float

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LEAVES = frozenset((str, int, float, bool, type(None)))


class Number(float):
    """A float with the text it came as: for a Decimal every digit counts. It is infinite where no
    float holds what the text says.
    """

    __slots__ = ("text",)
    text: str


def with_text(text: str) -> Number:
    number = Number(text)
    number.text = text
    return number


#: As `scan`, with each float as a Number.
scan_exactly = make_scanner(with_text)


def plain_numbers(value: Any) -> Any:
    """The value without the texts of its numbers. Raises ValueError for one that no float holds."""
    kind = type(value)
    if kind is Number:
        number = float(value)
        return number if number - number == 0.0 else strict_float(value.text)
    if kind is list and not _LEAVES.issuperset(map(type, value)):
        return [plain_numbers(item) for item in value]
    if kind is dict and not _LEAVES.issuperset(map(type, value.values())):
        return {key: plain_numbers(item) for key, item in value.items()}
    return value


def set_bytes(args: Any, paths: Any) -> None:
    """Put bytes in the places of their base64 texts. Raises ValueError where the paths do not fit."""
    from binascii import a2b_base64  # for bytes alone

    try:
        for path in paths:
            holder, last = args, path[-1]
            for step in path[:-1]:
                holder = holder[step]
            if type(holder) is dict and type(last) is str:
                if last in holder:  # else it was left out, because of omitempty
                    holder[last] = a2b_base64(holder[last])
            elif type(holder) is list and type(last) is int and last >= 0:
                holder[last] = a2b_base64(holder[last])
            else:
                raise ValueError("a step that is none")
    except (TypeError, LookupError, ValueError) as error:
        raise ValueError("'bytes' does not fit the arguments: %s" % error) from None


def base64_text(data: bytes) -> str:
    from binascii import b2a_base64  # for bytes alone

    return b2a_base64(data, newline=False).decode("ascii")


def text_of(error: BaseException) -> str:
    """What an exception says, on one line; never raises."""
    try:
        return "%s: %s" % (type(error).__name__, " ".join(str(error).split())[:300])
    except BaseException:
        return type(error).__name__


def loaded(module: str, name: str) -> Any:
    """A module's attribute, () where there is none. Libraries that are not loaded are not asked."""
    return getattr(imported(module), name, ())


def is_a(kind: Any, module: str, *names: str) -> bool:
    """Whether kind is module.name, of one of the names, or a subclass."""
    bases = [loaded(module, name) for name in names]
    return isinstance(kind, type) and any(isinstance(base, type) and issubclass(kind, base) for base in bases)


def is_one(value: Any, module: str, *names: str) -> bool:
    """Whether a value is an object of module.name, of one of the names."""
    return any(isinstance(value, loaded(module, name)) for name in names)


def by_pydantic(kind: Any) -> bool:
    """Whether it is pydantic that has made a dataclass's fields: an ordinary one may be derived from
    one of pydantic's, and then has what that has, but for its own fields.
    """
    owner = next((one for one in kind.__mro__ if "__dataclass_fields__" in vars(one)), object)
    return "__pydantic_serializer__" in vars(owner)


class _Missing:
    is_null = False  # while a result's NaN becomes null


MISSING = _Missing()


def missing(name: str) -> None:
    """A value for what pandas and numpy have where there is none."""
    if not MISSING.is_null:
        raise TypeError(name + ' is not JSON: put None in its place, or use @command(nan="null")')


def type_name(value: Any) -> str:
    """A JSON value's type, in JSON's words."""
    if value is None:
        return "null"
    names = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        Number: "a number",
        str: "a string",
        list: "an array",
        dict: "an object",
    }
    return names.get(type(value), type(value).__name__)
