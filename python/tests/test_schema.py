"""What list_commands tells to programs that write clients, and get_stats to a host that watches sources."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Dict, List

import pytest
from conftest import Start

TYPES = """
    import datetime, decimal, enum, pathlib, typing, uuid
    from typing import *
    class Color(enum.Enum):
        RED = "red"
    UserID = NewType("UserID", int)
    Alias = List[UserID]
    T = TypeVar("T")
"""


def schema(start: Start, text: str) -> Dict[str, Any]:
    worker = start(text)
    return {entry["name"]: entry["schema"] for entry in worker.result("list_commands", {"schema": True})}


def of(kind: str, *inner: Any) -> Dict[str, Any]:
    return {"type": kind, "of": [i if isinstance(i, dict) else {"type": i} for i in inner]}


HINTS = [
    ("str", {"type": "string"}),
    ("bool", {"type": "boolean"}),
    ("None", {"type": "null"}),
    ("Any", {"type": "any"}),
    ("object", {"type": "any"}),
    ("T", {"type": "any"}),
    ("UserID", {"type": "integer"}),
    ("Alias", of("array", "integer")),
    ("datetime.datetime", {"type": "datetime"}),
    ("datetime.date", {"type": "date"}),
    ("datetime.time", {"type": "time"}),
    ("uuid.UUID", {"type": "uuid"}),
    ("pathlib.Path", {"type": "path"}),
    ("decimal.Decimal", {"type": "decimal"}),
    ("list", of("array", "any")),
    ("List[int]", of("array", "integer")),
    ("Iterable[int]", of("array", "integer")),
    ("Set[str]", of("array", "string")),
    ("Tuple[int, ...]", of("array", "integer")),
    ("Tuple[int, str]", of("tuple", "integer", "string")),
    ("dict", of("map", "any")),
    ("Mapping[str, float]", of("map", "number")),
    ("Optional[int]", of("optional", "integer")),
    ("Union[int, None, float]", of("optional", "number")),
    ("Union[str, uuid.UUID]", {"type": "string"}),
    ("Union[int, str]", of("union", "integer", "string")),
    ("Union[int, Any]", {"type": "any"}),
    ("Literal['a', None]", of("optional", {"type": "literal", "values": ["a"]})),
    ("Literal[Color.RED, 1]", {"type": "literal", "values": ["red", 1]}),
    ("Color", {"type": "ref", "name": "worker.Color"}),
    ("bytes", {"type": "bytes"}),
    ("Callable[[int], str]", {"type": "unknown", "text": "Callable[[int], str]"}),
    ("Nowhere", {"type": "unknown", "text": "Nowhere"}),
    ("1 / 0", {"type": "unknown", "text": "1 / 0"}),
]


def test_hints(start: Start) -> None:
    lines = ["@command\n    def f%d(x: %r): pass\n" % (index, hint) for index, (hint, _) in enumerate(HINTS)]
    found = schema(start, TYPES + "".join("    " + line for line in lines))
    for index, (hint, wanted) in enumerate(HINTS):
        assert found["f%d" % index]["params"][0]["type"] == wanted, hint


@pytest.mark.parametrize(
    "signature, wanted, stream",
    [
        ("def f() -> int: pass", {"type": "integer"}, False),
        ("def f(): pass", {"type": "unknown", "text": ""}, False),
        ("async def f() -> int: pass", {"type": "integer"}, False),
        ("def f() -> Awaitable[int]: pass", {"type": "integer"}, False),
        ("def f() -> Iterator[int]: yield 1", {"type": "integer"}, True),
        ("def f() -> Generator[int, str, None]: yield 1", {"type": "integer"}, True),
        ("async def f() -> AsyncIterator[Color]: yield 1", {"type": "ref", "name": "worker.Color"}, True),
        ("def f() -> int: yield 1", {"type": "unknown", "text": "int"}, True),
        ("def f() -> Iterator[int]: pass", {"type": "unknown", "text": "Iterator[int]"}, False),
        ("def f() -> Set[int]: pass", {"type": "unknown", "text": "set"}, False),
    ],
)
def test_results(start: Start, signature: str, wanted: Dict[str, Any], stream: bool) -> None:
    found = schema(start, TYPES + "    @command\n    " + signature)["f"]
    assert (found["returns"], found["stream"]) == (wanted, stream)


def test_parameters(start: Start) -> None:
    found = schema(start, "@command\ndef f(a, /, b: int = 1, *c: str, d=None, e: object = object(), **g): pass\n")["f"]["params"]
    assert [(p["name"], p["kind"], p["required"]) for p in found] == [
        ("a", "positional_only", True),
        ("b", "positional_or_keyword", False),
        ("c", "var_positional", True),
        ("d", "keyword_only", False),
        ("e", "keyword_only", False),
        ("g", "var_keyword", True),
    ]
    assert [p.get("default", "unsaid") for p in found[1:5]] == [1, "unsaid", None, "unsaid"]


def test_classes_that_differ_in_and_out(start: Start) -> None:
    found = schema(
        start,
        """
        import dataclasses
        @dataclasses.dataclass
        class Box:
            '''A box.'''
            seed: dataclasses.InitVar[int]
            size: int = dataclasses.field(init=False)
            tags: list = dataclasses.field(default_factory=list)
            inner: "Box" = None
        @command
        def f(x: Box) -> Box: pass
        """,
    )["f"]
    names: List[List[str]] = []
    for side in ("input_types", "output_types"):
        box = found[side]["worker.Box"]
        assert (box["kind"], box["name"], box["doc"]) == ("dataclass", "Box", "A box.")
        names.append([f["name"] for f in box["fields"]])
    assert names == [["seed", "tags", "inner"], ["size", "tags", "inner"]]
    fields = {f["name"]: f for f in found["input_types"]["worker.Box"]["fields"]}
    assert fields["tags"]["default"] == [] and fields["inner"]["default"] is None


def test_what_may_be_missing_is_optional_where_it_is_null(start: Start) -> None:
    """And there alone: a class that several commands have is told apart."""
    found = schema(
        start,
        TYPES
        + """
    import dataclasses
    @dataclasses.dataclass
    class Leaf:
        score: float
        name: str = ""
    @dataclasses.dataclass
    class Tree:
        leaves: Dict[str, List[Leaf]]
        trees: List["Tree"]
    @dataclasses.dataclass
    class Named:
        name: str
        maybe: Optional[float] = None
    class Pair(NamedTuple):
        at: datetime.datetime
        took: datetime.timedelta
    @command(nan="null")
    def numbers() -> List[float]: pass
    @command(nan="null")
    def deep(x: Tree, y: float = 1.5) -> Dict[int, Tuple[float, str, Optional[decimal.Decimal], Union[int, float, str]]]: pass
    @command(nan="null")
    def tree(x: Tree) -> Tree: pass
    @command
    def plain(x: Tree) -> Tree: pass
    @command(nan="null")
    def named() -> Named: pass
    @command(nan="null")
    def pair() -> Pair: pass
    @command(nan="null")
    def items() -> Iterator[float]: yield 1.5
    @command(nan="null")
    async def later() -> Awaitable[float]: pass
    @command(nan="null")
    def ints() -> List[Union[int, str, bytes, Color]]: pass
    @program("p", nan="null")
    class Program:
        def __call__(self) -> float: pass
    """,
    )
    number = of("optional", "number")
    assert found["numbers"]["returns"] == of("array", number)
    either = of("optional", of("union", "integer", "number", "string"))
    inner = of("tuple", number, "string", of("optional", "decimal"), either)
    assert found["deep"]["returns"] == dict(of("map", inner), key={"type": "integer"})
    assert found["items"]["returns"] == found["later"]["returns"] == found["p"]["returns"] == number
    assert "optional" not in str(found["ints"])
    assert "optional" not in str(found["deep"]["params"]) and "nulls" not in str(found["deep"]["input_types"])

    apart = found["tree"]["output_types"]
    assert sorted(apart) == ["worker.Leaf with nulls", "worker.Tree with nulls"]
    assert [f["type"] for f in apart["worker.Leaf with nulls"]["fields"]] == [number, {"type": "string"}]
    assert [f["type"]["of"][0].get("name") for f in apart["worker.Tree with nulls"]["fields"]] == [None, "worker.Tree with nulls"]
    for types in (found["plain"]["output_types"], found["plain"]["input_types"], found["tree"]["input_types"]):
        assert sorted(types) == ["worker.Leaf", "worker.Tree"] and "nulls" not in str(types) and "optional" not in str(types)
    assert list(found["named"]["output_types"]) == ["worker.Named"]  # it looks the same
    (pair,) = found["pair"]["output_types"].values()
    assert [f["type"] for f in pair["fields"]] == [of("optional", "datetime"), of("optional", "duration")]


def test_missing_times_of_libraries_are_optional(start: Start) -> None:
    for library in ("numpy", "pandas"):
        pytest.importorskip(library, reason="not for every Python")
    found = schema(
        start,
        """
        import numpy, pandas
        from typing import *
        @command(nan="null")
        def f() -> Tuple[numpy.datetime64, numpy.timedelta64, numpy.float32, pandas.Period, pandas.Timestamp, numpy.int64]: pass
        """,
    )["f"]["returns"]
    optional = [of("optional", kind) for kind in ("string", "duration", "number", "string", "datetime")]
    assert found == of("tuple", *optional, "integer")


@pytest.mark.skipif(sys.version_info < (3, 9), reason="built-in generics")
def test_what_may_be_missing_in_a_model_is_optional(start: Start) -> None:
    pytest.importorskip("pydantic", minversion="2", reason="not for every Python")
    found = schema(
        start,
        """
        import pydantic, dataclasses, datetime
        from typing import *
        T = TypeVar("T")
        @dataclasses.dataclass
        class Row:
            took: datetime.timedelta
            x: float
        class Model(pydantic.BaseModel):
            rows: List[Row]
        class Root(pydantic.RootModel[List[float]]): pass
        @command(nan="null")
        def f() -> Tuple[Model, Row, Root]: pass
        """,
    )["f"]
    assert found["returns"]["of"][2] == of("array", of("optional", "number"))
    types = {name: [f["type"]["type"] for f in one["fields"]] for name, one in found["output_types"].items()}
    assert types == {
        "worker.Model with nulls": ["array"],
        "worker.Row in pydantic with nulls": ["string", "optional"],
        "worker.Row with nulls": ["optional", "optional"],
    }


def test_odd_callables_are_described_too(start: Start) -> None:
    found = schema(
        start,
        """
        import functools
        command(max, name="max")
        command(functools.partial(lambda a, b: a, 1), name="partial")
        class Adder:
            def __call__(self, x: int) -> int: return x
        command(Adder(), name="adder")
        program("p")(Adder)
        """,
    )
    assert found["partial"]["params"][0]["name"] == "b"
    assert found["adder"]["returns"] == found["p"]["returns"] == {"type": "integer"}
    assert found["max"]["params"] is None or found["max"]["params"]


def test_only_when_asked(start: Start) -> None:
    worker = start("@command\ndef f(): pass\n")
    assert "schema" not in worker.result("list_commands")[0]
    assert "schema" not in worker.result("list_commands", {"schema": 1})[0]
    assert "sources" not in worker.result("get_stats")


def test_sources(start: Start, tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("import json\n")
    (tmp_path / "late.py").write_text("")
    (tmp_path / "unused.py").write_text("")
    worker = start("import helper\n@command\ndef f():\n    import late\n")
    mine = [str(tmp_path / "helper.py"), str(tmp_path / "worker.py")]
    assert worker.result("get_stats", {"sources": True})["sources"] == mine
    worker.result("f")
    assert worker.result("get_stats", {"sources": True})["sources"] == sorted([*mine, str(tmp_path / "late.py")])


@pytest.mark.skipif(sys.version_info < (3, 9), reason="built-in generics")
def test_pydantic(start: Start) -> None:
    pytest.importorskip("pydantic", minversion="2")
    found = schema(
        start,
        """
        from pydantic import BaseModel, Field, computed_field
        class M(BaseModel):
            a_b: int = Field(alias="aB", description="d")
            n: bytes = b""
            tags: set[str] = Field(default_factory=set)
            @computed_field
            @property
            def c(self) -> int: return 1
        @command
        def f(m: M) -> M: pass
        """,
    )["f"]
    inputs, outputs = found["input_types"]["worker.M"]["fields"], found["output_types"]["worker.M"]["fields"]
    assert [f["name"] for f in inputs] == ["aB", "n", "tags"]
    assert [f["name"] for f in outputs] == ["a_b", "n", "tags", "c"]
    assert inputs[0]["doc"] == "d" and inputs[1]["type"] == {"type": "bytes"} and inputs[2]["default"] == []


@pytest.mark.skipif(sys.version_info < (3, 9), reason="built-in generics")
def test_pydantic_as_it_is_sent(start: Start) -> None:
    """The schema has the names and the types that the JSON of the same objects has."""
    pytest.importorskip("pydantic", minversion="2.11")
    host = start(
        """
        import dataclasses, datetime, typing, pydantic
        from pydantic import BaseModel, Field, PlainSerializer, WrapSerializer, computed_field, field_serializer, model_serializer
        from pydantic.alias_generators import to_camel
        from pydantic.dataclasses import dataclass
        Text = typing.Annotated[int, PlainSerializer(lambda n: str(n), return_type=str)]
        class M(BaseModel):
            model_config = {"alias_generator": to_camel, "serialize_by_alias": True}
            my_number: int = 1
            as_text: Text = 1
            some_texts: list[Text] = [1]
            by_method: int = 1
            never_none: typing.Annotated[int, PlainSerializer(lambda n: str(n), return_type=str, when_used="unless-none")] = 1
            of_any: typing.Annotated[int, WrapSerializer(lambda n, rest: [n])] = 1
            @field_serializer("by_method")
            def form(self, n) -> bool: return bool(n)
            @computed_field
            @property
            def more_text(self) -> str: return "x"
        @dataclass
        class D:
            x: int = Field(alias="X")
            hidden: int = Field(default=1, exclude=True)
            took: datetime.timedelta = datetime.timedelta(1)
            first: int = Field(1, validation_alias=pydantic.AliasChoices("First", "erste"))
            @computed_field
            @property
            def twice(self) -> int: return 2 * self.x
        class Own(BaseModel):
            a: int = 1
            @model_serializer
            def form(self): return {"z": "1"}
        @command
        def m(x: M) -> M: return x
        @command
        def d(x: D) -> D: return x
        @command
        def own(x: Own) -> Own: return x
        """
    )
    found = {c["name"]: c["schema"] for c in host.result("list_commands", {"schema": True})}

    def fields(command: str, side: str, name: str) -> Dict[str, Any]:
        return {f["name"]: f["type"]["type"] for f in found[command][side]["worker." + name]["fields"]}

    sent = host.result("m", {"x": {"myNumber": 2}})
    shown = fields("m", "output_types", "M")
    assert list(fields("m", "input_types", "M")) == [name for name in sent if name != "moreText"]
    assert list(shown) == list(sent)
    kinds = ["integer", "string", "array", "boolean", "optional", "any", "string"]
    assert list(shown.values()) == kinds and [type(v) for v in sent.values()] == [int, str, list, bool, str, list, str]
    assert found["m"]["output_types"]["worker.M"]["fields"][2]["type"]["of"] == [{"type": "string"}]

    assert list(fields("d", "input_types", "D")) == ["X", "hidden", "took", "First"]
    assert list(fields("d", "output_types", "D").items()) == [
        ("x", "integer"),
        ("took", "string"),
        ("first", "integer"),
        ("twice", "integer"),
    ]
    assert host.result("d", {"x": {"X": 2, "First": 3}}) == {"x": 2, "took": "P1D", "first": 3, "twice": 4}
    assert [f["required"] for f in found["d"]["input_types"]["worker.D"]["fields"]] == [True, False, False, False]

    assert found["own"]["returns"] == {"type": "unknown", "text": "Own"} and host.result("own", {"x": {}}) == {"z": "1"}
    assert fields("own", "input_types", "Own") == {"a": "integer"}


@pytest.mark.skipif(sys.version_info < (3, 9), reason="built-in generics")
def test_a_root_obeys_pydantics_rules(start: Start) -> None:
    pytest.importorskip("pydantic", minversion="2")
    host = start(
        """
        import datetime, pydantic
        class Lengths(pydantic.RootModel[list[datetime.timedelta]]): pass
        @command
        def f(x: Lengths) -> Lengths: return x
        """
    )
    found = host.result("list_commands", {"schema": True})[0]["schema"]
    assert found["params"][0]["type"] == found["returns"] == {"type": "array", "of": [{"type": "string"}]}
    assert host.result("f", {"x": ["PT1S"]}) == ["PT1S"]


def test_an_array_of_msgspec_is_no_object(start: Start) -> None:
    pytest.importorskip("msgspec")
    source = "import msgspec\nclass Row(msgspec.Struct, array_like=True):\n    a: int\n@command\ndef f(x: Row) -> Row: return x\n"
    found = schema(start, source)["f"]
    assert found["returns"] == found["params"][0]["type"] == {"type": "unknown", "text": "Row"}


def test_defaults_that_msgspec_omits(start: Start) -> None:
    pytest.importorskip("msgspec")
    host = start(
        """
        import msgspec
        class S(msgspec.Struct, omit_defaults=True):
            a: int
            b: int = 5
            c: int = 0
            d: list = []
            e: str = "x"
        @command
        def f(x: S) -> S: return x
        """
    )
    found = host.result("list_commands", {"schema": True})[0]["schema"]
    kinds = {side: [f["type"]["type"] for f in found[side]["worker.S"]["fields"]] for side in ("input_types", "output_types")}
    assert kinds["input_types"] == ["integer", "integer", "integer", "array", "string"]
    assert kinds["output_types"] == ["integer", "optional", "integer", "optional", "optional"]
    assert host.result("f", {"x": {"a": 1}})["a"] == 1 and "b" not in host.result("f", {"x": {"a": 1}})


@pytest.mark.skipif(sys.version_info < (3, 9), reason="built-in generics")
@pytest.mark.parametrize("library", ["pydantic", "pydantic.v1", "msgspec"])
def test_what_is_in_a_model_obeys_its_rules(start: Start, library: str) -> None:
    """The schema has the types that come and go, of classes that have no rules of their own, too."""
    pytest.importorskip(library)
    if library == "pydantic.v1" and sys.version_info >= (3, 14):
        pytest.skip("pydantic.v1 is not for every Python")
    host = start(
        """
        import dataclasses, datetime
        from %s import %s as Model
        try:
            from typing_extensions import TypedDict
        except ImportError:
            from typing import TypedDict
        from typing import NamedTuple
        @dataclasses.dataclass
        class Same:
            n: int
        @dataclasses.dataclass
        class Length:
            length: datetime.timedelta
            same: Same
        class Tuple(NamedTuple):
            length: datetime.timedelta
        class Dict(TypedDict):
            length: datetime.timedelta
        @dataclasses.dataclass
        class Outer:
            inner: Length
        class Order(Model):
            d: Dict
            t: Tuple
            o: Outer
        @command
        def inside(x: Order) -> Order: return x
        @command
        def alone(x: Length) -> Length: return x
        @command
        def both(x: Order, y: Outer) -> Length: return y.inner
        """
        % (library, "Struct" if library == "msgspec" else "BaseModel")
    )
    found = {c["name"]: c["schema"] for c in host.result("list_commands", {"schema": True})}

    def lengths(command: str, side: str) -> Dict[str, str]:
        types = found[command][side].items()
        return {name.partition(".")[2]: f["type"]["type"] for name, t in types for f in t["fields"] if f["name"] == "length"}

    text: Any = "number" if library == "pydantic.v1" else "string"
    inside = " in " + library
    assert lengths("inside", "input_types") == dict.fromkeys([name + inside for name in ("Dict", "Tuple", "Length")], text)
    value: Any = 1.5 if library == "pydantic.v1" else "PT1.5S"
    nested = {"inner": {"length": value, "same": {"n": 1}}}
    sent = host.result("inside", {"x": {"d": {"length": value}, "t": [value], "o": nested}})
    kinds = {str: "string", int: "duration", float: "number"}
    shown = {name.partition(" ")[0]: kind for name, kind in lengths("inside", "output_types").items()}
    assert shown == {
        "Dict": kinds[type(sent["d"]["length"])],
        "Tuple": kinds[type(sent["t"][0])],
        "Length": kinds[type(sent["o"]["inner"]["length"])],
    }
    assert lengths("alone", "input_types") == lengths("both", "output_types") == {"Length": "duration"}
    assert lengths("both", "input_types") == {**lengths("inside", "input_types"), "Length": "duration"}
    assert [name for name in found["both"]["input_types"] if "Same" in name] == ["worker.Same"]
