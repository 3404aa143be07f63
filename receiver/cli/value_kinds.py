"""Kinds of values: the word that stands for one in the help, and what the shell proposes for it.

Each is a Parameter that an option's own Parameter is combined with: ``Annotated[str, ROUTE, Parameter(help=...)]``.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from cyclopts import Parameter

if TYPE_CHECKING:
    from cyclopts.completion._engine import CompletionContext

    Completer: TypeAlias = Callable[[CompletionContext], Sequence[str | tuple[str, str]]]


def _candidates(name: str) -> "Completer":
    """Return a function of :mod:`receiver.cli.completion_candidates`, which is loaded only for a completion."""

    def propose(context: "CompletionContext") -> Sequence[str | tuple[str, str]]:
        from receiver.cli import completion_candidates

        found: Sequence[str | tuple[str, str]] = getattr(completion_candidates, name)(context)
        return found

    propose.__name__ = name  # completion_table reads it
    return propose


ALERT_ID = Parameter(metavar="ID", completer=_candidates("alerts"))
ALERT_TYPE = Parameter(metavar="TYPE")
BATCH = Parameter(metavar="BATCH", completer=_candidates("batches"))
BATCH_STATE = Parameter(metavar="STATE", completer=_candidates("batch_states"))
DELIVERY_ID = Parameter(metavar="ID", completer=_candidates("deliveries"))
DELIVERY_STATUS = Parameter(metavar="STATUS", completer=_candidates("delivery_statuses"))
ENDPOINT = Parameter(metavar="ENDPOINT", completer=_candidates("endpoints"))
EVENT_ID = Parameter(metavar="ID", completer=_candidates("events"))
EVENT_TYPE = Parameter(metavar="TYPE", completer=_candidates("event_types"))
PROFILE = Parameter(metavar="NAME", completer=_candidates("profiles"))
REPLAY_ID = Parameter(metavar="ID", completer=_candidates("replays"))
REACHED_STATE = Parameter(metavar="STATE", completer=_candidates("reached_states"))
ROUTE = Parameter(metavar="ROUTE", completer=_candidates("routes"))
ROUTE_EVENT = Parameter(metavar="KIND", completer=_candidates("route_events"))
STATE = Parameter(metavar="STATE", completer=_candidates("states"))
TASK_ID = Parameter(metavar="ID", completer=_candidates("tasks"))

ADDRESS = Parameter(metavar="HOST:PORT")
COMMAND = Parameter(metavar="COMMAND")
CURSOR = Parameter(metavar="CURSOR")
DURATION = Parameter(metavar="DURATION")
ERRORS = Parameter(metavar="ERRORS")
EXPRESSION = Parameter(metavar="JMESPATH")
FILE = Parameter(metavar="FILE")
BODY = Parameter(metavar="JSON|@FILE|-")
FILE_OR_URL = Parameter(metavar="FILE|URL")
FOLDER = Parameter(metavar="FOLDER")
FREQUENCY = Parameter(metavar="FREQUENCY")
GLOB = Parameter(metavar="GLOB", completer=_candidates("endpoints"))
GROUPING = Parameter(metavar="TAG:NAME|WORD", completer=_candidates("groupings"))
KEY = Parameter(metavar="KEY")
KEY_VALUE = Parameter(metavar="KEY=VALUE")
LABEL = Parameter(metavar="LABEL")
NUMBER = Parameter(metavar="N")
RATE = Parameter(metavar="N/UNIT")
TEXT = Parameter(metavar="TEXT")
TIME = Parameter(metavar="TIME")
TOKEN = Parameter(metavar="TOKEN")
URL = Parameter(metavar="URL")
