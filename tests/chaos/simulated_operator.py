"""An operator who holds routes, retries, replays and cancels at random times."""

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from random import Random
from typing import Any

from chaos.clients import Clients
from chaos.oracle import Oracle
from chaos.simulated_host import AsgiResponse

_RETRY_SECONDS = 60.0
_LATE_SECONDS = 120.0
_HOUR = 3600.0
_RECENT = 40
_NEWEST = 5
_ALLOWED_ERRORS = (404, 409)


class Operator:
    """Acts on what exists. Every action that was accepted must take effect."""

    def __init__(self, rng: Random, clients: Clients, oracle: Oracle, *, routes: list[str], pace: float = 1.0) -> None:
        """*pace* is how many times shorter than usual routes are held."""
        self._rng = rng
        self._clients = clients
        self._oracle = oracle
        self._routes = routes
        self._pace = pace
        self._releasing = Counter[str]()

    async def hold_route(self) -> None:
        """Hold a route for some hours, then release it."""
        route = self._rng.choice(self._routes)
        if await self._request(f"/api/routes/{route}/hold", {"why": "to look at it"}) is None:
            return
        if not self._releasing[route]:
            self._oracle.held_routes[route] = asyncio.get_running_loop().time()
        await asyncio.sleep(_HOUR * self._rng.expovariate(1 / 3) / self._pace)
        await self._release(route)

    async def _release(self, route: str) -> None:
        """Release a route. A request without an answer may take effect later, also after another hold."""
        self._releasing[route] += 1
        self._oracle.held_routes.pop(route, None)
        is_late = False
        while await self._request(f"/api/routes/{route}/release", {}) is None:
            is_late = True
            await asyncio.sleep(_RETRY_SECONDS)
        await asyncio.sleep(_LATE_SECONDS if is_late else 0)
        self._releasing[route] -= 1

    async def retry_delivery(self) -> None:
        """Retry a delivery of any status."""
        found = self._oracle.rows("SELECT id FROM deliveries ORDER BY id DESC LIMIT ?", _RECENT)
        if found:
            answer = await self._request(f"/api/deliveries/{self._rng.choice(found)[0]}/retry", {})
            if answer is not None:
                self._oracle.retried_deliveries.append(json.loads(answer.body)["id"])

    async def replay(self) -> None:
        """Replay a route's dead deliveries, or all of its recent events."""
        wish: dict[str, Any] = {"route": self._rng.choice(self._routes)}
        if self._rng.random() < 0.5:
            wish["status"] = ["dead"]
        else:
            recent = self._oracle.rows("SELECT event_id FROM deliveries ORDER BY id DESC LIMIT ?", _RECENT)
            wish["events"] = sorted({event_id for (event_id,) in recent})
        if self._rng.random() < 0.5:
            wish["pace"] = "6/m"
        answer = await self._request("/api/replays", wish)
        if answer is not None:
            self._oracle.replays.append(json.loads(answer.body)["id"])

    async def cancel_task(self) -> None:
        """Cancel a queued task, sometimes another one."""
        waiting = self._oracle.rows("SELECT id FROM tasks WHERE state = 'queued'")
        newest = self._oracle.rows("SELECT id FROM tasks ORDER BY id DESC LIMIT ?", _NEWEST)
        chosen = waiting if waiting and self._rng.random() < 0.8 else newest
        if not chosen:
            return
        [task_id] = self._rng.choice(chosen)
        if await self._request(f"/api/tasks/{task_id}/cancel", {"why": "a typo"}) is not None:
            self._oracle.cancelled.append(task_id)

    async def _request(self, path: str, body: Mapping[str, Any]) -> AsgiResponse | None:
        """Send a command and return the answer if it was accepted. Record commands that were neither accepted nor
        refused."""
        answer = await self._clients.request("admin", path, body)
        if answer is None or answer.status >= 500:
            return None
        done = answer.status < 300
        if not done and answer.status not in _ALLOWED_ERRORS:
            self._oracle.report(f"an operator's {path} {body} was answered {answer.status}: {answer.body!r}")
        self._oracle.counts["operator actions" if done else "operator actions refused"] += 1
        return answer if done else None
