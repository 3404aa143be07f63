"""The slots of a simulated account: Kling counts running tasks per pack and model version, some gateways per pack."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from receiver.domain.model import Json
from receiver.kling.simulator.endpoints import ApiError, Endpoint

_PACKS = ("video", "image")
_DEFAULT_MODELS: Mapping[str, str] = {
    "images/generations": "kling-v1",
    "images/multi-image2image": "kling-v2-1",
    "images/omni-image": "kling-image-o1",
    "images/kolors-virtual-try-on": "kolors-virtual-try-on-v1",
    "videos/text2video": "kling-v1",
    "videos/image2video": "kling-v1",
    "videos/multi-image2video": "kling-v1-6",
    "videos/omni-video": "kling-video-o1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotPlan:
    """How many tasks an account may run in parallel; 0 means no limit.

    ``limits`` are by pack, for each of its models, or by pack and model. ``by_pack``: a pack's models count together.
    """

    limits: Mapping[str, int] = field(default_factory=dict)
    by_pack: bool = False

    @classmethod
    def parse(cls, raw: object) -> "SlotPlan":
        """Parse ``video=3``, ``video/kling-v2-1=1`` and ``scope=pack``: one text, or several. Raises ValueError."""
        if isinstance(raw, SlotPlan):
            return raw
        limits, by_pack = dict[str, int](), False
        for part in [raw] if isinstance(raw, str) else raw if isinstance(raw, Iterable) else [str(raw)]:
            name, _, value = str(part).partition("=")
            pack, slash, model = name.partition("/")
            if name == "scope" and value in ("model", "pack"):
                by_pack = value == "pack"
            elif pack in _PACKS and bool(slash) == bool(model) and value.isascii() and value.isdigit():
                limits[name] = int(value)
            else:
                raise ValueError(f"must be written like video=3, video/kling-v2-1=1 or scope=pack, not {part!r}")
        if by_pack and any("/" in name for name in limits):
            raise ValueError("of one model and scope=pack, which counts all models together, exclude each other")
        return cls(limits=limits, by_pack=by_pack)

    def key(self, endpoint: Endpoint, body: Json) -> str:
        """Return what a task is counted by: its pack, or its pack and model; "" if it uses no slots."""
        if endpoint.pack is None:
            return ""
        default = _DEFAULT_MODELS.get(endpoint.path, "")
        named = endpoint.path.partition("/")[2] if endpoint.is_new else body.get("model_name") or default
        return endpoint.pack if self.by_pack else f"{endpoint.pack}/{str(named).strip().lower()}"

    def limit(self, key: str) -> int:
        """Return the limit of a key."""
        return self.limits.get(key, self.limits.get(key.partition("/")[0], 0))


NO_PLAN = SlotPlan()
"""An account without limits."""


class Slots:
    """The slots in use."""

    def __init__(self, plan: SlotPlan) -> None:
        self.plan = plan
        self._used: dict[str, int] = {}

    def acquire(self, key: str, weight: int) -> None:
        """Take slots for a new task. Raises ApiError if the plan does not allow that many."""
        limit, used = self.plan.limit(key), self.used(key)
        if not key:
            return
        if limit and used + weight > limit:
            raise ApiError(1303)
        self._used[key] = used + weight

    def release(self, key: str, weight: int) -> None:
        """Free the slots of a task that has ended."""
        left = self.used(key) - weight
        if left > 0:
            self._used[key] = left
        else:
            self._used.pop(key, None)

    def used(self, key: str) -> int:
        """Return how many slots of a key are in use."""
        return self._used.get(key, 0)

    def as_json(self) -> Json:
        """Return the slots in use and the limits, by key."""
        keys = sorted({*self._used, *self.plan.limits})
        return {key: {"used": self.used(key), "limit": self.plan.limit(key)} for key in keys}
