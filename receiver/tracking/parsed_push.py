"""A push that was parsed but not yet decided. Pure."""

from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from receiver.domain.errors import MalformedBody
from receiver.domain.model import Source, StatusReport
from receiver.domain.signing import SignatureStatus
from receiver.net import content_coding
from receiver.tracking.push_limiter import USUAL_BYTES, PushKind

_CODING = "content-encoding"
_MAX_SHOWN = 40


class Callback(msgspec.Struct, frozen=True, kw_only=True):
    """A callback as received. ``request`` is the number of its request, for the lines of the log."""

    token: str
    token_hash: bytes
    headers: Sequence[tuple[str, str]]
    body: bytes
    request: int = 0


class Incoming(msgspec.Struct, frozen=True, kw_only=True):
    """A callback or a poll answer, and what it reports. ``task_body`` is the part of an answer that is like a callback.

    ``body`` is decoded, so ``headers`` do not name a content coding. ``token_hash`` is that of a callback's URL.
    """

    source: Source
    report: StatusReport
    body: bytes
    at: datetime
    token_hash: bytes = b""
    task_body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    signature: SignatureStatus = SignatureStatus.ABSENT

    @property
    def is_final(self) -> bool:
        """Whether it reports a final state."""
        return self.report.state is not None and self.report.state.is_final

    @property
    def kind(self) -> PushKind:
        """What the limit of its callback URL counts it as."""
        if self.report.kling_id is None:
            return PushKind.UNNAMED
        return PushKind.END if self.is_final else PushKind.PROGRESS


def decode_body(
    headers: Sequence[tuple[str, str]], body: bytes, *, max_size: int, before_large: Callable[[], None]
) -> tuple[Sequence[tuple[str, str]], bytes]:
    """Return a callback's headers and body without its content coding. Raises MalformedBody.

    *before_large* is called before the work for a coded body that is or becomes larger than Kling's, and may raise.
    """
    coding = ", ".join([value for name, value in headers if name == _CODING])
    if not coding:
        return headers, body
    is_usual = len(body) <= USUAL_BYTES
    decoded = content_coding.decode(body, coding, max_size=min(USUAL_BYTES, max_size)) if is_usual else None
    if decoded is None:
        before_large()
        decoded = content_coding.decode(body, coding, max_size=max_size)
    if decoded is None:
        raise MalformedBody(
            f"The body cannot be decoded. Its content-encoding is {coding[:_MAX_SHOWN]!r}.",
            remedy=f"Send it without a coding, or with gzip or deflate and at most {max_size} bytes when decoded.",
        )
    return [(name, value) for name, value in headers if name != _CODING], decoded
