"""What is wrong with arguments, as a list: `errors` of invalid_arguments."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Start

from pypool import _refusal

MODELS = """
    from typing import List, Optional
    import pydantic
    class Item(pydantic.BaseModel):
        name: str
        price: float
    class Order(pydantic.BaseModel):
        customer: str
        items: List[Item]
    @command
    def buy(order: Order, note: str = ""): return len(order.items)
    @command
    def many(orders: List[Order]): return len(orders)
    @command
    def perhaps(order: Optional[Order] = None): return 0
"""


def test_what_pydantic_found(start: Start) -> None:
    pytest.importorskip("pydantic", minversion="2")
    host = start(MODELS)
    order: Any = {"customer": "Ann", "items": [{"name": "a", "price": 1}, {"name": "b", "price": "dear"}]}
    price = {"msg": "Input should be a valid number, unable to parse string as a number", "type": "float_parsing"}
    error = host.error("buy", {"order": order})
    assert error["kind"] == "invalid_arguments"
    assert error["errors"] == [dict(price, loc=["order", "items", 1, "price"])]
    assert "'order': expected Order, got an object: items[1].price: Input should be a valid number" in error["message"]
    assert "\n" not in error["message"]
    assert "dear" not in str(error["errors"])  # the input is the client's own; it is not sent back
    assert host.error("many", {"orders": [{"customer": "a", "items": []}, order]})["errors"] == [
        dict(price, loc=["orders", 1, "items", 1, "price"])
    ]
    assert host.error("perhaps", [order])["errors"] == [dict(price, loc=["order", "items", 1, "price"])]
    error = host.error("buy", {"order": {"items": [{}, {"name": 1, "price": None}]}})
    assert [(e["loc"], e["type"]) for e in error["errors"]] == [
        (["order", "customer"], "missing"),
        (["order", "items", 0, "name"], "missing"),
        (["order", "items", 0, "price"], "missing"),
        (["order", "items", 1, "name"], "string_type"),
        (["order", "items", 1, "price"], "float_type"),
    ]
    assert "customer: Field required; items[0].name: Field required; items[0]" in error["message"]
    assert "Field required; and 2 more" in error["message"]
    order["items"].pop()
    assert host.result("buy", {"order": order}) == 1


def test_a_dataclass_of_pydantic(start: Start) -> None:
    pytest.importorskip("pydantic", minversion="2")
    host = start(
        """
        import pydantic.dataclasses
        @pydantic.dataclasses.dataclass
        class Point:
            x: int
            y: int
        @command
        def move(to: Point): return to.x
        """
    )
    error = host.error("move", {"to": {"x": "a", "y": "b"}})
    assert [(e["loc"], e["type"]) for e in error["errors"]] == [(["to", "x"], "int_parsing"), (["to", "y"], "int_parsing")]
    assert host.result("move", {"to": {"x": 1, "y": 2}}) == 1


@pytest.mark.filterwarnings("ignore")
def test_what_pydantic_1_found() -> None:
    v1 = pytest.importorskip("pydantic.v1")

    class Item(v1.BaseModel):  # type: ignore[misc, name-defined]
        price: float

    with pytest.raises(ValueError) as raised:
        Item.parse_obj({"price": "dear"})
    assert _refusal.in_words(raised.value) == "price: value is not a valid float"
    assert _refusal._model_errors(raised.value) == [
        {"loc": ["price"], "msg": "value is not a valid float", "type": "type_error.float"}
    ]


def test_other_errors_have_no_list() -> None:
    class Odd(ValueError):
        def errors(self) -> Any:
            raise RuntimeError("no")

    Odd.__module__ = "pydantic.odd"
    assert _refusal.in_words(Odd("told")) == "told"
    assert _refusal.in_words(ValueError("told")) == "told"
    assert _refusal.in_words(ExceptionGroupLike("told")) == "told"


class ExceptionGroupLike(ValueError):
    errors = ("not", "callable")


@pytest.mark.parametrize(
    "path, arguments, steps",
    [
        ("a", {"a": 1}, ["a"]),
        ("a[2].b", {"a": [0, 0, {"b": 1}]}, ["a", 2, "b"]),
        ("a.b.c", {"a": {"b.c": 1, "b": 2}}, ["a", "b.c"]),
        ("a.b.c", {"a": {"b": {"c": 1}}}, ["a", "b", "c"]),
        ("a.b[0]", {"a": {"b[0]": 1}}, ["a", "b[0]"]),
        ("a.b[0]", {"a": {"b": [1]}}, ["a", "b", 0]),
        ("a..", {"a": {".": 1}}, ["a", "."]),
        ("a.", {"a": {"": 1}}, ["a", ""]),
        ("named", {"more": {"named": 1}}, ["named"]),
        ("a[7]", {"a": [1]}, ["a[7]"]),
    ],
)
def test_a_path_in_steps(path: str, arguments: Any, steps: Any) -> None:
    assert _refusal.location(path, arguments) == steps
