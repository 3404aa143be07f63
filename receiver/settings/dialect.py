"""The dialect that Kling, or the gateway in front of it, speaks."""

from enum import StrEnum


class Dialect(StrEnum):
    """The dialect of requests to Kling."""

    OFFICIAL = "official"
    GATEWAY = "gateway"
