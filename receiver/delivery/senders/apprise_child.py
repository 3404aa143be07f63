"""Send one notification through Apprise, in a process of its own.

Apprise's services block, and some have no time limit of their own. A process can be killed; a thread cannot. It also
keeps Apprise's memory, its threads and its log out of the service.

Standard input is one JSON object: ``urls``, ``title``, ``body``, ``urgency``, and a random ``marker``. For each URL,
once it is done, standard output gets a line: the marker, a space and ``{"url": 0, "ok": false, "log": ["..."]}``.
With ``"check": true`` nothing is sent: the answer says whether Apprise understands each URL. The URLs are secrets, so
they are neither arguments nor variables. Link-local and cloud-metadata addresses are never dialled, by any library
of a service. This module imports little of the project, so it starts quickly.
"""

import json
import logging
import socket
import sys
import threading
from ipaddress import ip_address
from typing import Any

from receiver.net.ssrf_guard import OperatorGuard

_GUARD = OperatorGuard()
_MAX_LINES = 20
_MAX_LINE = 1000
_load_lock, _output_lock = threading.Lock(), threading.Lock()


class _LogOfThread(logging.Handler):
    """Keeps what Apprise logs, by thread: each URL has its own."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: dict[int | None, list[str]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line."""
        lines = self.lines.setdefault(record.thread, [])
        if len(lines) < _MAX_LINES:
            lines.append(record.getMessage()[:_MAX_LINE])


def main() -> int:
    """Send the notification that standard input describes."""
    request: dict[str, Any] = json.loads(sys.stdin.buffer.read())
    import apprise  # noqa: PLC0415 -- an extra, and slow to load

    log = _LogOfThread()
    logger = logging.getLogger("apprise")
    logger.addHandler(log)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    asset = apprise.AppriseAsset(async_mode=False, secure_logging=True)
    threads = [
        threading.Thread(target=_handle, args=(request, number, asset, log), daemon=True)
        for number in range(len(request["urls"]))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 0


def _refuse_forbidden_addresses(event: str, arguments: tuple[Any, ...]) -> None:
    """Raise AddressBlocked before a socket reaches an address that is never dialled."""
    if event not in ("socket.connect", "socket.sendto") or not isinstance(arguments[1], tuple):
        return
    host = str(arguments[1][0])
    try:
        addresses = [ip_address(host)]
    except ValueError:  # a name, which the socket would resolve itself
        addresses = [ip_address(found[4][0]) for found in socket.getaddrinfo(host, None)]
    _GUARD.check(host, addresses)


def _handle(request: dict[str, Any], number: int, asset: Any, log: _LogOfThread) -> None:  # noqa: ANN401 -- Apprise's own
    try:
        ok = _send(request, request["urls"][number], asset)
        lines = log.lines.get(threading.get_ident(), [])
    except Exception as exc:  # noqa: BLE001 -- an error of one service must not stop the others
        ok, lines = False, [f"{type(exc).__name__}: {exc}"[:_MAX_LINE]]
    answer = json.dumps({"url": number, "ok": ok, "log": lines})
    with _output_lock:
        sys.stdout.write(f"{request['marker']} {answer}\n")
        sys.stdout.flush()


def _send(request: dict[str, Any], url: str, asset: Any) -> bool:  # noqa: ANN401 -- as above
    import apprise  # noqa: PLC0415 -- as above

    with _load_lock:  # the first URL loads all of Apprise's services
        service = apprise.Apprise.instantiate(url, asset=asset)
    if service is None:
        raise ValueError("Apprise does not understand this URL. Compare it with Apprise's page about the service.")
    if request.get("check"):
        return True
    return bool(service.notify(body=request["body"], title=request["title"], notify_type=request["urgency"]))


if __name__ == "__main__":
    sys.addaudithook(_refuse_forbidden_addresses)  # for the life of the process
    sys.exit(main())
