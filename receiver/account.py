"""Whether the account with Kling is in trouble that only a person can mend, so that it is said once. Pure."""

from receiver.errors import KlingError, Retry

_TROUBLES = (Retry.AFTER_REMEDY, Retry.ANEW)


class Account:
    """Follows what calls of each kind say about the account: a used-up pack stops creates, and no question."""

    def __init__(self) -> None:
        self._troubled: set[str] = set()
        self._is_told = False

    def saw(self, error: KlingError | None, *, by: str) -> bool | None:
        """Take in how a call ended, None for well; tell whether trouble has begun or ended, None for nothing new."""
        if error is None:
            self._troubled.discard(by)
        elif error.retry in _TROUBLES:
            self._troubled.add(by)
        is_troubled = bool(self._troubled)
        if is_troubled == self._is_told:
            return None
        self._is_told = is_troubled
        return is_troubled
