"""Kinds of values: the word that stands for one in the help, and what the shell proposes for it.

Each is a Parameter that an option's own Parameter is combined with: ``Annotated[str, ROUTE, Parameter(help=...)]``.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from cyclopts import Parameter

if TYPE_CHECKING:
    from cyclopts.completion._engine import CompletionContext

    Completer: TypeAlias = Callable[[CompletionContext], Sequence[str | tuple[str, str]]]


def _proposals(name: str) -> "Completer":
    """Return the function *name* of :mod:`receiver.cli.proposals`, which is loaded only for a completion."""

    def propose(context: "CompletionContext") -> Sequence[str | tuple[str, str]]:
        from receiver.cli import proposals

        found: Sequence[str | tuple[str, str]] = getattr(proposals, name)(context)
        return found

    propose.__name__ = name  # completion_table reads it
    return propose


ALERT_ID = Parameter(metavar="ID", completer=_proposals("alerts"))
ALERT_TYPE = Parameter(metavar="TYPE")
BATCH = Parameter(metavar="BATCH", completer=_proposals("batches"))
BATCH_STATE = Parameter(metavar="STATE", completer=_proposals("batch_states"))
DELIVERY_ID = Parameter(metavar="ID", completer=_proposals("deliveries"))
DELIVERY_STATUS = Parameter(metavar="STATUS", completer=_proposals("delivery_statuses"))
ENDPOINT = Parameter(metavar="ENDPOINT", completer=_proposals("endpoints"))
EVENT_ID = Parameter(metavar="ID", completer=_proposals("events"))
EVENT_TYPE = Parameter(metavar="TYPE", completer=_proposals("event_types"))
PROFILE = Parameter(metavar="NAME", completer=_proposals("profiles"))
REPLAY_ID = Parameter(metavar="ID", completer=_proposals("replays"))
REACHED_STATE = Parameter(metavar="STATE", completer=_proposals("reached_states"))
ROUTE = Parameter(metavar="ROUTE", completer=_proposals("routes"))
ROUTE_EVENT = Parameter(metavar="KIND", completer=_proposals("route_events"))
STATE = Parameter(metavar="STATE", completer=_proposals("states"))
TASK_ID = Parameter(metavar="ID", completer=_proposals("tasks"))

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
GLOB = Parameter(metavar="GLOB", completer=_proposals("endpoints"))
GROUPING = Parameter(metavar="TAG:NAME|WORD", completer=_proposals("groupings"))
KEY = Parameter(metavar="KEY")
KEY_VALUE = Parameter(metavar="KEY=VALUE")
LABEL = Parameter(metavar="LABEL")
NUMBER = Parameter(metavar="N")
RATE = Parameter(metavar="N/UNIT")
TEXT = Parameter(metavar="TEXT")
TIME = Parameter(metavar="TIME")
TOKEN = Parameter(metavar="TOKEN")
URL = Parameter(metavar="URL")
