"""A dictionary of limited size, for state that outside input can make grow."""

from collections import OrderedDict
from collections.abc import Iterator, MutableMapping
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class BoundedDict(MutableMapping[K, V]):
    """A dictionary that evicts its oldest key when it grows beyond ``max_size``.

    Setting a key again does not make it newer. Eviction takes constant time.
    """

    __slots__ = ("_items", "_max_size")

    def __init__(self, max_size: int) -> None:
        self._items: OrderedDict[K, V] = OrderedDict()
        self._max_size = max_size

    def __getitem__(self, key: K) -> V:
        return self._items[key]

    def __setitem__(self, key: K, value: V) -> None:
        self._items[key] = value
        if len(self._items) > self._max_size:
            self._items.popitem(last=False)

    def __delitem__(self, key: K) -> None:
        del self._items[key]

    def __contains__(self, key: object) -> bool:
        return key in self._items

    def __iter__(self) -> Iterator[K]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)
