"""The simulator's HTTP API: Kling's paths, results, and its own control paths."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from itertools import islice

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route

from receiver.domain.model import Json
from receiver.kling.simulator.account import Simulator, truncate_texts
from receiver.kling.simulator.auth import check_key
from receiver.kling.simulator.endpoints import ApiError, Endpoint
from receiver.kling.simulator.faults import InjectedError
from receiver.kling.simulator.ledgers import CASH, UNITS
from receiver.kling.simulator.tasks import Task, encode, envelope, millis, summary

HANG_UP = "hang_up"

_MIN_KLING_CODE = 1000
_MAX_BODY = 64 * 1024 * 1024
_MAX_PAGE = 1000
_MAX_PAGE_SIZE = 500
_MAX_QUERY_IDS = 20
_MAX_WAIT = timedelta(seconds=60)

Handler = Callable[[Request], Awaitable[Response]]


class ErrorInjected(Exception):
    """Raised when a fault requires an error as the answer."""

    def __init__(self, error: InjectedError) -> None:
        super().__init__(str(error.code))
        self.error = error


class HungUp(Exception):
    """Raised to close the connection without an answer."""


class Api:
    """Request handlers of a simulator."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    def app(self) -> Starlette:
        """Return the ASGI app; Kling's paths are also below ``/kling``, as at gateways."""
        klings = [
            Route("/v1/{path:path}", self._with_auth(self.legacy), methods=["GET", "POST"]),
            Route("/tasks", self._with_auth(self.query_new), methods=["GET"]),
            Route("/tasks", self._with_auth(self.list_new), methods=["POST"]),
            Route("/account/billing/{ledger}", self._with_auth(self.ledger), methods=["POST"]),
            Route("/account/costs", self._with_auth(self.packs), methods=["GET"]),
            Route("/{capability}/{model}", self._with_auth(self.create_new), methods=["POST"]),
        ]
        own = [
            Route("/_simulator/state", self.state, methods=["GET"]),
            Route("/_simulator/faults", self.faults, methods=["GET", "POST", "DELETE"]),
            Route("/_simulator/test-push", self.test_push, methods=["POST"]),
            Route("/results/{task_id}/{name}", self.result, methods=["GET"]),
        ]
        return Starlette(
            routes=[*own, Mount("/kling", routes=klings), *klings],
            exception_handlers={404: self._no_such_method, 405: self._no_such_method},
        )

    async def legacy(self, request: Request) -> Response:
        """Create, query or list tasks of a legacy endpoint."""
        path = request.path_params["path"]
        if (endpoint := self._simulator.endpoints.legacy(path)) is not None:
            return await self._create(request, endpoint) if request.method == "POST" else self._list(request, endpoint)
        path, _, reference = path.rpartition("/")
        endpoint = self._simulator.endpoints.legacy(path)
        if endpoint is None or request.method != "GET":
            raise ApiError(1202)
        self._count_query(reference)
        task = self._simulator.find(reference, endpoint)
        if task is None:
            raise ApiError(1203, "task not found")
        status = self._simulator.status(task)
        return self._success([status] if self._triggers("listed") else status)

    async def create_new(self, request: Request) -> Response:
        """Create a task of the new generation, with the model in the path."""
        endpoint = self._simulator.endpoints.new(request.path_params["capability"], request.path_params["model"])
        if endpoint is None:
            raise ApiError(1202)
        return await self._create(request, endpoint)

    async def query_new(self, request: Request) -> Response:
        """Return up to twenty tasks of the new generation; unknown ones are omitted."""
        by_id, by_external_id = (request.query_params.get(name, "") for name in ("task_ids", "external_task_ids"))
        ids = by_id or by_external_id
        references = [part for part in ids.split(",") if part]
        if not 1 <= len(references) <= _MAX_QUERY_IDS:
            raise ApiError(1201, f"task_ids or external_task_ids must name 1 to {_MAX_QUERY_IDS} tasks")
        self._count_query(ids)
        lookup = self._simulator.by_id if by_id else self._simulator.by_external_id
        found = (lookup(reference) for reference in dict.fromkeys(references))
        return self._success(
            [self._simulator.status(task) for task in found if task is not None and task.endpoint.is_new]
        )

    async def list_new(self, request: Request) -> Response:
        """Return a page of the new generation's tasks, newest first, with a cursor to the next page."""
        body = await _read_object(request)
        limit, cursor = body.get("limit", 30), body.get("cursor") or "0"
        if not isinstance(limit, int) or not 1 <= limit <= _MAX_PAGE_SIZE or not str(cursor).isdigit():
            raise ApiError(1201, "limit or cursor is invalid")
        self._simulator.counts["lists"] += 1
        start = int(cursor)
        page = list(islice(self._simulator.newest(), start, start + limit + 1))
        has_more = len(page) > limit
        statuses = [self._simulator.status(task) for task in page[:limit]]
        after = str(start + limit) if has_more else ""
        return self._success({"result": statuses, "count": len(statuses), "next_cursor": after, "has_more": has_more})

    async def ledger(self, request: Request) -> Response:
        """Return a page of the account's ledger of units or of money."""
        ledger = request.path_params["ledger"]
        if ledger not in (UNITS, CASH):
            raise ApiError(1202)
        return self._success(self._simulator.ledgers.page(ledger, await _read_object(request)))

    async def packs(self, _request: Request) -> Response:
        """Return the account's packs."""
        return self._success(self._simulator.ledgers.packs())

    async def result(self, request: Request) -> Response:
        """Return a result file while its URL is valid."""
        task_id, name = request.path_params["task_id"], request.path_params["name"]
        found = self._simulator.results.fetch(task_id, name, request.query_params, at=self._simulator.clock.now())
        if found is None:
            return Response("this URL is invalid or has expired\n", status_code=403, media_type="text/plain")
        self._simulator.counts["results"] += 1
        return Response(found[0], media_type=found[1])

    async def state(self, _request: Request) -> Response:
        """Return all recorded tasks, creates and callbacks."""
        return Response(encode(self._simulator.state()), media_type="application/json")

    async def faults(self, request: Request) -> Response:
        """Return, set or end the faults."""
        if request.method == "DELETE":
            self._simulator.active_faults.clear()
        elif request.method == "POST":
            try:
                self._simulator.configure(await _read_object(request))
            except (ApiError, ValueError) as exc:
                return JSONResponse({"error": str(exc)}, status_code=400)
        return JSONResponse(self._simulator.current_settings())

    async def test_push(self, request: Request) -> Response:
        """Send the console's test callback to a URL."""
        try:
            url = (await _read_object(request)).get("url")
        except ApiError as exc:
            return JSONResponse({"error": str(exc)}, status_code=400)
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            return JSONResponse({"error": "url must be an http or https URL"}, status_code=400)
        return JSONResponse(self._simulator.send_test(url), status_code=202)

    async def _create(self, request: Request, endpoint: Endpoint) -> Response:
        entry = self._add_entry(endpoint)
        try:
            task, body = await self._create_task(request, endpoint, entry)
        except ApiError as refusal:
            self._record_answer(entry, status=refusal.status, code=refusal.code)
            raise
        except ErrorInjected as denied:
            status, code, _ = _status_code_message(denied.error)
            self._record_answer(entry, status=status, code=code)
            raise
        except HungUp:
            self._record_answer(entry, status=None, code=None)
            raise
        answer = self._success(body)
        self._record_answer(entry, status=200, code=0)
        entry["answered_after_told"] = task.callbacks_done.is_set()
        return answer

    async def _create_task(self, request: Request, endpoint: Endpoint, entry: Json) -> tuple[Task, Json]:
        simulator, board = self._simulator, self._simulator.active_faults
        body = await _read_object(request)
        entry["body"] = truncate_texts(body)
        simulator.check_rate()
        denial = board.next_error("refuse", simulator.request_rng)
        if denial is not None and not denial.created:
            raise ErrorInjected(denial)
        if self._triggers("lose"):
            raise HungUp
        task = simulator.create(endpoint, body)
        entry["task_id"] = task.id
        if denial is not None:
            raise ErrorInjected(denial)
        if board.triggers("hang_up", task.rng):
            raise HungUp
        now = simulator.clock.now()
        if board.triggers("late", task.rng):
            await simulator.clock.wait(simulator.stopping, until=now + board.current.late_by)
        if board.triggers("after_callback", task.rng):
            await self._wait_for_callbacks(task)
        return task, simulator.status(task) if endpoint.is_synchronous else summary(task)

    async def _wait_for_callbacks(self, task: Task) -> None:
        waits = [
            asyncio.ensure_future(task.callbacks_done.wait()),
            asyncio.ensure_future(self._simulator.stopping.wait()),
        ]
        try:
            await asyncio.wait(waits, timeout=_MAX_WAIT.total_seconds(), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _add_entry(self, endpoint: Endpoint) -> Json:
        self._simulator.counts["creates"] += 1
        at = millis(self._simulator.clock.now())
        entry: Json = {"at": at, "endpoint": endpoint.path, "body": None, "task_id": None, "status": None, "code": None}
        self._simulator.creates.append(entry)
        return entry

    def _record_answer(self, entry: Json, *, status: int | None, code: int | None) -> None:
        entry["status"], entry["code"] = status, code
        self._simulator.observe(
            "create.answered", endpoint=entry["endpoint"], task_id=entry["task_id"], status=status, code=code
        )

    def _list(self, request: Request, endpoint: Endpoint) -> Response:
        try:
            number, size = int(request.query_params.get("pageNum", 1)), int(request.query_params.get("pageSize", 30))
        except ValueError:
            raise ApiError(1201, "pageNum and pageSize must be integers") from None
        if not (1 <= number <= _MAX_PAGE and 1 <= size <= _MAX_PAGE_SIZE):
            raise ApiError(1201, f"pageNum is from 1 to {_MAX_PAGE}, pageSize from 1 to {_MAX_PAGE_SIZE}")
        self._simulator.counts["lists"] += 1
        start = (number - 1) * size
        page = islice(self._simulator.newest(endpoint), start, start + size)
        return self._success([self._simulator.status(task) for task in page])

    def _count_query(self, reference: str) -> None:
        self._simulator.counts["queries"] += 1
        self._simulator.observe("task.queried", reference=reference)
        denial = self._simulator.active_faults.next_error("refuse_queries", self._simulator.request_rng)
        if denial is not None:
            raise ErrorInjected(denial)

    def _with_auth(self, handler: Handler) -> Handler:
        """Check the key first, and turn what a handler raises into Kling's answers."""

        async def guarded(request: Request) -> Response:
            simulator = self._simulator
            try:
                is_new = not request.url.path.removeprefix("/kling").startswith("/v1/")
                key = request.headers.get("authorization", "")
                check_key(key, simulator.options, now=simulator.clock.now(), is_new=is_new)
                return await handler(request)
            except ApiError as refusal:
                return self._error(refusal.status, refusal.code, refusal.message)
            except ErrorInjected as denied:
                return self._injected_error(denied.error)
            except HungUp:
                return await _hang_up(request)

        return guarded

    def _injected_error(self, error: InjectedError) -> Response:
        status, code, message = _status_code_message(error)
        if code is None:
            answer: Response = HTMLResponse(f"<html><body><h1>{status}</h1></body></html>", status_code=status)
        else:
            answer = self._error(status, code, message)
        if error.retry_after is not None:
            answer.headers["retry-after"] = str(error.retry_after)
        return answer

    def _success(self, data: object) -> Response:
        return Response(encode(envelope(self._simulator.new_request_id(), data)), media_type="application/json")

    def _error(self, status: int, code: int, message: str) -> Response:
        around = envelope(self._simulator.new_request_id(), code=code, message=message)
        return Response(encode(around), status_code=status, media_type="application/json")

    async def _no_such_method(self, _request: Request, _exc: Exception) -> Response:
        refusal = ApiError(1202)
        return self._error(refusal.status, refusal.code, refusal.message)

    def _triggers(self, name: str) -> bool:
        return self._simulator.active_faults.triggers(name, self._simulator.request_rng)


def _status_code_message(error: InjectedError) -> tuple[int, int | None, str]:
    if error.code < _MIN_KLING_CODE:
        return error.code, None, ""
    refusal = ApiError(error.code)
    return refusal.status, refusal.code, refusal.message


async def _read_object(request: Request) -> Json:
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > _MAX_BODY:
            raise ApiError(1200, "the body is too large")
    try:
        read = json.loads(content)
    except (ValueError, RecursionError):
        raise ApiError(1200, "the body is not JSON") from None
    if not isinstance(read, dict):
        raise ApiError(1200, "the body is not a JSON object")
    return read


async def _hang_up(request: Request) -> Response:
    """Close the connection; the returned answer is never sent."""
    request.scope["state"][HANG_UP]()
    while (await request.receive())["type"] != "http.disconnect":
        pass
    return Response(status_code=500)
