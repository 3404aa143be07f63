"""Results: a grid of what the tasks made, and many of their files as one zip."""

import asyncio
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import Annotated, Literal
from urllib.parse import urlencode

from pydantic import BeforeValidator, Field, model_validator
from starlette.responses import Response
from starlette.routing import Route

from receiver.domain.result_names import stems
from receiver.store.interfaces import ResultFilter, TaskResults
from receiver.web.api_requests import Query
from receiver.web.console.gate import Gate, Visit
from receiver.web.console.result_zip import ResultZip
from receiver.web.console.services import ConsoleServices
from receiver.web.console.shown_results import shown_task
from receiver.web.params import read_query
from receiver.web.request_types import CommaSeparated, Pairs, expected
from receiver.web.server.problems import bad_request

PAGE_SIZE = 48
MAX_ZIP_TASKS = 1000
"""The most tasks of one zip."""

MAX_ZIPS = 8
"""The most zips that are sent at once; more wait."""

_PATH = "/console/results"
_DAY = timedelta(days=1)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def _read_day(value: object) -> object:
    """Return the start of a day. The last day of the calendar has no end, so it is none."""
    if not (isinstance(value, str) and _DATE.fullmatch(value)) or value == f"{date.max}":
        raise ValueError
    return datetime.fromisoformat(value).replace(tzinfo=UTC)


class ResultQuery(Query):
    """Which results to show or to download. ``id`` selects tasks. A form sends empty fields; they count as missing.

    ``tests`` shows the test tasks of ``trigger`` too.
    """

    day: Annotated[datetime | None, BeforeValidator(_read_day), expected("a day, such as 2026-11-30")] = None
    batch: str | None = None
    tag: Pairs = Field(default_factory=dict)
    tests: Literal["1"] | None = None
    cursor: str | None = None
    id: CommaSeparated[str] = ()

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, values: dict[str, list[str]]) -> dict[str, list[str]]:
        kept = {name: [each for each in given if each.strip()] for name, given in values.items()}
        return {name: given for name, given in kept.items() if given}

    def wanted(self) -> ResultFilter:
        """Return the filter of the store."""
        until = None if self.day is None else self.day + _DAY
        with_tests = bool(self.tests or self.tag)  # a tag names what it wants
        return ResultFilter(since=self.day, until=until, batch=self.batch, tags=self.tag, with_tests=with_tests)

    def fields(self) -> dict[str, str]:
        """Return the values of the form's fields."""
        return {
            "day": "" if self.day is None else f"{self.day:%Y-%m-%d}",
            "batch": self.batch or "",
            "tag": ", ".join(f"{key}:{value}" for key, value in self.tag.items()),
            "tests": self.tests or "",
        }


class ResultPages:
    """Answers ``/console/results`` and its zip."""

    def __init__(self, services: ConsoleServices) -> None:
        self._services = services
        self._zip_limit = asyncio.Semaphore(MAX_ZIPS)

    def routes(self, gate: Gate) -> list[Route]:
        """Return the routes."""
        return [
            gate.page(_PATH, self.show),
            gate.page(f"{_PATH}.zip", self.send_zip),
        ]

    async def show(self, visit: Visit) -> Response:
        """Show one page of the grid, by the day of the tasks' ends."""
        query, api = read_query(visit.request, ResultQuery), self._services.results
        found = await api.store.list(query.wanted(), limit=PAGE_SIZE, cursor=query.cursor)
        tasks = [shown_task(each, api.previews) for each in found.items]
        days = [(day, list(group)) for day, group in groupby(tasks, key=lambda task: task.ended_at.date())]
        return visit.page(
            "results.html",
            title="Results",
            given=query.fields(),
            is_filtered=any(query.fields().values()),
            days=days,
            found=found,
            next_page=None if found.next is None else _address(_PATH, query, cursor=found.next),
            first_page=_address(_PATH, query) if query.cursor else None,
        )

    async def send_zip(self, visit: Visit) -> Response:
        """Send the selected results, or all that match the filter, as one zip."""
        query, api = read_query(visit.request, ResultQuery), self._services.results
        tasks = [shown_task(each, api.previews) for each in await self._chosen(query)]
        return ResultZip(
            tasks, api.reader, self._zip_limit, name="-".join(["results", *stems([("all", _title(query))])])
        )

    async def _chosen(self, query: ResultQuery) -> Sequence[TaskResults]:
        store = self._services.results.store
        if query.id:
            found = await store.of_tasks(query.id[:MAX_ZIP_TASKS])
        else:
            page = await store.list(query.wanted(), limit=MAX_ZIP_TASKS)
            found = page.items
            if page.next is not None:
                raise bad_request(f"A zip has at most {MAX_ZIP_TASKS} tasks. Choose a day or a batch, or select tasks.")
        if not found:
            raise bad_request("No result matches. Select some, or choose another day, batch or tag.")
        return found


def _title(query: ResultQuery) -> str:
    return "selected" if query.id else " ".join(value for name, value in query.fields().items() if name != "tests")


def _address(path: str, query: ResultQuery, **more: str) -> str:
    given = {name: value for name, value in query.fields().items() if value} | more
    return f"{path}?{urlencode(given)}" if given else path
