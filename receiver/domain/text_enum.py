"""The base of enums whose values are written to the store and to JSON for each callback."""

from enum import StrEnum
from operator import attrgetter
from typing import TYPE_CHECKING


class TextEnum(StrEnum):
    """A StrEnum whose ``value`` takes a third of the time: Python's own calls two functions for it."""

    if not TYPE_CHECKING:
        value = property(attrgetter("_value_"))
