# ruff: noqa: E501
"""Bytes and arrays that travel beside their line: what the runtime reads, and what it sends."""

from __future__ import annotations

import array
import base64
import ctypes
import json
import math
import mmap
import struct
import sys
from typing import Any, List, Tuple

import pytest
from conftest import Start

from pypool import Array, _arrays, _blobs, _commands
from pypool._bind import bind
from pypool._channel import Channel
from pypool._requests import parse_request
from pypool._wire import BLOBS, RAW, STREAM, BindError, RequestError, ResultError

try:
    import numpy as np
except ImportError:
    np = None  # type: ignore[assignment]

needs_numpy = pytest.mark.skipif(np is None, reason="NumPy is not installed")


def laden(*payloads: bytes) -> bytes:
    head = "%s%s]}\n" % (RAW, ",".join(str(len(data)) for data in payloads))
    return head.encode() + b"".join(payloads) + b"\n"


def taken(data: bytes, size: int) -> List[Any]:
    """The lines of what is read so many bytes at a time."""
    channel = Channel(-1, -1)
    found: List[Any] = []
    for at in range(0, len(data), size):
        channel.take(data[at : at + size])
        found += channel.lines[::-1]
        channel.lines.clear()
    assert channel.ahead is None and not any(channel.parts)
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000, 1 << 16])
def test_lines_and_payloads_in_chunks_of_any_size(size: int) -> None:
    wire = b'{"raw":[5]}\n\n{"id":1}\n'
    requests = [
        b'{"id":1,"command":"f","args":[1]}\n',
        laden(wire) + b'{"id":2,"command":"f","args":[null],"blobs":[{"at":[0]}]}\n',
        laden(b"", b"\n", b"\n\n")
        + b'{"id":3,"command":"f","args":{"a":null,"b":[null,null]},"blobs":[{"at":["b",1]},{"at":["a"]},{"at":["b",0]}]}\n',
        b'{"id":4,"command":"f"}\n',
        laden(b"x" * 5000)
        + b'{"id":5,"command":"f","args":[null],"blobs":[{"at":[0]}],"stream":true,"take_blobs":true,"timeout_ms":7}\n',
    ]
    found = [parse_request(line) for line in taken(b"".join(requests), size)]
    assert [request[0] for request in found] == [1, 2, 3, 4, 5]
    assert found[1][2] == [wire]
    assert found[2][2] == {"a": b"\n", "b": [b"\n\n", b""]}
    assert found[4][2] == [b"x" * 5000]
    assert (found[3][5], found[4][5]) == (0, STREAM | BLOBS)


def test_a_batch_has_the_payloads_of_its_requests_in_their_order() -> None:
    from pypool._wire import Batch

    line = b'{"batch":[{"id":1,"command":"f","args":[null],"blobs":[{"at":[0]}]},{"id":2,"command":"f","args":[1]},{"id":3,"command":"f","args":[null,null],"blobs":[{"at":[1]},{"at":[0]}],"take_blobs":true}]}\n'
    for size in (1 << 16, 5):
        (found,) = taken(laden(b"a", b"b", b"c") + line, size)
        with pytest.raises(Batch) as batch:
            parse_request(found)
        assert [request[2] for request in batch.value.request[2]] == [[b"a"], [1], [b"c", b"b"]]
        assert [request[5] for request in batch.value.request[2]] == [0, 0, BLOBS]
    deep = line.replace(b'"args":[1]', b'"args":[%s%s]' % (b"[" * 100000, b"]" * 100000))
    (found,) = taken(laden(b"a", b"b", b"c") + deep, 1 << 20)
    with pytest.raises(Batch) as batch:
        parse_request(found)
    one, two, three = batch.value.request[2]
    assert (one[2], three[2]) == ([b"a"], [b"c", b"b"]) and isinstance(two, RequestError) and two.kind == "invalid_arguments"
    for payloads in ((b"a", b"b"), (b"a", b"b", b"c", b"d")):
        (found,) = taken(laden(*payloads) + line, 1 << 16)
        with pytest.raises((RequestError, Batch)) as wrong:
            parse_request(found)
        if isinstance(wrong.value, Batch):
            assert any(isinstance(one, RequestError) for one in wrong.value.request[2])


@pytest.mark.parametrize(
    "data",
    [
        b'{"raw":[3]}\nabcd\n{"id":1,"command":"f","args":[null],"blobs":[{"at":[0]}]}\n',
        b'{"raw":[3]}\nabc\n{"id":1,"command":"f","args":[null]}\n',
        b'{"raw":[3]}\nabc\n{"raw":[3]}\nabc\n',
        b'{"raw":["3"]}\n{"id":1}\n',
        b'{"raw":[true]}\n{"id":1}\n',
        b'{"raw":[]}\n{"id":1}\n',
        b'{"raw":[3\n{"id":1}\n',
        b'{"raw":[3],"more":1}\n{"id":1}\n',
        b'{"raw":[999999999999]}\n{"id":1}\n',
    ],
)
def test_what_is_no_payload_is_refused(data: bytes) -> None:
    channel = Channel(-1, -1)
    channel.take(data)
    assert channel.lines
    with pytest.raises(RequestError) as error:
        parse_request(channel.lines[-1])  # type: ignore[arg-type]
    assert error.value.kind == "invalid_request"


def test_bytes_of_an_array_are_read_only() -> None:
    (line,) = taken(
        laden(b"\x01\x02") + b'{"id":1,"command":"f","args":[null],"blobs":[{"at":[0],"dtype":"int8","shape":[2]}]}\n', 9
    )
    (value,) = parse_request(line)[2]
    if np is not None:
        assert value.tolist() == [1, 2] and not value.flags.writeable
        with pytest.raises(ValueError):
            value[0] = 5
        with pytest.raises(ValueError):
            value.flags.writeable = True
    plain = _arrays.Array("int8", [2], memoryview(bytearray(b"\x01\x02")).toreadonly())
    with pytest.raises(TypeError):
        plain.data[0] = 5


# --------------------------------------------------------------------------------------------- Array


def test_array() -> None:
    a = Array("float32", [2, 2], struct.pack("<4f", 1, 2, 3, 4))
    assert (a.dtype, a.shape, a.data.tolist(), a.tolist()) == ("float32", (2, 2), [1, 2, 3, 4], [[1, 2], [3, 4]])
    assert a == Array("float32", (2, 2), bytes(a.data)) and a != Array("float32", (4,), bytes(a.data)) and a != 5
    assert Array("bool", [], b"\x01").tolist() is True
    assert Array("float64", [0, 3], b"").tolist() == [] and Array("float64", [2, 0], b"").tolist() == [[], []]
    assert Array("complex64", [1], struct.pack("<2f", 1, 2)).tolist() == [1 + 2j]
    assert Array("float16", [2], struct.pack("<2e", 1.5, -2)).tolist() == [1.5, -2]
    for dtype, shape, data in (
        ("float", [1], b"1234"),
        ("int8", [2], b"1"),
        ("int8", [-1], b""),
        ("int8", [True], b"1"),
        ("object", [1], b"12345678"),
        ("int8", [0] * 65, b""),
        ("int8", [0, 2**63], b""),
        ("float64", [2**62, 0], b""),
    ):
        with pytest.raises(ValueError):
            Array(dtype, shape, data)


def sent(value: Any, smallest: int = 0) -> Tuple[Any, List[Any], List[bytes]]:
    text, blobs, payloads = _blobs.encode(value, smallest)
    found = json.loads("[%s]" % blobs)
    for blob in found:
        assert text[blob["at"] :].startswith("null")
    return json.loads(text), found, [bytes(data) for data in payloads]


def test_what_exports_a_buffer() -> None:
    anonymous = mmap.mmap(-1, 4)
    anonymous[:] = b"mmap"
    for value, what, data in (
        (b"b", {}, b"b"),
        (bytearray(b"a"), {}, b"a"),
        (memoryview(b"abcd")[::2], {}, b"ac"),
        (memoryview(array.array("i", [1])), {}, struct.pack("i", 1)),
        (anonymous, {}, b"mmap"),
        (array.array("f", [1.5]), {"dtype": "float32", "shape": [1]}, struct.pack("<f", 1.5)),
        (array.array("Q", [2**64 - 1]), {"dtype": "uint64", "shape": [1]}, b"\xff" * 8),
        ((ctypes.c_int16 * 2)(1, -1), {"dtype": "int16", "shape": [2]}, struct.pack("<2h", 1, -1)),
        (((ctypes.c_double * 2) * 3)(), {"dtype": "float64", "shape": [3, 2]}, bytes(48)),
        (Array("complex64", [1], bytes(8)), {"dtype": "complex64", "shape": [1]}, bytes(8)),
        (Array("int8", [0, 2], b""), {"dtype": "int8", "shape": [0, 2]}, b""),
    ):
        plain, found, payloads = sent([1, value, "x"])
        assert plain == [1, None, "x"]
        assert found == [dict(at=3, **what)] and payloads == [data], value
    assert sent(b"x")[1:] == ([{"at": 0}], [b"x"])
    assert sent({"a": "null", "b": [b"1", {"c": b"2"}]})[2] == [b"1", b"2"]


def test_small_bytes_are_text() -> None:
    assert sent([b"x" * 10, b"y" * 20], 20) == (["eHh4eHh4eHh4eA==", None], [{"at": 20}], [b"y" * 20])
    assert sent([b"x" * 10], 20) == (["eHh4eHh4eHh4eA=="], [], [])


def test_what_is_wrong_beside_a_payload_is_found() -> None:
    for value, path in (
        ({"a": b"x", "b": {1}}, "$.b"),
        ([b"x", float("nan")], "$[1]"),
        ({"a": b"x", 5: 1}, "$"),
        ([b"x", "\ud800"], "$[1]"),
        ([b"x", object()], "$[1]"),
    ):
        with pytest.raises(ResultError) as error:
            _blobs.encode(value, 0)
        assert error.value.fields["path"] == path
    cycle: List[Any] = [b"x"]
    cycle.append(cycle)
    with pytest.raises(ResultError):
        _blobs.encode(cycle, 0)


# --------------------------------------------------------------------------------------------- NumPy


@needs_numpy
def test_every_dtype_of_numpy_both_ways() -> None:
    for dtype in _arrays.SIZES:
        for shape in ((), (1,), (3,), (2, 3), (0,), (2, 0, 3), (1, 2, 3, 2)):
            size = math.prod(shape)
            value = (np.arange(size) % 2 if dtype == "bool" else np.arange(size)).astype(dtype).reshape(shape)
            for made in (
                value,
                value.copy(order="F"),
                value[::-1][::-1] if shape else value,
                value.T.T,
                value.astype(value.dtype.newbyteorder(">")),
            ):
                plain, found, payloads = sent(made)
                assert plain is None and found == [{"at": 0, "dtype": dtype, "shape": list(shape)}]
                assert payloads == [value.astype(value.dtype.newbyteorder("<")).tobytes()]
                back = _arrays.array_of(dtype, list(shape), memoryview(payloads[0]))
                assert back.dtype == value.dtype and back.shape == shape and not back.flags.writeable
                assert back.tobytes() == value.tobytes()
                assert Array(dtype, shape, payloads[0]).tolist() == value.tolist()


@needs_numpy
def test_sliced_arrays_are_copied_to_c_order() -> None:
    value = np.arange(24, dtype="int32").reshape(4, 6)
    for made in (
        value[::2],
        value[:, 1:5:2],
        value.T,
        value[::-1, ::-1],
        np.broadcast_to(np.int32(5), (2, 3)),
        np.lib.stride_tricks.as_strided(value, (3, 3), (4, 4)),
    ):
        _, found, payloads = sent(made)
        assert np.frombuffer(payloads[0], "<i4").reshape(found[0]["shape"]).tolist() == made.tolist()
    assert sent(np.array([1.5, np.nan, np.inf]))[2] == [struct.pack("<3d", 1.5, math.nan, math.inf)]


@needs_numpy
def test_what_is_no_array_of_numbers_is_what_json_has() -> None:
    assert sent([np.array([1, "a", None], dtype=object), b"x"])[0] == [[1, "a", None], None]
    assert sent([np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")])])[0] == [[[1, 2.5]]]
    assert sent([np.array(["2026-01-02"], "datetime64[D]"), np.float32(1.5), np.int64(7), np.array(["text"])])[0] == [
        ["2026-01-02"],
        1.5,
        7,
        ["text"],
    ]
    assert sent([np.ma.array([1, 2], mask=[True, False])])[0] == [[None, 2]]
    with pytest.raises(ResultError) as error:
        _blobs.encode([b"x", np.array([np.nan], dtype=object)], 0)
    assert error.value.fields["path"] == "$[1][0]"


class Tensor:
    """As torch.Tensor is."""

    dtype = "torch.float32"

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def detach(self) -> Tensor:
        return Tensor("detached")

    def numpy(self) -> Any:
        if self.kind != "detached":
            raise RuntimeError("it requires grad")
        return np.array([1, 2], "float32")


class Half(Tensor):
    dtype = "torch.bfloat16"


class Duck:
    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.array([[1, 2]], "int16")


class Elsewhere:
    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError("it is on the GPU: use .cpu()")


@needs_numpy
def test_tensors_and_whatever_has_an_array(monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    torch = types.ModuleType("torch")
    torch.Tensor = Tensor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert sent({"t": Tensor("grad")})[1] == [{"at": 5, "dtype": "float32", "shape": [2]}]
    assert sent([Duck()])[1] == [{"at": 1, "dtype": "int16", "shape": [1, 2]}]
    for value, words in ((Half(""), "tensor.float()"), (Elsewhere(), ".cpu()")):
        with pytest.raises(ResultError) as error:
            _blobs.encode({"a": [value]}, 0)
        assert words in error.value.fields["message"] and error.value.fields["path"] == "$.a[0]"


@needs_numpy
def test_tables_are_no_arrays() -> None:
    pandas = pytest.importorskip("pandas")
    with pytest.raises(ResultError) as error:
        _blobs.encode([b"x", pandas.DataFrame({"a": [1]})], 0)
    message = error.value.fields["message"]
    assert "install pyarrow" in message and "to_dict" in message and error.value.fields["path"] == "$[1]"
    assert sent([pandas.Series([1.5])])[1] == [{"at": 1, "dtype": "float64", "shape": [1]}]


# --------------------------------------------------------------------------------------------- hints


def converted(source: str, value: Any) -> Any:
    space: Any = {"np": np, "Array": Array, "__name__": "hinted"}
    exec(
        "import typing\nfrom typing import *\ntry:\n    import numpy.typing as npt\nexcept ImportError:\n    pass\ndef f(x: %s): return x"
        % source,
        space,
    )
    entry = _commands.Command("f", "command", space["f"])
    positional, keyword = bind(entry, [value])
    return entry.func(*positional, **keyword)


def wire_array(dtype: str = "float32") -> Any:
    return _arrays.array_of(dtype, [1], memoryview(bytes(_arrays.SIZES[dtype])))


def test_hints_of_bytes() -> None:
    for hint, kind in (
        ("bytes", bytes),
        ("bytearray", bytearray),
        ("memoryview", memoryview),
        ("Optional[bytes]", bytes),
        ("Union[bytes, str]", bytes),
        ("Any", bytes),
    ):
        found = converted(hint, b"abc")
        assert type(found) is kind and bytes(found) == b"abc", hint
    assert [type(item) for item in converted("List[memoryview]", [b"a", b"b"])] == [memoryview, memoryview]
    plain = converted("Array", wire_array())
    assert type(plain) is Array and plain.dtype == "float32"
    for hint in ("bytes", "memoryview"):
        with pytest.raises(BindError, match="got an array of float32"):
            converted(hint, wire_array())
    with pytest.raises(BindError, match="expected Array"):
        converted("Array", b"abc")


@needs_numpy
def test_hints_of_arrays() -> None:
    for hint in ("np.ndarray", "npt.NDArray[np.float32]", "npt.NDArray[Any]", "Optional[np.ndarray]", "npt.NDArray[np.floating]"):
        found = converted(hint, wire_array())
        assert isinstance(found, np.ndarray) and found.dtype == "float32", hint
    assert converted("List[np.ndarray]", [wire_array()])[0].dtype == "float32"
    assert converted("np.ndarray", Array("int8", [1], b"\x05")).tolist() == [5]
    assert converted("np.ndarray", [[1, 2], [3, 4]]).shape == (2, 2)
    for kind in ("bool_", "int8", "float32", "complex64"):  # Go's empty slice, and its nil
        none: Any
        for none in ([], None):
            found = converted("npt.NDArray[np.%s]" % kind, none)
            assert found.shape == (0,) and found.dtype == getattr(np, kind)
    assert converted("np.ndarray", None).shape == (0,) and converted("Optional[np.ndarray]", None) is None
    assert list(converted("Array", None).shape) == [0]
    for hint, value, words in (
        ("npt.NDArray[np.float64]", wire_array(), "array of float64, got an array of float32"),
        ("np.ndarray", b"abc", "pypool.Array in Go"),
        ("np.ndarray", ["a"], "no numbers"),
        ("np.ndarray", [[1], [1, 2]], "ndarray"),
        ("np.ndarray", "text", "ndarray"),
    ):
        with pytest.raises(BindError, match=words):
            converted(hint, value)


@needs_numpy
def test_the_command_line_reads_files(tmp_path: Any) -> None:
    import subprocess

    from host import PACKAGE

    (tmp_path / "worker.py").write_text(
        "import numpy as np\nfrom pypool import command\n@command\ndef f(data: bytes, a: np.ndarray): return [len(data), a.sum()]\n"
    )
    (tmp_path / "data.bin").write_bytes(b"\x00" * 1000)
    np.save(tmp_path / "a.npy", np.array([1.5, 2]))

    def run(args: str) -> Any:
        return subprocess.run(
            [sys.executable, "-m", "pypool", "worker.py", "call", "f", args],
            cwd=str(tmp_path),
            env={"PYTHONPATH": str(PACKAGE.parent)},
            capture_output=True,
            text=True,
        )

    done = run('{"data":"@data.bin","a":"@a.npy"}')
    assert json.loads(done.stdout) == [1000, 3.5], done.stderr
    assert "as @file" in run('{"data":"@nowhere","a":[1]}').stderr


# ---------------------------------------------------------------------------------------- end to end


def test_what_is_not_asked_for_is_json(start: Start) -> None:
    host = start("from pypool import command, Array\n@command\ndef f(): return [b'x' * 2000, Array('int8', [2], b'ab')]")
    text, numbers = host.result("f")
    assert base64.b64decode(text) == b"x" * 2000 and numbers == [97, 98]


def test_signatures_know_arrays() -> None:
    from pypool import _schema

    space: Any = {"np": np, "Array": Array}
    exec("def f(a: Array, b: Array = None) -> Array: return a", space)
    found = _schema.schema(_commands.Command("f", "command", space["f"]))
    assert found["returns"] == {"type": "ndarray"} and found["params"][0]["type"] == {"type": "ndarray"}


@pytest.mark.parametrize("when", ["script", "command"])
def test_an_import_of_numpy_that_fails_leaves_arrays(start: Start, tmp_path: Any, when: str) -> None:
    """Also one that prints before: the runtime is at work while it is half there."""
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy" / "__init__.py").write_text("import logging\nprint('built for another')\nraise ImportError('of NumPy')")
    host = start(
        """
        def tries():
            try: import numpy
            except ImportError as error: return str(error)
        if %r == "script": tries()
        @command
        def why(): return tries()
        @command
        def kind(a): return type(a).__module__ + "." + type(a).__name__
        """
        % when,
        capabilities=["stream", "page", "log", "packed", "payloads"],
    )
    if when == "command":
        assert host.result("why") == "of NumPy"
    host.write(laden(b"\x01\x02") + b'{"id":9,"command":"kind","args":[null],"blobs":[{"at":[0],"dtype":"int8","shape":[2]}]}\n')
    assert host.receive()["result"].endswith(".Array"), "it may be there, and broken"
    assert "built for another" in host.text()
