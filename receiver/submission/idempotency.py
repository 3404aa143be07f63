"""Compares a request with the earlier one that used its idempotency key."""

import hashlib
from typing import Protocol

from receiver.domain.errors import KeyReused
from receiver.domain.model import Task


class Digests(Protocol):
    """The stored digests of requests."""

    async def request_digest(self, task_id: str) -> bytes | None:
        """Return the digest of the request that created a task."""
        ...


def request_digest(*parts: str | bytes) -> bytes:
    """Return a digest of a request: of its endpoint, its query and its body."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        digest.update(b"%d:" % len(raw))
        digest.update(raw)
    return digest.digest()


async def check_same_request(digests: Digests, first: Task, digest: bytes, *, key: str, remedy: str) -> None:
    """Raise KeyReused if the task *first*, which has this *key*, was made by another request."""
    stored = await digests.request_digest(first.id)
    if stored is not None and stored != digest:
        raise KeyReused(
            f"The idempotency key {key!r} belongs to task {first.id}, which was submitted with another body.",
            task_id=first.id,
            remedy=remedy,
        )
