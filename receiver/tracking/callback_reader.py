"""Reads a callback: its content coding, its signature and what it reports. Hides secrets in what is kept of it."""

from collections.abc import Sequence
from functools import partial

from receiver.domain import signing
from receiver.domain.clock import Clock
from receiver.domain.model import Source
from receiver.domain.redaction import Redactor
from receiver.domain.signing import SignatureStatus
from receiver.kling import parser_thread, protocol
from receiver.settings import CallbackSettings
from receiver.tracking.parsed_push import Callback, Incoming, decode_body
from receiver.tracking.push_limiter import USUAL_BYTES, PushKind, PushLimiter

_DROPPED_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie"})


class CallbackReader:
    """Reads callbacks, and refuses those of a URL that has sent too many without effect."""

    def __init__(
        self, settings: CallbackSettings, limiter: PushLimiter, *, redactor: Redactor | None, clock: Clock
    ) -> None:
        """*redactor* knows the secrets to hide."""
        self.settings = settings
        self._limiter = limiter
        self._redactor = redactor or Redactor()
        self._clock = clock

    async def read(self, callback: Callback) -> Incoming:
        """Return what a callback reports, to be given to ``end`` later. Raises MalformedBody, TooManyPending."""
        now, hashed, body = self._clock.now(), callback.token_hash, callback.body
        count_large = partial(self._limiter.count, hashed, PushKind.LARGE, now=now)
        headers, decoded = decode_body(
            callback.headers, body, max_size=self.settings.max_body, before_large=count_large
        )
        signature = self._check_signature(headers, decoded)
        is_signed = signature is SignatureStatus.GOOD
        if decoded is body and len(body) > USUAL_BYTES and not is_signed:
            count_large()  # before it is searched and parsed, even if that fails
        body = self._redactor.body(decoded)  # a gateway may quote our key or our callback URL
        kept = [header for header in headers if header[0] not in _DROPPED_HEADERS]
        incoming = Incoming(
            source=Source.CALLBACK,
            report=await parser_thread.run(len(body), protocol.parse_status, body),
            body=body,
            headers=self._redactor.headers(kept),
            signature=signature,
            at=now,
            token_hash=hashed,
        )
        if not is_signed:
            self._limiter.begin(hashed, incoming.kind, now=now)
        return incoming

    def end(self, incoming: Incoming) -> None:
        """Record that a callback waits no longer to be stored."""
        if incoming.signature is not SignatureStatus.GOOD:
            self._limiter.end(incoming.token_hash, incoming.kind)

    def _check_signature(self, headers: Sequence[tuple[str, str]], body: bytes) -> SignatureStatus:
        if not self.settings.signing_secrets:
            return SignatureStatus.ABSENT
        return signing.verify(self.settings.signing_secrets, dict(headers), body, now=self._clock.now())
