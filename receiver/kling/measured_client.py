"""A client of Kling that counts and times its calls."""

import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus

from receiver.domain.errors import KlingError, KlingRefusal
from receiver.domain.metrics import Metrics
from receiver.domain.model import StatusReport
from receiver.kling.client import KlingClient, KlingResponse, ResponseWriter
from receiver.kling.error_codes import is_documented
from receiver.kling.pass_through import NO_PASS_THROUGH, PassThrough
from receiver.net.http_client import BeforeSend, StreamedBody

_OK = "ok"


class _Call:
    """One call in progress; ``code`` is the label of its end."""

    code = _OK

    def end(self, response: KlingResponse | None) -> None:
        """Take the code from a response; None is an answer that the task does not exist."""
        if response is not None and response.error is not None:
            self.code = code_of(response.error)


class MeasuredKlingClient:
    """Calls Kling through *client*. Each call is one operation, even if it takes several requests."""

    def __init__(self, client: KlingClient, metrics: Metrics) -> None:
        self._client = client
        self._metrics = metrics

    async def create(
        self,
        endpoint: str,
        content: bytes,
        *,
        pass_through: PassThrough = NO_PASS_THROUGH,
        before_send: BeforeSend | None = None,
    ) -> KlingResponse:
        """Create a task. *before_send* is awaited directly before the request leaves."""
        with self._measured("create") as call:
            response = await self._client.create(endpoint, content, pass_through=pass_through, before_send=before_send)
            call.end(response)
            return response

    async def query(self, endpoint: str, task_id: str) -> KlingResponse:
        """Query a task."""
        with self._measured("query") as call:
            response = await self._client.query(endpoint, task_id)
            call.end(response)
            return response

    async def query_batch(self, endpoint: str, task_ids: Sequence[str]) -> Mapping[str, KlingResponse]:
        """Query several tasks in one call."""
        with self._measured("query"):
            return await self._client.query_batch(endpoint, task_ids)

    async def find_by_external_id(self, endpoint: str, external_task_id: str) -> KlingResponse | None:
        """Look a task up by its external id."""
        with self._measured("lookup") as call:
            response = await self._client.find_by_external_id(endpoint, external_task_id)
            call.end(response)
            return response

    async def list_newest(self, endpoint: str) -> Sequence[StatusReport] | None:
        """List the newest tasks of an endpoint."""
        with self._measured("list"):
            return await self._client.list_newest(endpoint)

    async def call(self, method: str, path: str, content: bytes = b"") -> bytes:
        """Call a path that is about the account."""
        with self._measured("account"):
            return await self._client.call(method, path, content)

    async def forward(
        self,
        method: str,
        path: str,
        content: bytes | StreamedBody,
        pass_through: PassThrough,
        *,
        write_response: ResponseWriter,
    ) -> None:
        """Forward a client's call. Its answer is not read, so its code is the class of its HTTP status."""
        with self._measured("forward") as call:

            async def write(status: int, headers: Mapping[str, str], chunks: AsyncIterator[bytes]) -> None:
                if status >= HTTPStatus.BAD_REQUEST:
                    call.code = f"http_{min(status // 100, 5)}xx"
                await write_response(status, headers, chunks)

            await self._client.forward(method, path, content, pass_through, write_response=write)

    @contextmanager
    def _measured(self, operation: str) -> Iterator[_Call]:
        call, began = _Call(), time.perf_counter()
        try:
            yield call
        except KlingError as exc:
            self._record(operation, code_of(exc), began)
            raise
        self._record(operation, call.code, began)

    def _record(self, operation: str, code: str, began: float) -> None:
        self._metrics.kling_requests.add(operation, code)
        self._metrics.kling_request_seconds.observe(time.perf_counter() - began)


def code_of(error: KlingError) -> str:
    """Return the label of an error: Kling's number if it is a known one, else our own code."""
    if isinstance(error, KlingRefusal) and is_documented(error.kling_code):
        return str(error.kling_code)
    return error.code
