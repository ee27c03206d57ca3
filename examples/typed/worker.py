"""A small shop: what pypoolgen turns into the Go package shop."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Iterator, List, Optional

from pypool import command


class Shipping(Enum):
    """How an order travels."""

    STANDARD = "standard"
    EXPRESS = "express"


@dataclass
class Line:
    sku: str
    price_cents: int
    quantity: int = 1


@dataclass
class Order:
    lines: List[Line]
    placed_at: datetime
    shipping: Shipping = Shipping.STANDARD
    coupon: Optional[str] = None


@dataclass
class Quote:
    """What an order costs, in cents."""

    total_cents: int
    arrives_at: datetime
    discounts: List[str] = field(default_factory=list)


@command
def quote(order: Order, tax: float = 0.19) -> Quote:
    """Price an order. A coupon takes ten percent off."""
    if not order.lines:
        raise ValueError("an order needs lines")
    net = sum(line.price_cents * line.quantity for line in order.lines)
    discounts = []
    if order.coupon:
        net = net * 90 // 100
        discounts.append(order.coupon)
    days = 1 if order.shipping is Shipping.EXPRESS else 4
    return Quote(round(net * (1 + tax)), order.placed_at + timedelta(days=days), discounts)


@command
def track(order_id: str, from_step: int = 0) -> Iterator[str]:
    """Tell the steps of an order's way, one by one."""
    steps = ["packed", "handed over", "in transit", "delivered"]
    for step in steps[from_step:]:
        yield "%s: %s" % (order_id, step)
