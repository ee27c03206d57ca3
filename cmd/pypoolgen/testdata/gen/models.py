"""pydantic models, for the tests where pydantic is installed."""

from datetime import timedelta
from typing import Generic, List, Optional, Set, TypeVar

from pydantic import BaseModel, Field, RootModel, computed_field
from pypool import command

T = TypeVar("T")


class Item(BaseModel):
    """A thing with another name outside."""

    item_name: str = Field(alias="itemName", description="its name")
    count: int = 3
    tags: Set[str] = set()
    took: Optional[timedelta] = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def twice(self) -> int:
        return self.count * 2


class Items(RootModel[List[Item]]):
    pass


class Page(BaseModel, Generic[T]):
    items: List[T]


@command
def keep(item: Item, items: Items) -> Page[Item]:
    return Page[Item](items=[item, *items.root])
