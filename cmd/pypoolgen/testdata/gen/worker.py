"""Every kind of hint that pypoolgen knows, and several that it cannot know."""

from __future__ import annotations

import asyncio
import enum
import uuid
from dataclasses import InitVar, dataclass, field
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    AsyncIterator,
    Callable,
    ClassVar,
    Dict,
    Generic,
    Iterator,
    List,
    NamedTuple,
    NewType,
    Optional,
    Sequence,
    Set,
    Tuple,
    TypedDict,
    TypeVar,
    Union,
)

from pypool import Array, command, program

try:
    from typing import Literal
except ImportError:  # never: Python 3.8 has it
    raise

if TYPE_CHECKING:
    from nowhere import Phantom

T = TypeVar("T")
UserID = NewType("UserID", str)


class Color(enum.Enum):
    """A paint."""

    RED = "red"
    GREEN = "green"


class Priority(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Mixed(enum.Enum):
    ONE = 1
    TWO = "two"


@dataclass
class Address:
    street: str
    city: str = "Berlin"


@dataclass
class User:
    """A person with an account.

    Fields are in the order of the class.
    """

    id: UserID
    name: str
    tags: List[str]
    address: Optional[Address] = None
    scores: Dict[str, float] = field(default_factory=dict)
    retries: int = 3
    admin: bool = False
    color: Color = Color.RED
    kind: ClassVar[str] = "user"
    created_at: Optional[datetime] = None


@dataclass
class Report:
    """Only ever a result: nothing in it is optional."""

    title: str
    users: List[User]
    by_color: Dict[str, int]
    ratio: float = 0.5
    html_url: str = ""


@dataclass
class Node:
    value: int
    children: List[Node] = field(default_factory=list)
    next: Optional[Node] = None


@dataclass
class Egg:
    hen: Hen


@dataclass
class Hen:
    egg: Egg


class Point(NamedTuple):
    x: float
    y: float
    label: str = ""


class Options(TypedDict, total=False):
    depth: int
    dry_run: bool
    mode: Literal["fast", "slow"]


# Keys that no Go struct tag can say.
Odd = TypedDict("Odd", {"a,b": int, 'quo"te': str})


@dataclass
class Page(Generic[T]):
    items: List[T]
    total: int


@dataclass
class Seeded:
    seed: InitVar[int]
    state: int = field(init=False)

    def __post_init__(self, seed: int) -> None:
        self.state = seed * 2


# ------------------------------------------------------------------------------------------------------------ functions


@command
def summarize(text: str, limit: int = 100, upper: bool = False, suffix: Optional[str] = None) -> str:
    """Shorten a text.

    Keeps the first `limit` characters:

        summarize("hello", 2) -> "he"

    * never fails
    """
    out = text[:limit] + (suffix or "")
    return out.upper() if upper else out


@dataclass
class Limits:
    """Fields that take None, and have another default."""

    depth: Optional[int] = 3
    names: Optional[List[str]] = field(default_factory=list)
    either: Optional[Union[int, str]] = "x"
    first: Optional[Address] = None


@command
def limits(given: Limits, most: Optional[int] = 100) -> Limits:
    return Limits(most, given.names, given.either) if given.depth is None else given


@command
def limits_by_position(first: Optional[int] = 1, second: Optional[str] = "b", third: Optional[int] = None, *more: int) -> List[Any]:
    return [first, second, third, *more]


@command
def limits_by_name(first: Optional[int] = 1, second: Optional[int] = None, **more: int) -> Dict[str, Any]:
    return {"first": first, "second": second, **more}


@command
def make_user(user: User, notify: bool = True) -> User:
    assert isinstance(user, User), user
    assert user.address is None or isinstance(user.address, Address)
    return user


@command
def report(users: List[User]) -> Report:
    counts: Dict[str, int] = {}
    for user in users:
        counts[user.color.value] = counts.get(user.color.value, 0) + 1
    return Report("all", users, counts, 0.25, "http://x/")


@command
def depth(node: Node) -> int:
    return 1 + max([depth(child) for child in node.children], default=0)


@command
def grow(node: Node) -> Node:
    return Node(node.value + 1, [node], node)


@command
def hatch(egg: Optional[Egg] = None) -> Optional[Egg]:
    return egg


@command
def mirror(point: Point, origin: Point = Point(0, 0)) -> Point:
    return Point(2 * origin.x - point.x, 2 * origin.y - point.y, point.label)


@command
def options(given: Options, more: Optional[Options] = None) -> Options:
    return {"depth": given.get("depth", -1), "mode": given.get("mode", "slow")}


@command
def odd(given: Odd) -> Odd:
    return given


@command
def page(names: List[str]) -> Page[str]:
    return Page(names, len(names))


@command
def pages() -> Page[Address]:
    return Page([Address("Main St")], 1)


@command
def seeded(given: Seeded) -> Seeded:
    return given


@command
def when(at: datetime, day: Optional[date] = None) -> datetime:
    assert isinstance(at, datetime)
    return at


@command
def now(naive: bool = False) -> datetime:
    at = datetime(2026, 1, 2, 3, 4, 5, 678900, timezone.utc)
    return at.replace(tzinfo=None) if naive else at


@command
def scalars(id: uuid.UUID, path: Path, price: Decimal, user_id: UserID = UserID("u1")) -> Dict[str, str]:
    assert isinstance(id, uuid.UUID) and isinstance(path, Path) and isinstance(price, Decimal)
    return {"id": str(id), "path": str(path), "price": str(price), "user_id": user_id}


@command
def paint(color: Color, priority: Priority = Priority.LOW, mixed: Optional[Mixed] = None) -> Tuple[Color, Priority]:
    assert isinstance(color, Color) and isinstance(priority, Priority)
    return color, priority


@command
def paint_all(colors: List[Color], by_name: Dict[str, Color]) -> List[Color]:
    return colors + list(by_name.values())


@command
def pair(xy: Tuple[float, float], named: Tuple[str, int]) -> Tuple[int, str, List[float]]:
    assert isinstance(xy, tuple)
    return named[1], named[0], list(xy)


def spoilt(value: Any, how: str) -> Any:
    """A tuple as its hint does not have it."""
    return {"none": None, "short": value[:-1], "long": (*value, value[0])}.get(how, value)


@command
def spoilt_point(how: str) -> Point:
    return spoilt(Point(1, 2), how)


@command
def spoilt_pair(how: str) -> Tuple[float, float]:
    return spoilt((1.0, 2.0), how)


@command
def spoilt_mixed(how: str) -> Tuple[str, int]:
    return spoilt(("a", 1), how)


@command
def many(numbers: Tuple[int, ...], names: Set[str], more: Sequence[int] = (1, 2)) -> List[int]:
    assert isinstance(names, set)
    return [*numbers, len(names), *more]


@command
def pick(mode: Literal["fast", "slow"], level: Literal[1, 2] = 2, either: Union[int, str] = 0) -> Union[int, str]:
    return mode if either else level


@command
def number(value: Union[int, float]) -> float:
    return value / 2


@command
def anything(value: Any, table: dict, items: list = []) -> Any:
    return {"value": value, "table": table, "items": items}


@command
def unmapped(data: bytes = b"", call: Optional[Callable[[int], str]] = None, ghost: Optional[Phantom] = None) -> Phantom:
    return {"fine": True}  # type: ignore[return-value]


@dataclass
class Blob:
    """Bytes, and how long they took."""

    data: bytes
    took: timedelta
    parts: List[bytes] = field(default_factory=list)
    by_size: Dict[int, bytes] = field(default_factory=dict)
    more: Any = None


@command
def blob(given: Blob, pair: Tuple[bytes, timedelta]) -> Blob:
    assert type(given.data) is bytes and type(given.took) is timedelta and all(type(k) is int for k in given.by_size), given
    assert [type(p) for p in pair] == [bytes, timedelta], pair
    return Blob(pair[0], pair[1], [given.data, *given.parts], given.by_size, [type(given.more).__name__])


@command
def blobs(first: bytes, *more: bytes) -> List[bytes]:
    return [first, *more]


@command
def named_blobs(first: bytes, wait: timedelta = timedelta(0), **more: bytes) -> Dict[str, Tuple[bytes, timedelta]]:
    return {name: (data, wait) for name, data in {"first": first, **more}.items()}


@command
def bare(a, b=1, *, c=None):
    return [a, b, c]


@command
def nothing() -> None:
    pass


@command
def maybe(found: bool) -> Optional[Report]:
    return Report("one", [], {}) if found else None


@command
async def slowly(n: int) -> int:
    await asyncio.sleep(0)
    return n + 1


# ---------------------------------------------------------------------------------------------------- names and kinds


@command
def keywords(type: str, func: int = 0, range: Optional[List[int]] = None, select: bool = False, map: Dict[str, int] = {}) -> str:
    """Parameters called like Go's words."""
    return "%s %d %r %r %r" % (type, func, range, select, map)


@command
def collide(user_id: int, userId: int, user__id: int = 0) -> List[int]:
    return [user_id, userId, user__id]


@command(name="get-user")
def get_user_1() -> str:
    return "get-user"


@command(name="getUser")
def get_user_2() -> str:
    return "getUser"


@command(name="größe/ölen")
def umlaut(größe: int) -> int:
    return größe


@command(name="1st.try")
def first_try() -> int:
    return 1


@command
def client(client: str) -> str:
    """Its argument struct and result must not take the client's own name."""
    return client


@command
def positional(*numbers: int) -> int:
    return sum(numbers)


@command
def rest(first: int, second: int = 10, *more: int, flag: bool = False) -> List[int]:
    return [first, second, *more]


@command
def keyword(first: int, **extra: str) -> Dict[str, Any]:
    return {"first": first, "extra": extra}


class Client:
    """A class that is called like the generated client."""


@dataclass
class New:
    """And one called like its constructor."""

    pool: str = ""


@command
def new(given: New) -> New:
    return given


# -------------------------------------------------------------------------------------------------- streams and programs


@command
def count(to: int, start: int = 0) -> Iterator[int]:
    """Counts."""
    yield from range(start, to)


@command
async def users(names: List[str]) -> AsyncIterator[User]:
    for index, name in enumerate(names):
        yield User(UserID(str(index)), name, [])


@command
def untyped_stream():
    yield {"a": 1}


@program("answer/v2")
def answer(question: str, temperature: float = 0.7) -> Report:
    """Answers a question."""
    return Report(question, [], {}, temperature)


@program("trace")
class Trace:
    def __call__(self, steps: int) -> Iterator[Tuple[int, str]]:
        for step in range(steps):
            yield step, "step"


@program("free")
def free(*args, **kwargs):
    return kwargs


# -------------------------------------------------------------------------------------------------------- payloads in tuples


class Layer(NamedTuple):
    """A NamedTuple with payloads."""

    name: str
    weights: Array
    raw: Optional[bytes] = None


@dataclass
class Model:
    """Payloads at any depth."""

    layers: List[Layer]
    pair: Tuple[Array, int]
    best: Optional[Tuple[str, Array]] = None


@command
def layer(given: Layer) -> Layer:
    return given


@command
def tagged_array(given: Tuple[Array, int]) -> Tuple[Array, int]:
    return given[0], given[1] + 1


@command
def model(given: Model) -> Model:
    return given


@program("model")
def model_program(given: Model) -> Model:
    return given


@program("array")
def array_program(size: int) -> Array:
    return Array("float64", [size], b"\x00\x00\x00\x00\x00\x00\xf8\x7f" * size)


# ---------------------------------------------------------------------------------------------------------- missing values


@dataclass
class Reading:
    """What a sensor has told, or has not."""

    sensor: str
    value: float
    history: Dict[str, List[float]] = field(default_factory=dict)


NAN = float("nan")


@command
def reading(given: Reading) -> Reading:
    return given


@command(nan="null")
def readings(given: List[Reading]) -> List[Reading]:
    return [*given, Reading("broken", NAN, {"day": [1.5, NAN]})]


@command(nan="null")
def ratios(numbers: List[float]) -> Tuple[float, List[float], int]:
    return NAN, [number or NAN for number in numbers], len(numbers)


@command(nan="null")
def gauges(missing: int) -> Iterator[float]:
    yield 1.5
    yield from [NAN] * missing


@program("estimate", nan="null")
def estimate(known: bool) -> float:
    return 0.5 if known else NAN
