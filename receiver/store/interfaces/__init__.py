"""What the rest of the program needs of a store, one protocol for each user. The conformance suite defines them.

A store keeps what it acknowledged through a process crash and a power cut. Every method that writes returns
only after its commit. Writes that are pending at the same time share one transaction.
Time, ids and claims are arguments: a store has no clock and no randomness.

    .tasks       TaskStore       tasks and their transitions              inbox, submitter, poller
    .deliveries  DeliveryQueue   pending deliveries and route states      dispatcher
    .catalog     Catalog         reads for lists and single items         web, replay
    .archive     ArchiveStore    events whose results are archived        archiver
    .alerts      AlertStore      alerts from first report to end          web, alert service
    .results     ResultStore     archived results                         web
    .retention   RetentionStore  deletion of old data                     retention
    .reports     ReportStore     daily reports and what they are made of  daily report
    .deletions   DeletionStore   deletion of single tasks on request      archive
    .overview    Overview        searches, the latest of everything       web
    .traces      TraceStore      the traces of tasks                      tracing
    .sessions    SessionStore    sessions of the console, one-time links  console
    .totals      Totals          the present state, lasting totals        web
    .durations   DurationStore   how long past tasks took                 duration_keeper
"""

from receiver.store.interfaces.alerts import AlertStore
from receiver.store.interfaces.archive import ArchiveStore, ArchiveUpdate
from receiver.store.interfaces.catalog import Catalog, DeliveryView, Page, RouteBacklog
from receiver.store.interfaces.deletions import DeletionStore, StoredTask
from receiver.store.interfaces.deliveries import (
    ClaimedDelivery,
    ClaimedRoutes,
    ClaimOptions,
    DeliveryQueue,
    RecoveredClaims,
    RouteClaim,
)
from receiver.store.interfaces.durations import DurationStore
from receiver.store.interfaces.overview import (
    BriefDelivery,
    DeliverySearch,
    EventSearch,
    Found,
    Overview,
    RecentAttempt,
    TaskSearch,
    Workload,
)
from receiver.store.interfaces.reports import ReportStore
from receiver.store.interfaces.results import ResultFilter, ResultPage, ResultStore, StoredResult, TaskResults
from receiver.store.interfaces.retention import RetentionStore, RetentionTarget, SweepResult
from receiver.store.interfaces.sessions import SessionStore
from receiver.store.interfaces.tasks import (
    ApplyCall,
    ById,
    ByToken,
    Change,
    Decide,
    QueuedTask,
    QueueFront,
    SlotUse,
    TaskRef,
    TaskStore,
)
from receiver.store.interfaces.totals import StoreSnapshot, Total, Totals
from receiver.store.interfaces.traces import TraceStore

__all__ = [
    "AlertStore",
    "ApplyCall",
    "ArchiveStore",
    "ArchiveUpdate",
    "BriefDelivery",
    "ById",
    "ByToken",
    "Catalog",
    "Change",
    "ClaimOptions",
    "ClaimedDelivery",
    "ClaimedRoutes",
    "Decide",
    "DeletionStore",
    "DeliveryQueue",
    "DeliverySearch",
    "DeliveryView",
    "DurationStore",
    "EventSearch",
    "Found",
    "Overview",
    "Page",
    "QueueFront",
    "QueuedTask",
    "RecentAttempt",
    "RecoveredClaims",
    "ReportStore",
    "ResultFilter",
    "ResultPage",
    "ResultStore",
    "RetentionStore",
    "RetentionTarget",
    "RouteBacklog",
    "RouteClaim",
    "SessionStore",
    "SlotUse",
    "StoreSnapshot",
    "StoredResult",
    "StoredTask",
    "SweepResult",
    "TaskRef",
    "TaskResults",
    "TaskSearch",
    "TaskStore",
    "Total",
    "Totals",
    "TraceStore",
    "Workload",
]
