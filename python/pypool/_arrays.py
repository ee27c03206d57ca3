"""Arrays of numbers, and what else is bytes: what travels beside the JSON of a line.

Only an array that arrives imports NumPy, where it is installed; what is sent is one where NumPy is
loaded.
"""

from __future__ import annotations

import sys

from ._finder import imported
from ._forms import is_one, text_of
from ._json import escape
from ._room import library

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterator, Optional, Sequence, Tuple

    #: The members of a descriptor as JSON text, each behind a comma, and the bytes.
    Export = Tuple[str, Any]

#: The bytes of an element of each type that there is in Go too, float16 besides.
SIZES = {
    "bool": 1,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "uint8": 1,
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
    "float16": 2,
    "float32": 4,
    "float64": 8,
    "complex64": 8,
    "complex128": 16,
}
#: The formats of memoryview, as far as it has them; what else there is, is seen as bytes.
_FORMATS = {
    "bool": "?",
    "int8": "b",
    "int16": "h",
    "int32": "i",
    "int64": "q",
    "uint8": "B",
    "uint16": "H",
    "uint32": "I",
    "uint64": "Q",
    "float32": "f",
    "float64": "d",
}
#: Names of what _tables.CLASSES are.
TABLES = ("DataFrame", "LazyFrame", "Table", "RecordBatch", "RecordBatchReader")


class Array:
    """An array of numbers where NumPy is not installed, and for whoever wants it so: its type by
    NumPy's name, its shape, and a flat memoryview of its elements in C order (of their bytes, for
    float16 and the complex ones, which memoryview does not know).
    """

    __slots__ = ("dtype", "shape", "data")

    def __init__(self, dtype: str, shape: Sequence[int], data: Any) -> None:
        if dtype not in SIZES:
            raise ValueError("there is no dtype %.40r: it is one of %s" % (dtype, ", ".join(SIZES)))
        shape = tuple(shape)
        size = whole = SIZES[dtype]
        for n in shape:
            if type(n) is not int or n < 0:
                raise ValueError("%.80r is no shape" % (shape,))
            size *= n
            whole *= n or 1
        if len(shape) > 64 or whole > sys.maxsize:  # of an empty one, too: NumPy has it so
            raise ValueError("the shape %.80r is more than memory holds, or has more than 64 dimensions" % (shape,))
        view = data if type(data) is memoryview else memoryview(data)
        if view.nbytes != size:
            raise ValueError("%s of shape %s are %d bytes, not %d" % (dtype, list(shape), size, view.nbytes))
        self.dtype = dtype
        self.shape = shape
        self.data = flat(view, _FORMATS.get(dtype, "B"))

    def __repr__(self) -> str:
        return "pypool.Array(%r, %r, <%d bytes>)" % (self.dtype, list(self.shape), self.data.nbytes)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Array):
            return NotImplemented
        return self.dtype == other.dtype and self.shape == other.shape and bytes(self.data) == bytes(other.data)

    __hash__ = None  # type: ignore[assignment]

    def tolist(self) -> Any:
        """The elements as lists of lists; one element where there is no dimension."""
        elements: Iterator[Any]
        if self.dtype in _FORMATS:
            elements = iter(self.data.tolist())
        else:
            import struct  # for these alone

            if self.dtype == "float16":
                elements = (item[0] for item in struct.iter_unpack("<e", self.data))
            else:
                pairs = struct.iter_unpack("<2f" if self.dtype == "complex64" else "<2d", self.data)
                elements = (complex(*pair) for pair in pairs)
        return _nested(elements, self.shape)


def _nested(elements: Iterator[Any], shape: Sequence[int]) -> Any:
    if not shape:
        return next(elements)
    return [_nested(elements, shape[1:]) for _ in range(shape[0])]


Array.__module__ = __package__  # where everybody finds it


def flat(view: memoryview, form: str = "B") -> memoryview:
    """A view of the bytes in C order, as elements of a format."""
    if view.nbytes == 0:
        view = memoryview(b"")
        return view if form == "B" else view.cast(form)  # type: ignore[call-overload]
    if view.format == form and view.ndim == 1 and view.c_contiguous:
        return view
    try:
        view = view.cast("B")
    except (TypeError, ValueError, NotImplementedError):
        view = memoryview(view.tobytes())
    return view if form == "B" else view.cast(form)  # type: ignore[call-overload]


# ----------------------------------------------------------------------------------------------- in


class _Kinds:
    """What makes objects of payloads of kinds of their own, and payloads of objects, by kind."""

    load: Dict[str, Callable[[memoryview], Any]] = {}
    dump: Dict[str, Callable[[Any], Any]] = {}


KINDS = _Kinds()


def payload(kind: str, load: Callable[[memoryview], Any], dump: Callable[[Any], Any]) -> None:
    """Have payloads of a kind (Go's pypool.Payload) be objects here: `load` makes one of the bytes,
    which are read-only; `dump` gives the bytes of one, and None for any other object. Upon a second
    one of a kind the last counts.
    """
    if not isinstance(kind, str) or not kind or not callable(load) or not callable(dump):
        raise TypeError("pypool.payload takes the name of a kind, and two functions")
    KINDS.load[kind], KINDS.dump[kind] = load, dump


class Unloadable(ValueError):
    """A payload of a kind that nothing here knows, or that is none of its kind."""


def value_of(blob: Dict[str, Any], view: Any) -> Any:
    """What a payload is for a handler: bytes, an array that is read-only, an object of its kind.
    Raises ValueError where it is none.
    """
    dtype = blob.get("dtype")
    if type(view) is not memoryview:  # it is in memory
        if dtype is None and blob.get("kind") is None:
            return view.copy()
        view = view.view()
    if dtype is not None:
        return array_of(dtype, blob.get("shape"), view)
    kind = blob.get("kind")
    if kind is None:
        return bytes(view)
    load = KINDS.load.get(kind) or _load_table(kind)
    if load is None:
        raise Unloadable("nothing here knows payloads of the kind %.40r: see pypool.payload" % (kind,))
    try:
        return load(view)
    except BaseException as error:
        from ._tables import is_failure  # with the first error

        if not is_failure(error):
            raise
        raise Unloadable("a payload of the kind %.40r cannot be read: %s" % (kind, text_of(error))) from error


def _load_table(kind: str) -> Optional[Callable[[memoryview], Any]]:
    from . import _tables  # for tables alone

    return (lambda view: _tables.load(kind, view)) if kind in _tables.KINDS else None


def array_of(dtype: str, shape: Any, view: memoryview) -> Any:
    """numpy.ndarray, or Array where NumPy is not installed."""
    if type(shape) is not list:
        raise ValueError("an array of no shape")
    array = Array(dtype, shape, view)
    try:
        numpy = library("numpy")  # upon the first array
    except Exception:  # it may be there, and broken
        return array
    try:
        return to_numpy(array, numpy)
    except Exception as error:  # NumPy 1 has 32 dimensions at most
        raise Unloadable("NumPy makes no array of %s of shape %.200r: %s" % (dtype, shape, text_of(error))) from error


def is_array(value: Any) -> bool:
    return type(value) is Array or is_one(value, "numpy", "ndarray")


def to_numpy(array: Array, numpy: Any) -> Any:
    kind = numpy.dtype(array.dtype)
    if sys.byteorder == "big":
        kind = kind.newbyteorder("<")
    found = numpy.frombuffer(array.data, kind) if array.data.nbytes else numpy.empty(0, kind)
    found = found.reshape(array.shape)
    found.flags.writeable = False
    return found


# ---------------------------------------------------------------------------------------------- out


def export(value: Any, smallest: int = 0) -> Optional[Export]:
    """What of a value travels beside the JSON, None where it is no bytes, and no array. Bytes that
    are fewer than `smallest` are text in it.
    """
    if isinstance(value, (bytes, bytearray)):
        return ("", value) if len(value) >= smallest else None
    if isinstance(value, memoryview):
        return ("", flat(value)) if value.nbytes >= smallest else None
    kind = type(value)
    if kind is Array:
        return _described(value.dtype, value.shape), flat(value.data)
    if is_one(value, "numpy", "ndarray"):
        return _of_numpy(value)
    if is_one(value, "numpy", "generic") or kind.__name__ in TABLES:
        return _of_kind(value)
    if is_one(value, "torch", "Tensor"):
        return _of_torch(value)
    if hasattr(kind, "__array__"):
        return _of_kind(value) or _of_array(value)
    try:
        view = memoryview(value)
    except Exception:  # nearly all that there is
        return _of_kind(value)
    return _of_buffer(value, view, smallest)


def _described(dtype: str, shape: Sequence[int]) -> str:
    return ',"dtype":"%s","shape":[%s]' % (dtype, ",".join(map(str, shape)))


def _of_kind(value: Any) -> Optional[Export]:
    for kind, dump in KINDS.dump.items():
        data = dump(value)
        if data is not None:
            return ',"kind":' + escape(kind), flat(memoryview(data))
    if _may_be_table(type(value)):
        from . import _tables  # for tables alone

        if _tables.is_table(value):
            kind, data = _tables.dump(value)
            return ',"kind":' + escape(kind), flat(memoryview(data))
    return None


def _may_be_table(kind: type) -> bool:
    return kind.__name__ in TABLES or hasattr(kind, "__arrow_c_stream__")


def travels(value: Any) -> bool:
    """Whether export makes something of a value, of whatever size it is. A table is not written for
    it.
    """
    if _may_be_table(type(value)):
        from . import _tables  # for tables alone

        if _tables.is_table(value):
            return True
    return export(value) is not None


def _of_numpy(value: Any) -> Optional[Export]:
    """None for what is no array of numbers: JSON may have a form for it."""
    numpy: Any = imported("numpy")
    if value.dtype.kind not in "biufc" or is_one(value, "numpy.ma", "MaskedArray"):
        return None
    dtype = value.dtype.newbyteorder("<")
    name = dtype.newbyteorder("=").name
    if name not in SIZES:
        return None
    ordered = numpy.asarray(value, dtype=dtype, order="C")
    data: Any = ordered.reshape(-1).view(numpy.uint8).data if ordered.size else b""
    return _described(name, ordered.shape), data


def _of_torch(value: Any) -> Optional[Export]:
    if str(value.dtype) == "torch.bfloat16":
        raise TypeError("NumPy and Go have no bfloat16: return tensor.float()")
    for name in ("detach", "resolve_conj", "resolve_neg"):
        value = getattr(value, name, lambda value=value: value)()
    return _of_numpy(value.numpy())


def _of_array(value: Any) -> Optional[Export]:
    try:
        numpy = library("numpy")  # whoever has such an object mostly has it
    except Exception:
        return None
    found = numpy.asarray(value)
    kind = str(getattr(value, "dtype", None) or getattr(value, "type", "")).lower()
    if "int" in kind and found.dtype.kind == "f" and (abs(found) >= 1 << 53).any():  # NaN stands for nulls there
        words = "an array of this %s, which has nulls, would have its integers rounded: fill the nulls, or return a list"
        raise TypeError(words % type(value).__qualname__)
    return _of_numpy(found)


#: What formats are, by whether they have a sign, or are floats.
_LETTERS = {**dict.fromkeys("bhilqn", "int"), **dict.fromkeys("BHILQN", "uint"), **dict.fromkeys("efd", "float"), "?": "bool"}

#: What a format may begin with where the bytes of its elements are in this machine's order.
_ORDER = "@=<" if sys.byteorder == "little" else "@=>"


def _has_bytes(value: Any, view: memoryview, form: str) -> bool:
    """Whether what a buffer holds is bytes, and no numbers."""
    numbers = is_one(value, "array", "array") or is_one(value, "_ctypes", "Array") or not view.ndim
    return form == "c" or (form == "B" and not numbers) or is_one(value, "pyarrow", "Buffer")


def bytes_of(value: Any) -> Optional[bytes]:
    """What an object whose buffer holds bytes has in it (a mmap, a pickle.PickleBuffer); None for any
    other.
    """
    try:
        view = memoryview(value)
    except Exception:  # as above
        return None
    return view.tobytes() if _has_bytes(value, view, view.format.lstrip(_ORDER)) else None


def _of_buffer(value: Any, view: memoryview, smallest: int) -> Optional[Export]:
    """What exports a buffer: an array, where that is one of numbers; bytes, where it is one of bytes.
    None for what else it may hold: structures, pointers and texts are no use where they go.
    """
    if is_one(value, "msgspec", "Raw"):
        return None
    form = view.format.lstrip(_ORDER)
    if _has_bytes(value, view, form):
        return ("", flat(view)) if view.nbytes >= smallest else None
    letter = _LETTERS.get(form)
    if letter is None:
        return None
    name = letter if letter == "bool" else "%s%d" % (letter, 8 * view.itemsize)
    data: Any = flat(view)
    if sys.byteorder == "big":
        import array  # for these machines alone

        turned = array.array(form, data)
        turned.byteswap()
        data = memoryview(turned).cast("B")
    return _described(name, view.shape or ()), data
