"""An inbox in memory, for tests of the public app."""

import asyncio
from collections.abc import Sequence

from receiver.tracking.parsed_push import Callback

TOKEN = "kept-to-ourselves-5f2a"


class FakeInbox:
    """Knows some tokens, and records its calls; or fails as set."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.tokens = {TOKEN}
        self.failure = failure
        self.received: list[tuple[Sequence[tuple[str, str]], bytes]] = []
        self.written: list[str] = []  # tokens of calls that would use the database writer
        self.looked_up: list[str] = []

    async def accept_callback(self, token: str, headers: Sequence[tuple[str, str]], body: bytes) -> bool:
        self.written.append(token)
        if self.failure is not None:
            raise self.failure
        if token not in self.tokens:
            return False
        self.received.append((headers, body))
        return True

    async def accept_callbacks(self, callbacks: Sequence[Callback]) -> Sequence[bool | BaseException]:
        accepted = (self.accept_callback(each.token, each.headers, each.body) for each in callbacks)
        return await asyncio.gather(*accepted, return_exceptions=True)

    async def has_token(self, token: str) -> bool:
        self.looked_up.append(token)
        return token in self.tokens
