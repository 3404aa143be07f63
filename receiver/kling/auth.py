"""The ``authorization`` header: an API key, or a token signed with the account's pair of keys."""

import warnings
from datetime import datetime, timedelta

import jwt
from jwt.warnings import InsecureKeyLengthWarning

from receiver.domain.clock import Clock
from receiver.domain.model import Secret
from receiver.settings import KlingSettings

TOKEN_LIFETIME = timedelta(seconds=1800)
NOT_BEFORE_MARGIN = timedelta(seconds=5)  # for a clock of Kling's that is a little behind ours
RENEWAL_MARGIN = timedelta(seconds=60)  # a token must not run out on its way


class Authorization:
    """Says who we are in each call. Tokens are kept until shortly before they run out."""

    def __init__(self, settings: KlingSettings, clock: Clock) -> None:
        self._api_key = settings.api_key or Secret("")
        self._access_key = settings.access_key or Secret("")
        self._secret_key = settings.secret_key or Secret("")
        self._clock = clock
        self._token = Secret("")
        self._fresh_until: datetime | None = None

    @property
    def uses_token(self) -> bool:
        """Whether calls carry a token of ours, which can be made anew; an API key cannot."""
        return not self._api_key and bool(self._access_key and self._secret_key)

    def headers(self) -> dict[str, str]:
        """Give the header for a call; none without any key, which a simulator may take and Kling refuses."""
        key = self._current_token() if self.uses_token else self._api_key
        return {"authorization": f"Bearer {key.reveal()}"} if key else {}

    def invalidate(self) -> None:
        """Make the next call sign anew: Kling did not take the token."""
        self._fresh_until = None

    def redact(self, text: str) -> str:
        """Take our keys out of what somebody else wrote: some servers quote the key they refuse."""
        for secret in (self._api_key, self._access_key, self._secret_key, self._token):
            if secret:
                text = text.replace(secret.reveal(), "***")
        return text

    def _current_token(self) -> Secret:
        now = self._clock.now()
        if self._fresh_until is None or now >= self._fresh_until:
            claims = {
                "iss": self._access_key.reveal(),
                "exp": int((now + TOKEN_LIFETIME).timestamp()),
                "nbf": int((now - NOT_BEFORE_MARGIN).timestamp()),
            }
            with warnings.catch_warnings():  # how long the secret is, is Kling's choice
                warnings.simplefilter("ignore", InsecureKeyLengthWarning)
                self._token = Secret(jwt.encode(claims, self._secret_key.reveal(), algorithm="HS256"))
            self._fresh_until = now + TOKEN_LIFETIME - RENEWAL_MARGIN
        return self._token
