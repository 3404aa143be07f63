"""What every part of the service is built from: settings, store, Kling, clock and the like. Tests use their own."""

from datetime import datetime
from random import Random

import msgspec

from receiver.delivery.commit_claims import CommitClaims
from receiver.domain.clock import Clock, Ids
from receiver.domain.duties import ALWAYS_HELD, Tenures
from receiver.domain.metrics import Metrics
from receiver.domain.notifier import Notifiers
from receiver.domain.redaction import Redactor
from receiver.events.alerts import AlertFactory
from receiver.events.factory import EventFactory
from receiver.events.routing import compile_routes
from receiver.kling.client import KlingClient
from receiver.kling.measured_client import MeasuredKlingClient
from receiver.service import logs
from receiver.service.admin_token import admin_token
from receiver.service.stores import Store
from receiver.service.tracing import NO_TRACING, Tracing
from receiver.settings import Settings, secrets_in


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What every part of the service is built from."""

    settings: Settings
    store: Store
    kling: MeasuredKlingClient
    event_factory: EventFactory
    alerts: AlertFactory
    redactor: Redactor
    notifiers: Notifiers
    clock: Clock
    started_at: datetime
    ids: Ids
    rng: Random
    metrics: Metrics
    tracing: Tracing = NO_TRACING
    tenures: Tenures = msgspec.field(default_factory=lambda: ALWAYS_HELD)
    commit_claims: CommitClaims = msgspec.field(default_factory=CommitClaims)

    def apply(self, settings: Settings) -> None:
        """Change what all parts share: the log level, the secrets to hide, and the routes' names and rules."""
        logs.set_configured_level(settings.log.level)
        self.redactor.replace([*secrets_in(settings), admin_token(settings)])
        self.metrics.replace_routes([route.name for route in settings.routes])
        self.event_factory.replace_routes(compile_routes(settings.routes))


def make_context(
    settings: Settings,
    store: Store,
    kling: KlingClient,
    redactor: Redactor | None = None,
    tracing: Tracing = NO_TRACING,
    *,
    clock: Clock,
    ids: Ids,
    rng: Random,
    metrics: Metrics | None = None,
    tenures: Tenures = ALWAYS_HELD,
) -> Context:
    """Return a context whose events follow the routes of *settings*. The default *redactor* knows no secrets."""
    metrics = metrics or Metrics()
    event_factory = EventFactory(compile_routes(settings.routes), ids, archive=settings.archive.is_on)
    return Context(
        settings=settings,
        store=store,
        kling=MeasuredKlingClient(kling, metrics),
        event_factory=event_factory,
        alerts=AlertFactory(event_factory, clock=clock),
        redactor=redactor or Redactor(()),
        notifiers=Notifiers(),
        clock=clock,
        started_at=clock.now(),
        ids=ids,
        rng=rng,
        metrics=metrics,
        tracing=tracing,
        tenures=tenures,
    )
