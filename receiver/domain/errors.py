"""Everything that can go wrong, as one tree. Foreign errors are translated into it at the adapter.

::

    ReceiverError
    ├── ConfigurationError          config.toml, the environment or a secret; carries every fault
    ├── InvalidRequest              a client's input
    ├── NotFound
    ├── Conflict                    the thing is not in a state for that
    ├── DialRefused                 an address that must not be dialled
    ├── NotSent                     an HTTP request that never reached the peer
    ├── NoAnswer                    an HTTP request that went out and was not answered
    ├── NotKept                     a file that could not be put on the disk
    ├── Unverifiable                a signature that does not hold
    ├── Unreadable                  a body that is no JSON object
    ├── StoreError
    │   ├── StoreUnavailable        cannot store just now; try again
    │   │   └── Crowded             there is room, but not for more of this kind before some of it is settled
    │   ├── StoreLocked             another process has it
    │   └── StoreBroken             stop at once: what it acknowledges may not last
    ├── ServiceUnreachable          no service at the admin address
    ├── RequestFailed               the service answered, and not with what was asked for
    ├── TaskNotOver                 a task that was waited for, and goes on; client.told has it
    ├── CannotListen                an address that the service cannot take
    └── KlingError                  Kling, or the way to it
        ├── KlingUnreachable        nothing was sent
        ├── KlingUncertain          sent, and no clear answer: the task may exist
        └── KlingRefusal            an answer with an error code
            ├── AuthenticationFailed  1000 1001 1002
            ├── TokenRejected         1003 1004
            ├── AccountTrouble        1100 1101 1102 1304
            ├── Forbidden             1103
            ├── InvalidParameters     1200 1201
            ├── UnknownResource       1202 1203
            ├── ContentRefused        1300 1301
            ├── TooFast               1302
            ├── SlotsFull             1303
            ├── ServerTrouble         5001, and any other answer of 5xx that promises nothing was made
            └── UnknownRefusal        a code never seen before
"""

from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from typing import ClassVar


class ReceiverError(Exception):
    """An error of ours: a stable ``code`` for machines, a sentence and a ``remedy`` for people."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".rstrip()


class ConfigurationError(ReceiverError):
    """The configuration does not hold; ``faults`` names each place and its fix, one line each."""

    code = "configuration"

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


class InvalidRequest(ReceiverError):
    """A client's input that cannot be taken as it is."""

    code = "invalid_request"


class NotFound(ReceiverError):
    """What was asked for is not here."""

    code = "not_found"


class Conflict(ReceiverError):
    """The thing exists and is not in a state for what was asked."""

    code = "conflict"


class AddressBlocked(ReceiverError):
    """An address that must not be dialled for whoever named it."""

    code = "dial_refused"


class RequestNotSent(ReceiverError):
    """An HTTP request that never reached the peer: no such name, refused, broken TLS."""

    code = "not_sent"


class NoResponse(ReceiverError):
    """An HTTP request that went out, wholly or in part, and was not answered in time or in order."""

    code = "no_answer"


class FileNotStored(ReceiverError):
    """A file that could not be put on the disk, or is not worth it."""

    code = "not_kept"


class Unverifiable(ReceiverError):
    """A signature that is missing parts, too old, or wrong."""

    code = "unverifiable"


class MalformedBody(ReceiverError):
    """A body that is no JSON object."""

    code = "unreadable"


class StoreError(ReceiverError):
    """The store could not do it."""

    code = "store"


class StoreUnavailable(StoreError):
    """The store cannot take anything just now; what was to be stored is not stored."""

    code = "store_unavailable"


class TooManyPending(StoreUnavailable):
    """So much waits already of what is to be settled first that no more is stored."""

    code = "crowded"


class StoreLocked(StoreError):
    """Another process works on the same store."""

    code = "store_locked"


class StoreBroken(StoreError):
    """The store can no longer be trusted to keep what it acknowledges."""

    code = "store_broken"


class ServiceUnreachable(ReceiverError):
    """No service answers at the admin address."""

    code = "service_unreachable"


class RequestFailed(ReceiverError):
    """The service answered with its HTTP ``status``, or not in our words, and not with what was asked for."""

    code = "request_failed"

    def __init__(self, message: str, *, remedy: str = "", status: int | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.status = status


class BindFailed(ReceiverError):
    """An address that the service is to listen at, and cannot."""

    code = "cannot_listen"


class RetryHint(StrEnum):
    """What a failed call to Kling allows."""

    NEVER = "no"  # the same again would fail the same
    BACKOFF = "soon"  # back off from a second on
    WHEN_SLOT_FREE = "when_free"  # when one of the account's slots is free
    REAUTHENTICATE = "anew"  # once, with a fresh signature
    AFTER_LOOKUP = "look_up_first"  # the task may exist and be billed
    AFTER_OPERATOR = "after_remedy"  # a person has to mend the account first


class KlingError(ReceiverError):
    """A call to Kling that did not succeed. ``retry`` says what may follow."""

    code = "kling"
    retry: ClassVar[RetryHint] = RetryHint.NEVER


class KlingUnreachable(KlingError):
    """Kling could not be reached; nothing was sent."""

    code = "kling_unreachable"
    retry = RetryHint.BACKOFF


class KlingUncertain(KlingError):
    """The request went out and no clear answer came back: a task may exist.

    ``external_task_id`` is what it would be found by, where a task was to be made.
    """

    code = "kling_uncertain"
    retry = RetryHint.AFTER_LOOKUP

    def __init__(self, message: str, *, remedy: str = "", external_task_id: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.external_task_id = external_task_id


class KlingRefusal(KlingError):
    """Kling answered with an error: its HTTP ``status``, its ``kling_code``, its words."""

    code = "kling_refusal"
    advice: ClassVar[str] = ""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        kling_code: int | str | None = None,
        request_id: str = "",
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(message, remedy=self.advice)
        self.status = status
        self.kling_code = kling_code
        self.request_id = request_id
        self.retry_after = retry_after


class AuthenticationFailed(KlingRefusal):
    """1000, 1001, 1002: Kling does not know the key."""

    code = "kling_authentication"
    retry = RetryHint.AFTER_OPERATOR
    advice = "Check [kling] api_key, or access_key and secret_key, and that base_url is the key's own region."


class TokenRejected(KlingRefusal):
    """1003, 1004: the signed token is not valid yet, or no longer."""

    code = "kling_token"
    retry = RetryHint.REAUTHENTICATE
    advice = "Check this machine's clock; Kling allows the token a few seconds only."


class AccountBlocked(KlingRefusal):
    """1100, 1101, 1102, 1304: the account is blocked, in arrears, used up, or bound to other addresses."""

    code = "kling_account"
    retry = RetryHint.AFTER_OPERATOR
    advice = "Look at the account in Kling's console: balance, resource pack, and the list of allowed addresses."


class Forbidden(KlingRefusal):
    """1103: the account has no right to this model or function."""

    code = "kling_forbidden"
    advice = "Ask for the right in Kling's console, or use another model."


class InvalidParameters(KlingRefusal):
    """1200, 1201: a parameter Kling does not take."""

    code = "kling_invalid_parameters"
    advice = "Correct the request's body as Kling's message says."


class UnknownResource(KlingRefusal):
    """1202, 1203: no such method, or no such model."""

    code = "kling_unknown_resource"
    advice = "Check the endpoint and the model's name, and [kling] base_url if a gateway is between."


class ContentRefused(KlingRefusal):
    """1300, 1301: against Kling's rules on content."""

    code = "kling_content"
    advice = "Change the prompt or the images; the same again would be refused again."


class RateLimited(KlingRefusal):
    """1302: too many calls in a moment."""

    code = "kling_too_fast"
    retry = RetryHint.BACKOFF
    advice = "Slow down."


class SlotsFull(KlingRefusal):
    """1303: more parallel tasks than the account's pack allows."""

    code = "kling_slots_full"
    retry = RetryHint.WHEN_SLOT_FREE
    advice = "Wait until a running task ends; [kling] slots keeps submits within the limit."


class ServerError(KlingRefusal):
    """5001 and its like: Kling is not able to serve just now, and made nothing."""

    code = "kling_server"
    retry = RetryHint.BACKOFF
    advice = "Try again later."


class UnknownErrorCode(KlingRefusal):
    """A code never seen before."""

    code = "kling_refused"
    advice = "Look the code up in Kling's documentation."
