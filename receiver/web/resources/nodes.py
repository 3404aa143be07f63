"""The nodes over HTTP."""

from collections.abc import Awaitable, Callable, Sequence

from starlette.requests import Request
from starlette.responses import Response

from receiver.domain.api_schema.json_object import Page
from receiver.domain.api_schema.resources import Node
from receiver.web import serializers
from receiver.web.api_requests import NoQuery
from receiver.web.params import read_query

ListNodes = Callable[[], Awaitable[Sequence[Node]]]
"""Returns the processes that use the database, by name."""


class NodeApi:
    """Answers ``/api/nodes``."""

    def __init__(self, list_nodes: ListNodes) -> None:
        self._list_nodes = list_nodes

    async def list(self, request: Request) -> Response:
        """List the processes that use the database, with their duties."""
        read_query(request, NoQuery)
        return serializers.json_response(Page(items=await self._list_nodes(), next=None))
