"""The ``authorization`` header: an API key, or a token signed with the account's key pair."""

import warnings
from collections.abc import Mapping
from datetime import datetime, timedelta

from receiver.domain.clock import Clock
from receiver.domain.redaction import Redactor
from receiver.domain.secret import Secret
from receiver.settings import KlingSettings

TOKEN_LIFETIME = timedelta(seconds=1800)
NOT_BEFORE_MARGIN = timedelta(seconds=5)  # tolerates a clock at Kling that is slightly behind
RENEWAL_MARGIN = timedelta(seconds=60)  # a token must not expire in transit


class Authorization:
    """Creates authorization headers. Tokens are cached until shortly before they expire."""

    def __init__(self, settings: KlingSettings, clock: Clock, redactor: Redactor) -> None:
        """*redactor* gets each signed token, so that it is hidden too."""
        self._redactor = redactor
        self._api_key = settings.api_key or Secret("")
        self._access_key = settings.access_key or Secret("")
        self._secret_key = settings.secret_key or Secret("")
        self._clock = clock
        self._token = Secret("")
        self._fresh_until: datetime | None = None

    @property
    def uses_token(self) -> bool:
        """Whether calls carry a signed token, which can be renewed, rather than an API key."""
        return not self._api_key and bool(self._access_key and self._secret_key)

    def headers(self) -> dict[str, str]:
        """Return the header for a call; empty without a key, which Kling refuses and a simulator may accept."""
        key = self._current_token() if self.uses_token else self._api_key
        return {"authorization": f"Bearer {key.reveal()}"} if key else {}

    def invalidate(self) -> None:
        """Discard the token, so the next call signs a new one."""
        self._fresh_until = None

    def _current_token(self) -> Secret:
        now = self._clock.now()
        if self._fresh_until is None or now >= self._fresh_until:
            claims = {
                "iss": self._access_key.reveal(),
                "exp": int((now + TOKEN_LIFETIME).timestamp()),
                "nbf": int((now - NOT_BEFORE_MARGIN).timestamp()),
            }
            self._token = Secret(_sign(claims, self._secret_key))
            self._redactor.add(self._token)
            self._fresh_until = now + TOKEN_LIFETIME - RENEWAL_MARGIN
        return self._token


def _sign(claims: Mapping[str, object], key: Secret) -> str:
    import jwt  # noqa: PLC0415 -- most accounts have an API key, and an idle service does without these 2 MiB
    from jwt.warnings import InsecureKeyLengthWarning  # noqa: PLC0415 -- as above

    with warnings.catch_warnings():  # Kling chooses the length of the secret
        warnings.simplefilter("ignore", InsecureKeyLengthWarning)
        return jwt.encode(dict(claims), key.reveal(), algorithm="HS256")
