"""The public URL, as Kling sees it: its address, its certificate, and whether a callback arrives unchanged.

The checks run on this machine, so a firewall between Kling and the URL stays unseen.
"""

import json
import os
import time
from collections.abc import Mapping
from contextlib import aclosing
from datetime import timedelta
from http import HTTPStatus

from receiver import __version__
from receiver.client import Client
from receiver.domain.errors import AddressBlocked, NoResponse, RequestNotSent
from receiver.domain.quantity_text import counted
from receiver.domain.secret import Secret
from receiver.net.http_client import HttpClient, HttpResponse
from receiver.net.reachability import reach
from receiver.net.ssrf_guard import OperatorGuard, PublicGuard
from receiver.service.doctor.check import CALL_LIMIT, Finding, Subject, failed, ok, warning
from receiver.web.probes import SIGNATURE_HEADERS, digest, signature_lines

_NO_URL = "[public] url is empty: no callbacks are requested, and tasks are followed by polling alone."
_ENDS_SOON = timedelta(days=14)
_SMALL, _LARGE = 512, 900 * 1024
_PROXY = "Compare its settings with `kling-receiver expose nginx` (or caddy, cloudflared)."
_MAX_ANSWER = 64 * 1024


async def address(subject: Subject) -> Finding:
    """Check that the public URL leads to a public address that accepts connections."""
    url = subject.settings.public.url
    if not url:
        return ok(_NO_URL)
    try:
        reached = await reach(url, guard=OperatorGuard(), tls=False)
    except (RequestNotSent, AddressBlocked) as exc:
        return failed(
            f"The public URL cannot be reached: {exc.message}",
            exc.remedy or "Check the name in [public] url, its DNS record, and that the proxy or tunnel runs.",
        )
    if reached.address is not None:
        try:
            PublicGuard().check(reached.host, [reached.address])
        except AddressBlocked as exc:
            return warning(
                f"From this machine, the public URL has an address that Kling cannot reach: {exc.message}",
                "If the name has a public address outside this network, all is well. If not, use a tunnel or a public "
                "proxy: `kling-receiver expose cloudflared`.",
                address=str(reached.address),
            )
    return ok(f"{reached.host} accepts connections.", address=str(reached.address))


async def certificate(subject: Subject) -> Finding:
    """Check the certificate of the public URL: its name, its issuer and its end."""
    url = subject.settings.public.url
    if not url.startswith("https:"):
        return ok("The public URL is not https, so it has no certificate." if url else _NO_URL)
    try:
        reached = await reach(url, guard=OperatorGuard())
    except (RequestNotSent, AddressBlocked) as exc:
        if not await _accepts_connections(url):
            return warning("Not known: the public URL accepts no connection.", "See public.address.")
        return failed(
            f"TLS does not work at the public URL, so Kling's callbacks fail: {exc.message}",
            "Renew the certificate, and let it contain the name in [public] url and its whole chain.",
        )
    ends_at = reached.certificate_ends_at
    if ends_at is None:
        return warning("The server's certificate could not be read.", "Check it with `openssl s_client`.")
    left = ends_at - subject.clock.now()
    details = {"ends_at": ends_at.isoformat(), "days_left": left.days}
    if left < _ENDS_SOON:
        return warning(
            f"The certificate ends in {counted(left.days, 'day')}. After that no callback arrives.",
            "Renew it, and check that the renewal runs by itself.",
            **details,
        )
    return ok(f"The certificate is valid for {left.days} more days.", **details)


async def _accepts_connections(url: str) -> bool:
    try:
        await reach(url, guard=OperatorGuard(), tls=False)
    except (RequestNotSent, AddressBlocked):
        return False
    return True


async def probe(subject: Subject) -> Finding:
    """Check that a callback through the public URL reaches the running service unchanged."""
    url, client = subject.settings.public.url, subject.service.client
    if not url:
        return ok(_NO_URL)
    if client is None or not subject.service.is_running:
        return warning(
            "Not known: only the running service can tell whether a request through the public URL arrives.",
            "Start the service (`kling-receiver serve`), then run `kling-receiver doctor` again.",
        )
    http_client = HttpClient(guard=OperatorGuard(), user_agent=f"kling-receiver/{__version__}")
    async with aclosing(http_client):
        started_at = time.perf_counter()
        small = await _send(url, client, http_client, size=_SMALL, time_limit=CALL_LIMIT / 2)
        if isinstance(small, Finding):
            return small
        size = min(_LARGE, subject.settings.callbacks.max_body)
        left = CALL_LIMIT - timedelta(seconds=time.perf_counter() - started_at)
        large = await _send(url, client, http_client, size=size, time_limit=left)
        if isinstance(large, Finding):
            return large
    return ok(
        f"A callback of {size // 1024} KiB arrives unchanged. A small one takes {small * 1000:.0f} ms.",
        round_trip_ms=round(small * 1000, 1),
        bytes=size,
    )


async def _send(
    url: str, client: Client, http_client: HttpClient, *, size: int, time_limit: timedelta
) -> float | Finding:
    """Send a probe of *size* bytes. Return the seconds it took, or what went wrong."""
    registered = await client.post("/api/probes", {})
    token, secret = registered["token"], Secret(registered["secret"])
    body = json.dumps({"probe": os.urandom(size // 2 - 8).hex()}).encode()
    headers = {**dict.fromkeys(SIGNATURE_HEADERS, os.urandom(16).hex()), "content-type": "application/json"}
    started_at = time.perf_counter()
    try:
        answer = await http_client.request(
            "POST",
            f"{url.rstrip('/')}/callbacks/{token}",
            headers=headers,
            content=body,
            time_limit=time_limit,
            max_body=_MAX_ANSWER,
        )
    except (RequestNotSent, NoResponse, AddressBlocked) as exc:
        what = f"No answer to a callback of {len(body)} bytes through the public URL: {exc.message}"
        return failed(what, exc.remedy or f"Check the proxy or tunnel in front of the service. {_PROXY}")
    seconds = time.perf_counter() - started_at
    if token in answer.body.decode("latin-1") or any(token in value for value in _own_headers(answer)):
        return failed(
            "The answer contains the callback's token. A proxy in front of the service shows the path of requests.",
            f"Turn off the page or the header that shows the path: it may get into logs. {_PROXY}",
        )
    return _judge(answer, secret, body, headers) or seconds


def _own_headers(answer: HttpResponse) -> list[str]:
    """Return the headers that show the path without need: a redirect must contain it."""
    return [value for name, value in answer.headers.items() if name != "location"]


def _judge(answer: HttpResponse, secret: Secret, body: bytes, headers: Mapping[str, str]) -> Finding | None:
    """Return what is wrong with the answer to a probe, or None."""
    details: dict[str, object] = {"status": answer.status, "sent_bytes": len(body)}
    arrived = _arrived(answer)
    if arrived is None:
        return _refusal(answer, body, details)
    details["arrived_bytes"] = arrived.get("bytes", 0)
    if arrived.get("body") != digest(secret, body):
        if not arrived.get("bytes"):
            return failed("A callback arrives without its body.", f"Let the proxy pass bodies on. {_PROXY}", **details)
        return failed(
            f"A callback's body arrives changed: {len(body)} bytes were sent, {arrived.get('bytes')} arrived.",
            f"Let the proxy pass bodies on unchanged. {_PROXY}",
            **details,
        )
    if arrived.get("signature_headers") != digest(secret, signature_lines(dict(headers))):
        return failed(
            "A callback arrives without Kling's signature headers, so signed pushes count as unsigned.",
            f"Let the proxy pass the headers {', '.join(SIGNATURE_HEADERS)} on. {_PROXY}",
            **details,
        )
    return None


def _arrived(answer: HttpResponse) -> Mapping[str, object] | None:
    """Return what the service says about a probe; None if the answer is not the service's."""
    try:
        found = json.loads(answer.body)["probe"] if answer.status == HTTPStatus.OK else None
    except (ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, dict) else None


def _refusal(answer: HttpResponse, body: bytes, details: Mapping[str, object]) -> Finding:
    """Return the meaning of an answer that is not the service's to this probe."""
    kind = HTTPStatus.PERMANENT_REDIRECT if answer.status in _REDIRECTS else answer.status
    message, remedy = _REFUSALS.get(kind, _ELSEWHERE)
    return failed(message.format(status=answer.status, size=len(body)), f"{remedy} {_PROXY}", **details)


_REDIRECTS = range(300, 400)
_BEHIND = (
    "A server answers at the public URL ({status}), and does not reach the service behind it.",
    "Let it forward to the address in [public] listen.",
)
_ELSEWHERE = (
    "The public URL leads elsewhere: the answer ({status}) is not from this service.",
    (
        "Check [public] url, its DNS record, and to which path and address the proxy or tunnel forwards. "
        "A challenge or a login in front of it must exclude /callbacks/."
    ),
)
_REFUSALS: Mapping[int, tuple[str, str]] = {
    HTTPStatus.PERMANENT_REDIRECT: (
        "The public URL answers with a redirect ({status}). Kling may not follow it, or may turn its POST into a GET.",
        "Set [public] url to the address it leads to, with https and without a redirect.",
    ),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: (
        "The public URL refuses a body of {size} bytes ({status}). Large callbacks are lost.",
        "Let the proxy accept at least 1 MiB: `client_max_body_size 1m` in nginx.",
    ),
    HTTPStatus.MISDIRECTED_REQUEST: (
        "The service refuses the host name that the proxy passes on ({status}).",
        (
            "Restart the service if [public] url has changed. Else let the proxy pass the Host header on, or list the "
            "proxy in [public] proxies."
        ),
    ),
    HTTPStatus.BAD_GATEWAY: _BEHIND,
    HTTPStatus.SERVICE_UNAVAILABLE: _BEHIND,
    HTTPStatus.GATEWAY_TIMEOUT: _BEHIND,
}
"""Why a server in front of the service answers with a status, and what to do."""
