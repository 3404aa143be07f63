"""A task's place in the submit queue."""

import msgspec

from receiver.domain.slot_keys import split_slot_key


class Queueing(msgspec.Struct, frozen=True, kw_only=True):
    """A task's place in the submit queue, and the number of its submit ``attempts``.

    ``weight`` is the number of slots that the task uses of those that its ``slot_key`` names.
    A higher ``priority`` is submitted first. Tasks of equal priority take turns by ``share``, their fair share.
    """

    slot_key: str = ""
    weight: int = 1
    priority: int = 0
    share: str = ""
    attempts: int = 0

    @property
    def pack(self) -> str | None:
        """The pack that the task is paid from, or None if it uses no slots."""
        return split_slot_key(self.slot_key)[0] or None
