"""Which events a client's own callback URL receives: each of Kling's reports, or only the end of its task. Pure.

A one-shot caller, such as a waitpoint or a resume URL, takes the first request as the end. With ``final`` its URL
receives one request for its task. An end that the receiver sets itself counts too: the caller would wait for ever.
"""

from urllib.parse import urlsplit

from receiver.domain.model import ClientCallbacks, Origin, RouteDecision, Source, Task, TaskState

REPLY_PREFIX = "reply:"

_REQUESTED = "the client requested it with its callback_url"
_ANSWERED = "the client received it as the answer to its own call"
_UNCONFIRMED = "the event cannot be confirmed"
_OWN_ENDS = (TaskState.REJECTED, TaskState.EXPIRED)


def reply_route(url: str) -> str:
    """Return the route name for a client's own callback *url*: one per host."""
    return REPLY_PREFIX + urlsplit(url).netloc.rpartition("@")[2].lower()


def decide_reply(task: Task, url: str, state: TaskState, source: Source, *, trusted: bool) -> RouteDecision:
    """Decide whether the client's own callback *url* receives the event of *task* with the new *state*."""
    if task.client_callbacks is ClientCallbacks.ALL:
        mismatch = _mismatch_of_report(source, trusted=trusted)
    else:
        mismatch = _mismatch_of_end(task, state, trusted=trusted)
    return RouteDecision(route=reply_route(url), wanted=not mismatch, reason=mismatch or _REQUESTED)


def _mismatch_of_report(source: Source, *, trusted: bool) -> str:
    if source is Source.SUBMIT:
        return _ANSWERED
    if source is Source.RECEIVER:
        return "the receiver made this event, and the client expects Kling's own callbacks"
    return "" if trusted else _UNCONFIRMED


def _mismatch_of_end(task: Task, state: TaskState, *, trusted: bool) -> str:
    if task.client_callbacks is ClientCallbacks.ENDED:
        return "the client has received the end of this task already"
    if not (state.is_final or state in _OWN_ENDS):
        return "the client requested only the end"
    if state is TaskState.REJECTED and task.origin is Origin.GATEWAY:
        return _ANSWERED  # and it may send the create again, with the same callback URL
    return "" if trusted else _UNCONFIRMED
