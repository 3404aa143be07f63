"""Lists the pages of the console. Only :mod:`receiver.web.console.lazy_pages` imports this module."""

from collections.abc import Sequence

from starlette.routing import Route

from receiver.web.console.gate import Gate
from receiver.web.console.live import LivePages
from receiver.web.console.pages.alerts import AlertPages
from receiver.web.console.pages.batches import BatchPages
from receiver.web.console.pages.configuration import ConfigurationPage
from receiver.web.console.pages.costs import CostPages
from receiver.web.console.pages.deliveries import DeliveryPages
from receiver.web.console.pages.events import EventPages
from receiver.web.console.pages.manual import ManualPages
from receiver.web.console.pages.now import NowPage
from receiver.web.console.pages.replays import ReplayPages
from receiver.web.console.pages.results import ResultPages
from receiver.web.console.pages.routes import RoutePages
from receiver.web.console.pages.submit import SubmitPage
from receiver.web.console.pages.task import TaskPage
from receiver.web.console.pages.tasks import TaskPages
from receiver.web.console.services import ConsoleServices
from receiver.web.resources.routes import RouteApi


def page_routes(gate: Gate, services: ConsoleServices, routes: RouteApi) -> Sequence[Route]:
    """Return the routes of all pages behind the login."""
    pages = (
        LivePages(gate, services.event_notifier, clock=services.clock),
        NowPage(services, routes),
        TaskPages(services),
        TaskPage(services),
        ResultPages(services),
        SubmitPage(services),
        EventPages(services),
        DeliveryPages(services),
        ReplayPages(services),
        RoutePages(services, routes),
        AlertPages(services),
        BatchPages(services),
        CostPages(services),
        ConfigurationPage(services),
        ManualPages(),
    )
    return [route for page in pages for route in page.routes(gate)]
