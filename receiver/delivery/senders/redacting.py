"""Keep secrets out of what is stored of an attempt: a webhook may echo its request, and a script its environment."""

from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from urllib.parse import unquote, unquote_plus, urlsplit

from msgspec.structs import replace

from receiver.delivery.senders.sender import DeliveryRequest, Sender
from receiver.domain.model import Accepted, Event, Outcome
from receiver.domain.redaction import Redactor
from receiver.domain.secret import Secret

_MIN_SECRET_SEGMENT = 16
"""Chat and workflow services put their secret into the path; shorter segments are ordinary words."""


class RedactingSender:
    """Another sender whose outcomes contain no secret: no configured one, none of the URL, none of *more*."""

    def __init__(
        self,
        sender: Sender,
        redactor: Redactor,
        *,
        max_excerpt: int | None = None,
        url: str = "",
        more: Iterable[Secret] = (),
    ) -> None:
        """Wrap *sender*. Its excerpts are cut to *max_excerpt* bytes, and to less if the cut is inside a secret."""
        self._sender = sender
        self._redactor = redactor
        self._max_excerpt = max_excerpt
        self._own_redactor = Redactor([*url_secrets(url), *more])

    @property
    def timeout(self) -> timedelta:
        """The longest one attempt may take in total."""
        return self._sender.timeout

    async def preview(self, event: Event) -> bytes:
        """Return what the destination would receive."""
        return await self._sender.preview(event)

    async def send(self, request: DeliveryRequest) -> Outcome:
        """Make one attempt at the delivery."""
        outcome = await self._sender.send(request)
        if isinstance(outcome, Accepted) and not outcome.excerpt:
            return outcome
        redactors: tuple[Redactor, ...] = (self._own_redactor, self._redactor)
        if request.url:  # also set for routes, if the task has one
            redactors = (Redactor(url_secrets(request.url)), *redactors)
        excerpt = self._clean_excerpt(outcome.excerpt, redactors)
        if isinstance(outcome, Accepted):
            return outcome if excerpt == outcome.excerpt else replace(outcome, excerpt=excerpt)
        reason = outcome.reason
        for redactor in redactors[:-1]:
            reason = redactor.values(reason)
        return replace(outcome, excerpt=excerpt, reason=self._redactor.text(reason))

    def _clean_excerpt(self, excerpt: bytes, redactors: Sequence[Redactor]) -> bytes:
        cleaned = _clean(excerpt, redactors)
        if self._max_excerpt is not None and len(excerpt) > self._max_excerpt:
            cut = _clean(excerpt[: self._max_excerpt], redactors)
            cleaned = _common_start(cut, cleaned)  # they differ where the cut went through a secret
        for redactor in redactors:
            cleaned = redactor.trim(cleaned)  # a longer secret, the start of an output, a body that broke off
        return cleaned

    async def aclose(self) -> None:
        """Close connections."""
        await self._sender.aclose()


def _common_start(one: bytes, other: bytes) -> bytes:
    pairs = enumerate(zip(one, other, strict=False))
    return one[: next((place for place, (left, right) in pairs if left != right), len(one))]


def _clean(content: bytes, redactors: Iterable[Redactor]) -> bytes:
    for redactor in redactors:
        content = redactor.body(content)
    return content


def url_secrets(url: str) -> Iterator[Secret]:
    """Yield what a URL may contain of secrets: its user, the values of its query, and long parts of its path."""
    parts = urlsplit(url)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    found = [user, password, b64encode(f"{user}:{password}".encode()).decode()]  # the last is sent as Basic
    found += [pair.partition("=")[2] or pair for pair in parts.query.split("&")]
    found += [segment for segment in parts.path.split("/") if len(segment) >= _MIN_SECRET_SEGMENT]
    for text in found:
        yield Secret(text)
        yield Secret(unquote_plus(text))
