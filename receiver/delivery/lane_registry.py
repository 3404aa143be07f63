"""Build the lane of each route from the configuration: its sender, retry policy, concurrency and rate limit."""

from datetime import timedelta

from receiver.delivery.lane import Lane
from receiver.delivery.retry import RetryPolicy
from receiver.delivery.senders.notify import MAX_CONCURRENCY, CountPending, NotifySender
from receiver.delivery.senders.redacting import RedactingSender
from receiver.delivery.senders.script import ScriptSender
from receiver.delivery.senders.sender import Sender
from receiver.delivery.senders.webhook import EXCERPT_BYTES, ClientCallbackSender, WebhookSender
from receiver.domain.errors import ReceiverError
from receiver.domain.rate_limiter import RateLimiter
from receiver.domain.redaction import Redactor
from receiver.domain.secret import Secret
from receiver.events.replies import REPLY_PREFIX
from receiver.net.http_client import HttpClient
from receiver.settings import RouteSettings, Settings
from receiver.settings.notify import secret_parts

_CLIENT_TIMEOUT = timedelta(seconds=15)
_CLIENT_CONCURRENCY = 8
_CLIENT_POLICY = RetryPolicy(
    schedule=[timedelta(seconds=seconds) for seconds in (5, 30, 120, 600, 1800, 3600)],
    give_up_after=timedelta(hours=96),
)


class LaneRegistry:
    """The lanes of the configured routes, and one lane per host for clients' own callback URLs."""

    def __init__(
        self,
        settings: Settings,
        operator_client: HttpClient,
        public_client: HttpClient,
        redactor: Redactor,
        *,
        count_pending: CountPending | None = None,
    ) -> None:
        """*count_pending* is for texts that say how many events wait."""
        self._operator_client, self._public_client = operator_client, public_client
        self._redactor = redactor
        self._count_pending = count_pending
        self._routes: dict[str, RouteSettings] = {}
        self._lanes: dict[str, Lane] = {}
        self.apply(settings)

    def apply(self, settings: Settings) -> None:
        """Use *settings* for later attempts. An unchanged route keeps its lane, and so its rate limit."""
        routes = {route.name: route for route in settings.routes}
        self._lanes = {
            name: self._lanes[name]
            if self._routes.get(name) == route
            else _build_lane(route, self._operator_client, self._redactor, self._count_pending)
            for name, route in routes.items()
        }
        self._routes = routes
        client_callback_sender = ClientCallbackSender(
            http_client=self._public_client, timeout=_CLIENT_TIMEOUT, secret=settings.gateway.secret
        )
        self._client_callback_sender = RedactingSender(
            client_callback_sender, self._redactor, max_excerpt=EXCERPT_BYTES
        )

    def __call__(self, route: str) -> Lane | None:
        """Return the lane of *route*, or None if no such route is configured."""
        if route.startswith(REPLY_PREFIX) and route not in self._lanes:
            self._lanes[route] = Lane(
                sender=self._client_callback_sender, policy=_CLIENT_POLICY, concurrency=_CLIENT_CONCURRENCY
            )
        return self._lanes.get(route)

    def sender(self, route: str) -> Sender | None:
        """Return the sender of *route*, or None if no such route is configured."""
        lane = self(route)
        return None if lane is None else lane.sender


def make_sender(route: RouteSettings, http_client: HttpClient, *, count_pending: CountPending | None = None) -> Sender:
    """Return the sender for a route's kind of destination."""
    if route.webhook is not None:
        return WebhookSender(route.webhook, http_client=http_client)
    if route.script is not None:
        return ScriptSender(route.script)
    if route.notify is not None:
        return NotifySender(route.notify, count_pending=count_pending)
    raise ReceiverError(f"Route {route.name} has no destination.", remedy="Give it a webhook, a script or a notify.")


def _build_lane(
    route: RouteSettings, http_client: HttpClient, redactor: Redactor, count_pending: CountPending | None
) -> Lane:
    sender, concurrency = make_sender(route, http_client, count_pending=count_pending), route.concurrency
    if route.notify is not None:
        concurrency = min(concurrency, MAX_CONCURRENCY)
        parts = [part for url in route.notify.urls for part in secret_parts(url)]
        redacting = RedactingSender(sender, redactor, max_excerpt=EXCERPT_BYTES, more=parts)
    elif route.webhook is None:
        redacting = RedactingSender(sender, redactor)
    else:
        headers = [value if isinstance(value, Secret) else Secret(value) for value in route.webhook.headers.values()]
        redacting = RedactingSender(sender, redactor, max_excerpt=EXCERPT_BYTES, url=route.webhook.url, more=headers)
    return Lane(
        sender=redacting,
        policy=RetryPolicy(schedule=route.retry, give_up_after=route.give_up_after),
        concurrency=concurrency,
        rate=None if route.rate is None else RateLimiter(count=route.rate.count, per=route.rate.per),
    )
