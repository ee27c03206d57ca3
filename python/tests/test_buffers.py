"""Buffers and NumPy's arrays as results: numbers are arrays, bytes are bytes, and nothing else becomes one of these."""

from __future__ import annotations

import array
import base64
import ctypes
import json
import mmap
import pickle
import sys
from typing import Any

import pytest
from test_payloads import sent

from pypool import _blobs
from pypool._convert import without_nan
from pypool._results import encode
from pypool._wire import ResultError

UNICODE = "w" if sys.version_info >= (3, 13) else "u"


def described(value: Any) -> str:
    """How a value goes beside the JSON; its JSON where it does not."""
    found, blobs, payloads = sent({"v": value})
    if not blobs:
        return repr(found["v"])
    more = {key: blob for key, blob in blobs[0].items() if key != "at"}
    return "%s %s" % (" ".join("%s" % one for one in more.values()), b"".join(payloads).hex())


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (array.array("B", [1, 255]), "uint8 [2] 01ff"),
        (array.array("B"), "uint8 [0] "),
        (array.array("b", [1, -1]), "int8 [2] 01ff"),
        ((ctypes.c_ubyte * 2)(1, 255), "uint8 [2] 01ff"),
        ((ctypes.c_ubyte * 2 * 1)((ctypes.c_ubyte * 2)(1, 255)), "uint8 [1, 2] 01ff"),
        ((ctypes.c_int16 * 2)(1, -1), "int16 [2] 0100ffff"),
        (ctypes.create_string_buffer(b"ab"), " 616200"),
        (bytearray(b"ab"), " 6162"),
        (memoryview(array.array("B", [1, 255])), " 01ff"),
        (memoryview(array.array("B", [1, 255])).cast("B", (1, 2)), " 01ff"),
        (array.array(UNICODE, "ab"), "['a', 'b']"),
    ],
    ids=repr,
)
def test_numbers_are_arrays_and_bytes_are_bytes(value: Any, wanted: str) -> None:
    assert described(value) == wanted


def test_an_array_of_uint8_is_as_its_wire_says() -> None:
    assert json.loads(encode([array.array("B", [1, 255]), bytearray(b"ab")])) == [[1, 255], "YWI="]


def test_a_buffer_of_bytes_is_base64_text_in_json() -> None:
    memory = mmap.mmap(-1, 2)
    memory[:] = b"ab"
    for value, data in (
        (memory, b"ab"),
        (pickle.PickleBuffer(b"ab"), b"ab"),
        (pickle.PickleBuffer(memoryview(b"abcd")[::2]), b"ac"),
        (pickle.PickleBuffer(b""), b""),
        (ctypes.create_string_buffer(b"abc", 3), b"abc"),
        (ctypes.create_string_buffer(b"ab"), b"ab\0"),
    ):
        text = base64.b64encode(data).decode()
        assert json.loads(encode({"v": value})) == {"v": text}, value
        assert json.loads(encode(without_nan([value]))) == [text], value
        assert described(value) == " " + data.hex(), value
    memory.close()
    with pytest.raises(ResultError):
        encode([memory])


def test_one_number_of_ctypes_is_no_bytes() -> None:
    for value in (ctypes.c_ubyte(5), ctypes.c_byte(5), ctypes.c_double(5)):
        with pytest.raises(ResultError) as refusal:
            encode([value])
        assert "return value.value" in refusal.value.fields["message"], value
    assert described(ctypes.c_ubyte(5)) == "uint8 [] 05"


class Pair(ctypes.Structure):
    _fields_ = [("n", ctypes.c_int32), ("x", ctypes.c_double)]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Pair(1, 2), "a dict of its fields"),
        ((Pair * 2)(), "list(value)"),
        ((ctypes.c_wchar * 2)("a"), ".value of characters"),
        (ctypes.c_char_p(b"ab"), "value.value"),
        (ctypes.pointer(ctypes.c_int(1)), "what it points to"),
        (ctypes.CFUNCTYPE(None)(print), "call it"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_no_buffer_of_theirs_says_is_refused(value: Any, words: str) -> None:
    for encoded in (encode, lambda value: _blobs.encode(value, 0)):
        with pytest.raises(ResultError) as refusal:
            encoded({"v": value})
        assert words in refusal.value.fields["message"] and refusal.value.fields["path"] == "$.v"


def test_an_array_of_ctypes_says_what_to_return() -> None:
    with pytest.raises(ResultError) as refusal:
        encode([(ctypes.c_double * 2)(1, 2)])
    message = refusal.value.fields["message"]
    assert "list(value)" in message and "bytes(value)" in message and "pypool.Array" in message


def test_texts_of_numpy_2() -> None:
    np = pytest.importorskip("numpy", minversion="2", reason="not for every Python")
    kind = np.dtypes.StringDType
    assert described(np.array(["a", "\u00e9" * 40], dtype=kind())) == repr(["a", "\u00e9" * 40])
    assert described(np.array([["a"], ["b"]], dtype=kind())) == "[['a'], ['b']]"
    assert described(np.array(["a", None], dtype=kind(na_object=None))) == "['a', None]"
    with pytest.raises(ResultError, match="invalid_result"):
        _blobs.encode([np.array(["a", np.nan], dtype=kind(na_object=np.nan))], 0)


def test_masked_durations() -> None:
    np = pytest.importorskip("numpy", reason="not for every Python")
    assert described(np.ma.array([1, 2], dtype="m8[s]", mask=[False, True])) == "[1000000000, None]"
    assert described(np.ma.array(["2026-01-02", "2026-01-03"], dtype="M8[D]", mask=[False, True])) == "['2026-01-02', None]"


def test_a_buffer_of_arrows_is_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    pyarrow: Any = types.ModuleType("pyarrow")
    pyarrow.Buffer = type("Buffer", (array.array,), {})  # whose format is that of signed numbers, too
    monkeypatch.setitem(sys.modules, "pyarrow", pyarrow)
    assert described(pyarrow.Buffer("b", [1, -1])) == " 01ff"
