"""Deliver by telling people: one text to each of a route's URLs of Apprise, in a process with a time limit."""

import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from secrets import token_hex

import msgspec

from receiver.delivery.senders.process import MAX_SHUTDOWN, run
from receiver.delivery.senders.sender import DeliveryRequest, RenderingFailed
from receiver.domain.bounded_dict import BoundedDict
from receiver.domain.model import Accepted, Event, Failed, Json, Outcome
from receiver.domain.secret import Secret
from receiver.events import payload
from receiver.events.notification import Notification, RenderError, TextTemplate, template_values, write_notification
from receiver.settings.notify import NotifySettings, service_of

MAX_CONCURRENCY = 4
"""The most processes of one route at once: each needs about 50 MB."""

_CHILD = (sys.executable, "-Im", "receiver.delivery.senders.apprise_child")
_MAX_OUTPUT = 64 * 1024
_MAX_REMEMBERED = 1000
_PASSED_ON = ("PATH", "LANG", "HOME", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
_HELD = "alert.route_held"

CountPending = Callable[[str], Awaitable[int]]
"""Counts the pending deliveries of a route."""


class UrlResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one URL. ``log`` is what Apprise logged about it."""

    ok: bool
    log: Sequence[str] = ()


class NotifySender:
    """Sends a text to every URL of a route. An attempt succeeds once each URL has accepted it.

    A retry leaves out the URLs that accepted it in an earlier attempt of this process.
    """

    def __init__(
        self,
        settings: NotifySettings,
        *,
        count_pending: CountPending | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._settings = settings
        self._title = None if settings.title is None else TextTemplate(settings.title)
        self._body = None if settings.body is None else TextTemplate(settings.body)
        self._count_pending = count_pending
        self._environ = os.environ if environ is None else environ
        self._accepted: BoundedDict[str, frozenset[int]] = BoundedDict(_MAX_REMEMBERED)

    @property
    def timeout(self) -> timedelta:
        """The longest one attempt may take: the time limit plus the time to end the process."""
        return self._settings.timeout + MAX_SHUTDOWN

    async def preview(self, event: Event) -> bytes:
        """Return the title and the text. Raises RenderingFailed."""
        notification = await self._write(event)
        return f"{notification.title}\n\n{notification.body}".encode()

    async def send(self, request: DeliveryRequest) -> Outcome:
        """Send the text once to each URL that has not accepted it."""
        try:
            notification = await self._write(request.event)
        except RenderingFailed as exc:
            return exc.outcome()
        accepted = self._accepted.get(request.delivery_id) or frozenset()
        open_ = [number for number in range(len(self._settings.urls)) if number not in accepted]
        try:
            found = await call_apprise(
                [self._settings.urls[number] for number in open_],
                time_limit=self._settings.timeout,
                environ=self._environ,
                notification=notification,
            )
        except OSError as exc:
            return Failed(reason=f"Python could not be started: {exc.strerror}.", fault="script_start")
        results = dict(zip(open_, found, strict=True))
        accepted |= {number for number, result in results.items() if result is not None and result.ok}
        if len(accepted) == len(self._settings.urls):
            self._accepted.pop(request.delivery_id, None)
            return Accepted(excerpt=_excerpt(results))
        self._accepted[request.delivery_id] = accepted
        return self._failure(results)

    async def _write(self, stored: Event) -> Notification:
        event: Json = json.loads(payload.serialize(stored))
        waiting = None
        if stored.type == _HELD and self._count_pending is not None:
            waiting = await self._count_pending(event["data"].get("route", ""))
        try:
            return write_notification(template_values(event, waiting=waiting), title=self._title, body=self._body)
        except RenderError as exc:
            raise RenderingFailed(f"The route's template failed: {exc}") from exc

    def _failure(self, results: Mapping[int, UrlResult | None]) -> Outcome:
        """Return the failure of an attempt, with what Apprise logged about the first URL that failed."""
        failed = {number: result for number, result in results.items() if result is None or not result.ok}
        number, result = next(iter(failed.items()))
        service = service_of(self._settings.urls[number])
        seconds = self._settings.timeout.total_seconds()
        why = f"no answer within {seconds:g} s" if result is None else " ".join(result.log) or "Apprise gives no reason"
        total = len(self._settings.urls)
        counted = "" if total == 1 else f"{len(failed)} of {total} URLs failed. "
        fault = "timeout" if result is None else ""
        return Failed(reason=f"{counted}{service}: {why}", excerpt=_excerpt(results), fault=fault)

    async def aclose(self) -> None:
        """Do nothing: no resources are kept between attempts."""


async def call_apprise(
    urls: Sequence[Secret],
    *,
    time_limit: timedelta,
    environ: Mapping[str, str],
    notification: Notification | None,
) -> Sequence[UrlResult | None]:
    """Send a notification to *urls*, or without one check whether Apprise understands them.

    A result is None if the URL was not done within the time limit. Raises OSError if Python cannot be started.
    """
    marker = token_hex(16)
    request: Json = {"marker": marker, "urls": [url.reveal() for url in urls]}
    if notification is None:
        request["check"] = True
    else:
        request |= {
            "title": notification.title,
            "body": notification.body,
            "urgency": notification.urgency.value,
        }
    ended = await run(
        _CHILD,
        content=json.dumps(request).encode(),
        env={name: environ[name] for name in _PASSED_ON if name in environ},
        cwd=None,
        time_limit=time_limit,
        output_limit=_MAX_OUTPUT,
    )
    found = _read_results(ended.output, marker)
    missing = None if ended.timed_out else UrlResult(ok=False, log=[_last_line(ended.output, ended.code)])
    return [found.get(number, missing) for number in range(len(urls))]


def _read_results(output: bytes, marker: str) -> Mapping[int, UrlResult]:
    results: dict[int, UrlResult] = {}
    for line in output.decode("utf-8", "replace").splitlines():
        start, _, text = line.partition(" ")
        if start == marker:
            answer: Json = json.loads(text)
            results[answer["url"]] = UrlResult(ok=answer["ok"], log=answer["log"])
    return results


def _last_line(output: bytes, code: int) -> str:
    """Return why the process ended without a result: the last line of its output, such as an error of Python."""
    lines = output.decode("utf-8", "replace").strip().splitlines()
    return f"Apprise's process ended with {code}{f': {lines[-1]}' if lines else ''}"


def _excerpt(results: Mapping[int, UrlResult | None]) -> bytes:
    lines = [line for result in results.values() if result is not None for line in result.log]
    return "\n".join(lines).encode()
