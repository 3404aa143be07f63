"""Kling's API as the service uses it: make a task, ask about it, pass a client's call on.

Whether a create may be made again hangs on what is known of the first, so three ends are kept apart: an answer,
nothing sent (KlingUnreachable), and sent without a clear answer (KlingUncertain).
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from http import HTTPStatus
from typing import TypeAlias
from urllib.parse import quote

import structlog

from receiver.domain.clock import Clock
from receiver.domain.errors import (
    DialRefused,
    InvalidRequest,
    KlingError,
    KlingUncertain,
    KlingUnreachable,
    NoAnswer,
    NotSent,
    TokenRejected,
    UnknownResource,
    Unreadable,
)
from receiver.domain.model import Generation, Json, Reading
from receiver.kling import protocol
from receiver.kling.auth import Authorization
from receiver.kling.endpoints import WAYS, Endpoint, resolve
from receiver.kling.error_codes import Said, error_of
from receiver.net.http_client import Incoming, Outbound, Outgoing, Reply, whole
from receiver.settings import KlingSettings

TOGETHER = WAYS[Generation.NEW].at_once
"""How many tasks of the new generation Kling tells of in one answer."""

MAX_ANSWER = 16 * 1024 * 1024  # a page of 500 tasks with room to spare
_NEWEST = 100
_LONGEST_ID = 64  # of those asked about together, so that the address stays one that every server takes
_JSON = {"content-type": "application/json", "accept": "application/json"}
_LONG_ANSWER = timedelta(minutes=10)
_IDS = frozenset({"request-id", "x-request-id", "x-trace-id", "traceparent", "idempotency-key"})
_PASSED_ON = _IDS | {"content-type", "accept", "accept-language"}
_PASSED_BACK = _IDS | {"content-type", "content-encoding", "content-language", "content-disposition", "retry-after"}
_FAMILIES = ("ratelimit", "x-ratelimit", "x-kling")
_READ_OTHERWISE = re.compile(r"[/\\%;,]|^\.+$")
_IN_PATH = "/%:@!$&'()*+,;=~"
_IN_QUERY = _IN_PATH + "?[]"

Give: TypeAlias = Callable[[int, Mapping[str, str], AsyncIterator[bytes]], Awaitable[None]]
"""Takes an answer's status, headers and body, which is still on its way."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What Kling answered, as it came; ``reading`` is what it says of a task, ``error`` what is wrong with it."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    reading: Reading | None = None
    error: KlingError | None = None

    @property
    def is_success(self) -> bool:
        """Whether the HTTP call succeeded, whatever the body says."""
        return self.status in range(200, 300)


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What a client's call has beside its body: its query, and all its headers, of which no more pass than may."""

    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def target(self, path: str) -> str:
        """Write the path with the query after it."""
        return f"{path}?{quote(self.query, safe=_IN_QUERY)}" if self.query else path

    def passed(self) -> Mapping[str, str]:
        """Give the headers that Kling is to see: never a key, a cookie, or what is meant for us."""
        lower = {name.lower(): value for name, value in self.headers.items()}
        return {name: value for name, value in lower.items() if _may_pass(name, _PASSED_ON)}


NOTHING_BESIDE = Beside()


class Kling:
    """Calls Kling at the configured address with the configured key.

    An answer that is an error is an Answer with its ``error``. Raised are KlingUnreachable and KlingUncertain alone.
    """

    def __init__(self, settings: KlingSettings, *, outbound: Outbound, clock: Clock) -> None:
        self._base_url: str = settings.base_url.rstrip("/")
        self._timeout = settings.timeout
        self._authorization = Authorization(settings, clock)
        self._outbound = outbound
        self._clock = clock

    async def create(self, endpoint: str, content: bytes, *, beside: Beside = NOTHING_BESIDE) -> Answer:
        """Ask for a task. Once only: what may follow an error, the error's ``retry`` says.

        What a client sent *beside* its body goes along, but for what it called the body, which is JSON by now.
        """
        target = beside.target(_endpoint(endpoint).url_path)
        headers = {**_JSON, **beside.passed(), "content-type": _JSON["content-type"]}
        return self._judged(await self._call("POST", target, content, headers=headers), creates=True)

    async def query(self, endpoint: str, task_id: str) -> Answer:
        """Ask about a task, by Kling's id or the client's own; UnknownResource when Kling does not know it."""
        asked = _endpoint(endpoint)
        by_id, by_external_id = asked.query(task_id), asked.query(task_id, external=True)
        answer = self._judged(await self._call("GET", by_id, headers=_JSON), task_id=task_id)
        if isinstance(answer.error, UnknownResource) and by_external_id != by_id:
            return self._judged(await self._call("GET", by_external_id, headers=_JSON), task_id=task_id)
        return answer

    async def query_together(self, endpoint: str, task_ids: Sequence[str]) -> Mapping[str, Answer]:
        """Ask about several tasks in one call, by Kling's ids. The new generation's may be of any of its endpoints.

        An answer holds what was said of one task alone; those that Kling did not tell of are left out. Raises the
        error of an answer that tells of none of them.
        """
        reply = await self._call("GET", _endpoint(endpoint).query(*task_ids), headers=_JSON)
        error = self._error(_said(reply))
        if error is not None:
            log.info("kling.refused", status=reply.status, kling_code=_said(reply).code, code=error.code)
            raise error
        told: dict[str, Answer] = {}
        for task in protocol.several(reply.body):
            reading = protocol.read(task)
            kling_id = reading.kling_id or ""
            if kling_id in task_ids and kling_id not in told:
                told[kling_id] = Answer(status=reply.status, headers={}, body=task, reading=reading)
        return told

    async def find(self, endpoint: str, external_task_id: str) -> Answer | None:
        """Look a task up by the id we or the client gave it; None when Kling says there is none.

        Raises the error of any answer that leaves it open, and KlingUncertain for one about another task. That there
        is none by an id which a server may read otherwise, even quoted, is not believed.
        """
        path = _endpoint(endpoint).query(external_task_id, external=True)
        reply = await self._call("GET", path, headers=_JSON)
        answer = self._judged(reply, task_id=external_task_id)
        if answer.error is None:
            named = answer.reading.external_task_id if answer.reading is not None else None
            if named not in (None, external_task_id):
                raise KlingUncertain("Kling was asked for one task and answered with another.")
            return answer
        answered_with_none = reply.status < HTTPStatus.BAD_REQUEST and isinstance(answer.error, UnknownResource)
        is_plain = not _READ_OTHERWISE.search(external_task_id)
        if is_plain and (answered_with_none or _said(reply).says_there_is_none()):
            return None
        raise answer.error

    async def newest(self, endpoint: str) -> Sequence[Reading] | None:
        """List the newest tasks of an endpoint, whoever made them; None where not all that may be new can be seen.

        Raises the error of any other answer than a list.
        """
        path = _endpoint(endpoint).newest(_NEWEST)
        if path is None:
            return None
        reply = await self._call("GET", path, headers=_JSON)
        error = self._error(_said(reply))
        if error is not None:
            raise error
        listed = [protocol.read(task) for task in protocol.several(reply.body)]
        return None if len(listed) >= _NEWEST else listed

    async def forward(self, method: str, path: str, content: bytes | Outgoing, beside: Beside, *, give: Give) -> None:
        """Pass a client's call on as it is, under our key, and its answer to *give* as it comes.

        *path* is what follows ``/kling/``, as it was quoted.
        """
        if any(segment in (".", "..") for segment in path.replace("%2e", ".").replace("%2E", ".").split("/")):
            raise InvalidRequest("The path has `.` or `..` for a segment.", remedy="Give Kling's path as documented.")
        passed = beside.passed()
        target = beside.target("/" + quote(path.lstrip("/"), safe=_IN_PATH))

        async def take(incoming: Incoming, *, is_last: bool) -> bool:
            pieces = incoming.pieces
            if incoming.status == HTTPStatus.UNAUTHORIZED and not is_last:
                reply = await whole(incoming, limit=MAX_ANSWER)
                if isinstance(self._error(_said(reply)), TokenRejected):
                    return False
                pieces = _piece(reply.body)
            await give(incoming.status, _passed_back(incoming.headers, {"content-length"}), pieces)
            return True

        # What comes in while it goes out cannot be sent a second time.
        if isinstance(content, Outgoing) or not self._authorization.signs:
            await self._stream(method, target, content, passed, partial(take, is_last=True))
        elif not await self._stream(method, target, content, passed, partial(take, is_last=False)):
            self._authorization.forget()
            await self._stream(method, target, content, passed, partial(take, is_last=True))

    def _judged(self, reply: Reply, *, creates: bool = False, task_id: str | None = None) -> Answer:
        said = _said(reply)
        error = self._error(said, creates=creates)
        if error is not None:
            log.info("kling.refused", status=reply.status, kling_code=said.code, code=error.code)
            return _answer(reply, error=error)
        reading = protocol.read(reply.body, task_id=task_id)
        if task_id is not None and not reading.kling_id and not reading.word:
            none = UnknownResource("Kling's answer has no such task in it.", status=reply.status, kling_code=said.code)
            return _answer(reply, error=none)
        return _answer(reply, error=None, reading=reading)

    def _error(self, said: Said, *, creates: bool = False) -> KlingError | None:
        return error_of(said, creates=creates, now=self._clock.now(), hide=self._authorization.hide)

    async def _call(self, method: str, path: str, content: bytes = b"", *, headers: Mapping[str, str]) -> Reply:
        """Make one call, and one more under a fresh token where Kling did not take the old: then it did nothing yet."""
        reply = await self._request(method, path, content, headers)
        if self._authorization.signs and isinstance(self._error(_said(reply)), TokenRejected):
            self._authorization.forget()
            reply = await self._request(method, path, content, headers)
        return reply

    async def _request(self, method: str, path: str, content: bytes, headers: Mapping[str, str]) -> Reply:
        with _told_as_klings():
            return await self._outbound.request(
                method,
                self._url(path),
                headers={**headers, **self._authorization.headers()},
                content=content,
                total=self._timeout,
                limit=MAX_ANSWER,
            )

    async def _stream(
        self,
        method: str,
        path: str,
        content: bytes | Outgoing,
        headers: Mapping[str, str],
        read: Callable[[Incoming], Awaitable[bool]],
    ) -> bool:
        with _told_as_klings():
            return await self._outbound.stream(
                self._url(path),
                method=method,
                headers={**headers, **self._authorization.headers()},
                content=content,
                total=self._timeout,
                rest=_LONG_ANSWER,
                read=read,
            )

    def _url(self, path: str) -> str:
        """Join a path to the base, which may end in a prefix of a gateway's, or in the version already."""
        if self._base_url.endswith("/v1") and path.startswith("/v1/"):
            path = path.removeprefix("/v1")
        return self._base_url + path


def may_be_asked_together(endpoint: str, task_id: str) -> bool:
    """Tell whether a task can be asked about in one call with others: only the new generation's, by a plain id."""
    return _endpoint(endpoint).ways.at_once > 1 and "," not in task_id and len(task_id) <= _LONGEST_ID


def _said(reply: Reply) -> Said:
    document: Json | None = None
    if not reply.truncated:
        try:
            document = protocol.parse_object(reply.body)
        except Unreadable:
            document = None
    return Said(status=reply.status, headers=reply.headers, document=document)


def _answer(reply: Reply, *, error: KlingError | None, reading: Reading | None = None) -> Answer:
    headers = _passed_back(reply.headers)
    return Answer(status=reply.status, headers=headers, body=reply.body, reading=reading, error=error)


def _passed_back(headers: Mapping[str, str], more: Collection[str] = ()) -> Mapping[str, str]:
    return {name: value for name, value in headers.items() if _may_pass(name, _PASSED_BACK) or name in more}


def _may_pass(name: str, named: Collection[str]) -> bool:
    return name in named or name.startswith(_FAMILIES)


async def _piece(content: bytes) -> AsyncIterator[bytes]:
    yield content


@contextmanager
def _told_as_klings() -> Iterator[None]:
    """Tell of trouble on the way as of Kling's: whether something was sent is what counts."""
    try:
        yield
    except (NotSent, DialRefused) as exc:
        raise KlingUnreachable(
            f"Kling cannot be reached: {exc.message}", remedy="Check [kling] base_url and the way out."
        ) from exc
    except NoAnswer as exc:
        raise KlingUncertain(f"Kling did not answer: {exc.message}") from exc


def _endpoint(path: str) -> Endpoint:
    """Find an endpoint again that a task was kept with, should its form be Kling's no more."""
    return resolve(path) or Endpoint(path=quote(path.strip("/"), safe="/"))
