"""Results that are not JSON themselves but have an obvious JSON form, and the search for what has
none.

Libraries are never imported: a result can only be a numpy array where numpy is loaded.
"""

from __future__ import annotations

from ._errors import text_of
from ._forms import MISSING, base64_text, by_pydantic, is_one, loaded, missing
from ._json import make_encoder
from ._wire import MAX_DEPTH, TOO_DEEP, ResultError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterator, List, Optional, Set, Tuple

    #: The way to a value: (parent's path, step), None at the top.
    Path = Optional[Tuple[Any, str]]
    Leaf = Optional[Callable[[Any], bool]]

_PLAIN = (str, int, float, bool, type(None))
_TEXTS = (
    ("uuid", "UUID"),
    ("decimal", "Decimal"),
    ("pathlib", "PurePath"),
    ("ipaddress", "_IPAddressBase"),
    ("zoneinfo", "ZoneInfo"),
    ("pandas", "Period"),
)


def to_json(value: Any) -> Any:
    """The JSON form of a value one level deep; what is inside is converted when the encoder gets
    there. Raises TypeError.
    """
    kind = type(value)
    fields = getattr(kind, "__dataclass_fields__", None)
    if fields is not None:
        if hasattr(kind, "__pydantic_serializer__") and by_pydantic(kind):
            return _libraries().pydantic_dataclass(value)
        return {name: getattr(value, name) for name, field in fields.items() if _is_field(field)}
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64_text(bytes(value))
    if is_one(value, "enum", "Enum"):
        return value.value
    if _is_missing(value) or is_one(value, "decimal", "Decimal") and not value.is_finite():
        return missing(str(value))
    if is_one(value, "datetime", "datetime", "date", "time"):
        return value.isoformat()
    if is_one(value, "datetime", "timedelta"):
        return _nanoseconds(value)
    for module, name in _TEXTS:
        if is_one(value, module, name):
            return str(value)
    if is_one(value, "numpy", "ndarray"):
        return _libraries().array(value)
    if is_one(value, "numpy", "generic"):
        return _libraries().generic(value)
    if is_one(value, __package__ + "._arrays", "Array"):
        return value.tolist()
    if is_one(value, "pydantic", "BaseModel") or is_one(value, "pydantic.v1", "BaseModel"):
        return _libraries().model(value, key_text)
    if hasattr(kind, "__get_pydantic_core_schema__") and loaded("pydantic", "TypeAdapter"):
        return _libraries().by_schema(value)
    if hasattr(kind, "__attrs_attrs__"):
        return {attribute.name: getattr(value, attribute.name) for attribute in kind.__attrs_attrs__}
    if is_one(value, "msgspec", "Struct"):
        return _libraries().struct(value, key_text)
    if is_one(value, "msgspec", "Raw"):
        return _libraries().raw(value)
    if is_one(value, "dspy", "Prediction"):
        return value.toDict()
    if is_one(value, "collections", "deque") or kind is range or is_one(value, "array", "array"):
        return list(value)
    if is_one(value, "collections", "UserDict", "ChainMap") or kind.__name__ == "mappingproxy":
        return dict(value)
    if is_one(value, "collections", "UserList", "UserString"):
        return value.data
    from ._arrays import bytes_of  # nearly all values have been one of the above

    data = bytes_of(value)
    if data is not None:
        return base64_text(data)
    from ._advice import refusal  # a table that is seldom needed

    raise TypeError(refusal(value))


def _is_field(field: Any) -> bool:
    return getattr(getattr(field, "_field_type", None), "name", "") == "_FIELD"


_chunks = make_encoder(default=to_json)
_unicode_chunks = make_encoder(escape_all=False, default=to_json)


def _libraries() -> Any:
    from . import _convert_libraries  # many scripts have none of them

    return _convert_libraries


def _is_missing(value: Any) -> bool:
    return value is loaded("pandas", "NaT") or value is loaded("pandas", "NA")


def _nanoseconds(value: Any) -> Any:
    """A duration as Go's time.Duration is in JSON."""
    if type(value).__module__.startswith("pandas"):
        return int(value.value)
    return ((value.days * 86_400 + value.seconds) * 1_000_000 + value.microseconds) * 1_000


class _Leave:
    """What stays as it is while a result's NaN becomes null; None: nothing does."""

    leaf: Optional[Callable[[Any], bool]] = None


LEAVE = _Leave()


def without_nan(value: Any) -> Any:
    """The value as plain JSON types, with None for NaN, the infinities, and what pandas and numpy
    have for a missing value.
    """
    MISSING.is_null = True
    try:
        return _without_nan(value)
    except (TypeError, RecursionError):
        return value  # refused by the encoder, which knows where and why
    finally:
        MISSING.is_null = False


def _without_nan(value: Any) -> Any:
    for _ in range(100):
        if isinstance(value, float):
            return None if value - value != 0.0 else value
        if isinstance(value, _PLAIN):
            return value
        if isinstance(value, dict):
            return {key: _without_nan(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [_without_nan(item) for item in value]
        if LEAVE.leaf is not None and LEAVE.leaf(value):
            return value
        value = to_json(value)
    return value


def key_text(key: Any) -> str:
    """A key as text. Raises TypeError."""
    if type(key) is str:
        return key
    for _ in range(10):
        if isinstance(key, str):
            return str.__str__(key)
        if isinstance(key, bool):
            return "true" if key else "false"
        if isinstance(key, int):
            return int.__repr__(key)
        if isinstance(key, float):
            if key - key != 0.0:
                break
            return float.__repr__(key)
        if isinstance(key, tuple) and not hasattr(type(key), "__dataclass_fields__"):
            try:
                return "".join(_chunks(key, 0))
            except (TypeError, ValueError) as error:
                raise TypeError(str(error)) from None
        if key is None or isinstance(key, (bytes, bytearray, list, dict)):
            break
        key = to_json(key)
    raise TypeError("key %.100r has no text" % (key,))


class RefusedKey:
    """What stands in the place of keys that the result's hint refuses: the encoder finds out where
    that is.
    """

    def __init__(self, words: str) -> None:
        self.words = words


# --------------------------------------------------------------------------------------- the checks


def check(value: Any, leaf: Leaf = None) -> None:
    """Raise ResultError for a key that is not a string; anything else wrong is found on the way
    too. What is a `leaf` is not JSON, and is sent as it is.
    """
    for _ in _walk(value, leaf):
        pass


def check_surrogates(value: Any, leaf: Leaf = None) -> None:
    """Raise ResultError when a string holds half of a surrogate pair. Its text only makes that
    possible.
    """
    if leaf is not None:
        check(value, leaf)
        return
    try:
        "".join(_unicode_chunks(value, 0)).encode("utf-8")
    except UnicodeEncodeError:
        check(value)
        raise


def explain(value: Any, error: BaseException, leaf: Leaf = None) -> ResultError:
    """Why a value could not be encoded, and where it sits. Never raises."""
    if isinstance(error, ResultError):
        return error
    try:
        check(value, leaf)
    except ResultError as found:
        return found
    except RecursionError:
        error = RecursionError()
    except BaseException as failure:
        error = failure
    if isinstance(error, RecursionError):
        message = TOO_DEEP
    else:
        message = "the result is not JSON: %s: %s" % (type(error).__name__, text_of(error)[:1000])
    return ResultError("invalid_result", message=message, path="$")


def _walk(top: Any, leaf: Leaf) -> Iterator[None]:
    """Visit every value, depth first and without recursion; raises ResultError at the first that is
    not JSON.
    """
    pending: List[Tuple[Any, Path, int]] = [(top, None, 0)]
    parents: List[Any] = []  # on the way from the top to the value in hand
    inside: Set[int] = set()
    while pending:
        value, path, depth = pending.pop()
        while len(parents) > depth:
            inside.discard(id(parents.pop()))
        value = _convert_fully(value, path, leaf)
        if not isinstance(value, (dict, list, tuple)):
            continue
        if id(value) in inside:
            raise _wrong("the value contains itself", path)
        if depth > MAX_DEPTH:
            raise _wrong(TOO_DEEP, None)
        inside.add(id(value))
        parents.append(value)
        pending.extend(reversed(list(_children(value, path, depth + 1))))
        yield


def _children(value: Any, path: Path, depth: int) -> Iterator[Tuple[Any, Path, int]]:
    if not isinstance(value, dict):
        for index, item in enumerate(value):
            if type(item) is not bool and item is not None:
                yield item, (path, "[%d]" % index), depth
        return
    for key, item in value.items():
        if not isinstance(key, str):
            words = key.words if type(key) is RefusedKey else "key %.100r is not a string but %s" % (key, type(key).__qualname__)
            raise _wrong(words, path)
        step = (path, "." + key if key.isidentifier() else "[%s]" % _quoted(key))
        _check_leaf(key, step)
        yield item, step, depth


def _quoted(key: str) -> str:
    return '"%s"' % key.encode("ascii", "backslashreplace").decode("ascii")


def _convert_fully(value: Any, path: Path, leaf: Leaf) -> Any:
    for _ in range(100):
        if isinstance(value, (dict, list, tuple)):
            return value
        if isinstance(value, _PLAIN):
            _check_leaf(value, path)
            return value
        try:
            if leaf is not None and leaf(value):
                return None
            value = to_json(value)
        except Exception as error:
            raise _wrong(text_of(error)[:1000], path) from None
    raise _wrong("the value never becomes JSON", path)


def _check_leaf(value: Any, path: Path) -> None:
    if isinstance(value, float):
        if value - value != 0.0:
            raise _wrong("%s is not JSON" % float.__repr__(value), path)
    elif isinstance(value, str):
        try:
            str.encode(value, "utf-8")
        except UnicodeEncodeError as error:
            raise _wrong("the string holds half of a surrogate pair at character %d" % error.start, path) from None
    elif isinstance(value, int):
        try:
            int.__repr__(value)
        except ValueError:
            raise _wrong("the number has too many digits", path) from None


def _wrong(message: str, path: Path) -> ResultError:
    steps: List[str] = []
    while path is not None:
        path, step = path
        steps.append(step)
    if len(steps) > 50:
        steps[25:-25] = ["..."]
    return ResultError("invalid_result", message=message, path="$" + "".join(reversed(steps)))
