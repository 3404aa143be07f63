"""The tree of errors. Adapters translate foreign errors into it.

::

    ReceiverError
    ├── ConfigurationError          config.toml, the environment or a secret; carries every fault
    ├── InvalidRequest              a client's input
    ├── NotFound
    ├── Conflict                    the object's state does not allow the request
    │   └── KeyReused               an idempotency key that belongs to another request
    ├── AddressBlocked              an address that must not be dialled
    ├── RequestNotSent              an HTTP request that never reached the peer
    ├── NoResponse                  an HTTP request that was sent and got no response
    ├── FileNotStored               a file that could not be written to the disk
    ├── MalformedBody               a body that is not a JSON object
    ├── StoreError
    │   ├── StoreUnavailable        cannot store now; retry
    │   │   └── TooManyPending      too many unconfirmed pushes for one more
    │   ├── StoreLocked             another process uses the store
    │   ├── NodeReplaced            another process has this node's name
    │   └── StoreBroken             stop at once: acknowledged writes may be lost
    ├── ServiceUnreachable          no service at the admin address
    ├── RequestFailed               the service answered with an error
    │   └── TaskRefused             Kling refused a submit; it carries the rejected task
    ├── TaskNotFinished             a task that did not finish in the time to wait for it
    ├── BatchNotFinished            a batch that did not finish in the time to wait for it
    ├── CallLost                    a call to another node with an unknown outcome
    ├── ServiceStopping             a request that the stop of the service interrupts
    ├── BindFailed                  an address that the service cannot listen on
    └── KlingError                  a failed call to Kling
        ├── KlingUnreachable        the request was not sent
        ├── KlingUncertain          sent, and no clear answer: the task may exist
        └── KlingRefusal            an answer with an error code
            ├── AuthenticationFailed  1000 1001 1002
            ├── TokenRejected         1003 1004
            ├── AccountBlocked        1100 1101 1102 1304
            ├── Forbidden             1103
            │   └── ModelUnavailable    a gateway has no channel for the model
            ├── InvalidParameters     1200 1201
            ├── UnknownResource       1202 1203
            ├── ContentRefused        1300 1301
            ├── RateLimited           1302
            ├── SlotsFull             1303
            ├── ServerError           5001, and any other 5xx answer that says no task was created
            └── UnknownErrorCode      a code that the receiver does not know
"""

from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from typing import ClassVar


class ReceiverError(Exception):
    """The root of the tree: a stable ``code`` for machines, a ``message`` and a ``remedy`` for people."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".rstrip()


class ConfigurationError(ReceiverError):
    """The configuration is invalid; ``faults`` has one line per fault, with its place and its fix."""

    code = "configuration"

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


class InvalidRequest(ReceiverError):
    """A client's input is invalid."""

    code = "invalid_request"


class UnknownRoute(InvalidRequest):
    """A request names a route that is not in the configuration."""

    code = "unknown_route"


class NotFound(ReceiverError):
    """The requested object does not exist."""

    code = "not_found"


class Conflict(ReceiverError):
    """The object exists, but its state does not allow the request."""

    code = "conflict"


class KeyReused(Conflict):
    """An idempotency key was used before, with another endpoint or body; ``task_id`` is that request's task."""

    code = "idempotency_key_reused"

    def __init__(self, message: str, *, task_id: str, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.task_id = task_id


class AddressBlocked(ReceiverError):
    """The guard does not allow dialling this address."""

    code = "dial_refused"


class NetworkFault(StrEnum):
    """The step at which an HTTP request failed."""

    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    TIMEOUT = "timeout"
    NO_RESPONSE = "no_response"  # the peer closed the connection, or did not speak HTTP


class RequestNotSent(ReceiverError):
    """An HTTP request never reached the peer: unknown host, connection refused, TLS failure."""

    code = "not_sent"

    def __init__(self, message: str, *, remedy: str = "", fault: NetworkFault = NetworkFault.CONNECT) -> None:
        super().__init__(message, remedy=remedy)
        self.fault = fault


class NoResponse(ReceiverError):
    """An HTTP request was sent, in whole or in part, and got no valid response in time."""

    code = "no_answer"

    def __init__(self, message: str, *, remedy: str = "", fault: NetworkFault = NetworkFault.NO_RESPONSE) -> None:
        super().__init__(message, remedy=remedy)
        self.fault = fault


class FileNotStored(ReceiverError):
    """A file could not be written to the disk, or the limits do not allow it."""

    code = "not_kept"


class MalformedBody(ReceiverError):
    """A body is not a JSON object."""

    code = "unreadable"


class StoreError(ReceiverError):
    """An operation of the store failed."""

    code = "store"


class StoreUnavailable(StoreError):
    """The store cannot write now. Nothing was stored; retry later."""

    code = "store_unavailable"


class DutyLost(StoreUnavailable):
    """Another node does this duty now, so the store refused the write of this one."""


class TooManyPending(StoreUnavailable):
    """Too many pushes already wait for confirmation, so the store refuses another one."""

    code = "crowded"


class StoreLocked(StoreError):
    """Another process uses the same store."""

    code = "store_locked"


class NodeReplaced(StoreError):
    """Another process has the name of this node, so this process must end."""

    code = "node_replaced"


class StoreBroken(StoreError):
    """The store may lose writes that it acknowledged."""

    code = "store_broken"


class ServiceUnreachable(ReceiverError):
    """No service answers at the admin address."""

    code = "service_unreachable"


class RequestFailed(ReceiverError):
    """The service answered with the HTTP error ``status``, or with a body that is not its own JSON."""

    code = "request_failed"

    def __init__(self, message: str, *, remedy: str = "", status: int | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.status = status


class CallLost(ReceiverError):
    """Another node served a request and did not answer: its outcome is unknown."""

    code = "call_lost"


class ServiceStopping(ReceiverError):
    """The service is stopping, and the request waited for something. Nothing was sent; repeat it later."""

    code = "stopping"


class BindFailed(ReceiverError):
    """The service cannot listen on an address."""

    code = "cannot_listen"


class RetryHint(StrEnum):
    """When a failed call to Kling may be retried."""

    NEVER = "no"  # the same call would fail again
    BACKOFF = "soon"  # with backoff, from one second
    WHEN_SLOT_FREE = "when_free"  # when one of the account's slots is free
    REAUTHENTICATE = "anew"  # once, with a fresh signature
    AFTER_LOOKUP = "look_up_first"  # the task may exist and be billed
    AFTER_OPERATOR = "after_remedy"  # an operator must fix the account first


class KlingError(ReceiverError):
    """A call to Kling failed. ``retry`` says when it may be retried."""

    code = "kling"
    retry: ClassVar[RetryHint] = RetryHint.NEVER


class KlingUnreachable(KlingError):
    """Kling could not be reached; nothing was sent."""

    code = "kling_unreachable"
    retry = RetryHint.BACKOFF


class KlingUncertain(KlingError):
    """The request was sent and got no clear answer: a task may exist.

    ``external_task_id`` is the id to look it up by, if the request was a create.
    """

    code = "kling_uncertain"
    retry = RetryHint.AFTER_LOOKUP

    def __init__(self, message: str, *, remedy: str = "", external_task_id: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.external_task_id = external_task_id


class KlingRefusal(KlingError):
    """Kling answered with an error: its HTTP ``status``, ``kling_code`` and message."""

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
        remedy: str = "",
    ) -> None:
        super().__init__(message, remedy=remedy or self.advice)
        self.status = status
        self.kling_code = kling_code
        self.request_id = request_id
        self.retry_after = retry_after


class AuthenticationFailed(KlingRefusal):
    """1000, 1001, 1002: Kling does not know the key."""

    code = "kling_authentication"
    retry = RetryHint.AFTER_OPERATOR
    advice = "Check [kling] api_key, or access_key and secret_key, and that base_url is the one of the key's region."


class TokenRejected(KlingRefusal):
    """1003, 1004: the signed token is not valid yet, or no longer."""

    code = "kling_token"
    retry = RetryHint.REAUTHENTICATE
    advice = "Check this machine's clock: Kling accepts a token for a few seconds only."


class AccountBlocked(KlingRefusal):
    """1100, 1101, 1102, 1304: the account is blocked, in arrears, out of units, or limited to other addresses."""

    code = "kling_account"
    retry = RetryHint.AFTER_OPERATOR
    advice = "Check the account in Kling's console: balance, resource pack, and the list of allowed addresses."


class Forbidden(KlingRefusal):
    """1103: the account has no permission for this model or function."""

    code = "kling_forbidden"
    advice = "Request the right in Kling's console, or use another model."


class ModelUnavailable(Forbidden):
    """A gateway's own words for 1103: it has no channel for the model, or the key may not use it."""

    code = "kling_model_unavailable"


class InvalidParameters(KlingRefusal):
    """1200, 1201: Kling does not accept a parameter."""

    code = "kling_invalid_parameters"
    advice = "Correct the request body as Kling's message says."


class UnknownResource(KlingRefusal):
    """1202, 1203: no such method, or no such model."""

    code = "kling_unknown_resource"
    advice = "Check the endpoint and the model name, and [kling] base_url if you use a gateway."


class ContentRefused(KlingRefusal):
    """1300, 1301: the content violates Kling's policy."""

    code = "kling_content"
    advice = "Change the prompt or the images; the same request would be refused again."


class RateLimited(KlingRefusal):
    """1302: too many calls per second."""

    code = "kling_too_fast"
    retry = RetryHint.BACKOFF
    advice = "Slow down."


class SlotsFull(KlingRefusal):
    """1303: more parallel tasks than the account's pack allows."""

    code = "kling_slots_full"
    retry = RetryHint.WHEN_SLOT_FREE
    advice = "Wait until a running task ends; [kling] slots keeps submits within the limit."


class ServerError(KlingRefusal):
    """5001 and similar: Kling cannot serve the call now, and created nothing."""

    code = "kling_server"
    retry = RetryHint.BACKOFF
    advice = "Try again later."


class UnknownErrorCode(KlingRefusal):
    """An error code that the receiver does not know."""

    code = "kling_refused"
    advice = "Look the code up in Kling's documentation."
