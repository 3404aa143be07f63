"""Submit a job from the browser: a form for each endpoint, sent through the same code as ``POST /api/tasks``."""

import asyncio
import secrets
from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import quote

from starlette.responses import Response
from starlette.routing import Route

from receiver.domain.errors import ReceiverError
from receiver.domain.model import Json
from receiver.kling.endpoints import CATALOGUE
from receiver.kling.prices import kind_model, kind_options, learn_prices
from receiver.submission.request import SubmitRequest
from receiver.web import api_requests as requests
from receiver.web.console.gate import Gate, Visit
from receiver.web.console.job_form import (
    FILES,
    FIRST,
    URLS,
    FormFaults,
    form_endpoints,
    form_fields,
    image_limit,
    read_job,
)
from receiver.web.console.multipart import Form, parse_form
from receiver.web.console.services import ConsoleServices
from receiver.web.params import validate
from receiver.web.resources.costs import past_charges
from receiver.web.server import problems
from receiver.web.server.body import MAX_JOB_BODY, BodyMemoryBudget, read_body
from receiver.web.server.problems import Problem, bad_request

MAX_FORM = MAX_JOB_BODY * 3 // 4
"""The most bytes of a form: in base64 its images grow by a third."""

_PATH = "/console/submit"
_MAX_KEY = 64
_MAX_PRICES = 8
_OWN = ("label", "batch", "tags")


class SubmitPage:
    """Answers ``/console/submit``."""

    def __init__(self, services: ConsoleServices) -> None:
        self._services = services
        self._memory = BodyMemoryBudget(2 * MAX_FORM)

    def routes(self, gate: Gate) -> list[Route]:
        """Return the route of the form."""
        return [gate.page(_PATH, self.show, action=self.submit)]

    async def show(self, visit: Visit) -> Response:
        """Show an empty form."""
        return await self._page(visit, _chosen_endpoint(visit), values={}, faults={})

    async def submit(self, visit: Visit) -> Response:
        """Submit the job and show its task. A form that is sent twice makes one task."""
        path, request = _chosen_endpoint(visit), visit.request
        async with self._memory.reserve(request.scope, limit=MAX_FORM):
            body = await read_body(request.scope, request.receive, limit=MAX_FORM)
            form = await asyncio.to_thread(parse_form, body, request.headers.get("content-type", ""))
            del body
            key = form.fields.get("key", "")
            if not 1 <= len(key) <= _MAX_KEY:
                raise bad_request("The form has no key. Open it again.")
            try:
                endpoint, job = await asyncio.to_thread(
                    read_job, path, form.fields, form.files.get(FILES, ()), self._services.console.dialect
                )
                wanted = _request(endpoint, job, form.fields, key)
                result = await self._services.submitter.submit(wanted, wait=False)
            except FormFaults as exc:
                return await self._again(visit, path, form, exc.by_field, HTTPStatus.BAD_REQUEST)
            except (Problem, ReceiverError) as exc:
                problem = problems.from_error(exc)
                return await self._again(visit, path, form, {"": problem.detail}, problem.status)
        return visit.redirect(f"/console/tasks/{quote(result.task.id)}", notice="Submitted.")

    async def _again(
        self, visit: Visit, path: str, form: Form, faults: Mapping[str, str], status: HTTPStatus
    ) -> Response:
        """Show the form again with what is wrong. Its key is a new one: what is sent next is another job."""
        return await self._page(
            visit, path, values=form.fields, faults=faults, status=status, lost_files=bool(form.files)
        )

    async def _page(
        self,
        visit: Visit,
        path: str,
        *,
        values: Mapping[str, str],
        faults: Mapping[str, str],
        status: HTTPStatus = HTTPStatus.OK,
        lost_files: bool = False,
    ) -> Response:
        endpoint = CATALOGUE[path]
        prices = learn_prices(await past_charges(self._services.costs, endpoint), limit=_MAX_PRICES)
        return visit.page(
            "submit.html",
            title="Submit a job",
            live=False,
            status=status,
            endpoints=form_endpoints(),
            endpoint=path,
            action=f"{_PATH}?endpoint={quote(path)}",
            fields=form_fields(endpoint),
            image_limit=image_limit(endpoint),
            file_field=FILES,
            url_field=URLS,
            values=values,
            faults=faults,
            lost_files=lost_files,
            key=secrets.token_urlsafe(16),
            prices=[(kind_model(kind), ", ".join(kind_options(kind)), price) for kind, price in prices],
        )


def _chosen_endpoint(visit: Visit) -> str:
    path = visit.request.query_params.get("endpoint") or FIRST
    if path not in form_endpoints():
        raise bad_request(f"{path[:64]!r} has no form. Choose an endpoint of the list.")
    return path


def _request(endpoint: str, body: Json, fields: Mapping[str, str], key: str) -> SubmitRequest:
    """Return the request of a form. Label, batch and tags are checked as those of ``POST /api/tasks``."""
    given = {name: text for name in _OWN if (text := fields.get(name, "").strip())}
    faults = FormFaults()
    tags = {}
    for pair in filter(None, map(str.strip, given.pop("tags", "").split(","))):
        tag, colon, value = pair.partition(":")
        if not colon:
            faults.by_field["tags"] = "Write each tag as key:value, and a comma between two."
        tags[tag.strip()] = value.strip()
    if faults.by_field:
        raise faults
    checked = validate(requests.SubmitRequest, {**given, "endpoint": endpoint, "body": {}, "tags": tags})
    return SubmitRequest(
        endpoint=endpoint,
        body=body,
        label=checked.label,
        tags=checked.tags,
        batch=checked.batch.name if checked.batch else None,
        idempotency_key=f"console-{key}",
    )
