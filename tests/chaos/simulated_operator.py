"""A person who means well: holds routes, tries again, replays and cancels, at any moment."""

import asyncio
import json
from collections.abc import Mapping
from random import Random
from typing import Any

from chaos.clients import Callers
from chaos.oracle import Witness
from chaos.simulated_host import Answer

_AGAIN = 60.0
_HOUR = 3600.0
_RECENT = 40
_NEWEST = 5
_REFUSALS = (404, 409)


class Person:
    """Works on what is there; what was said to be done must have been."""

    def __init__(self, rng: Random, callers: Callers, witness: Witness, *, routes: list[str]) -> None:
        self._rng = rng
        self._callers = callers
        self._witness = witness
        self._routes = routes

    async def hold_a_route(self) -> None:
        """Hold a route for some hours, and release it for certain."""
        route = self._rng.choice(self._routes)
        if await self._say(f"/api/routes/{route}/hold", {"why": "to look at it"}) is None:
            return
        self._witness.held[route] = asyncio.get_running_loop().time()
        await asyncio.sleep(_HOUR * self._rng.expovariate(1 / 3))
        self._witness.held.pop(route, None)
        released = await self._say(f"/api/routes/{route}/release", {})
        while released is None:
            await asyncio.sleep(_AGAIN)
            released = await self._say(f"/api/routes/{route}/release", {})

    async def try_again(self) -> None:
        """Have some delivery tried now, whatever has become of it."""
        found = self._witness.rows("SELECT id FROM deliveries ORDER BY id DESC LIMIT ?", _RECENT)
        if found:
            answer = await self._say(f"/api/deliveries/{self._rng.choice(found)[0]}/retry", {})
            if answer is not None:
                self._witness.deliveries.append(json.loads(answer.body)["id"])

    async def replay(self) -> None:
        """Bring out again what is dead in a route, or all that went there of late."""
        wish: dict[str, Any] = {"route": self._rng.choice(self._routes)}
        if self._rng.random() < 0.5:
            wish["status"] = ["dead"]
        else:
            recent = self._witness.rows("SELECT event_id FROM deliveries ORDER BY id DESC LIMIT ?", _RECENT)
            wish["events"] = sorted({event_id for (event_id,) in recent})
        if self._rng.random() < 0.5:
            wish["pace"] = "6/m"
        answer = await self._say("/api/replays", wish)
        if answer is not None:
            self._witness.replays.append(json.loads(answer.body)["id"])

    async def cancel(self) -> None:
        """Cancel what waits, or at times what does not."""
        waiting = self._witness.rows("SELECT id FROM tasks WHERE state = 'queued'")
        newest = self._witness.rows("SELECT id FROM tasks ORDER BY id DESC LIMIT ?", _NEWEST)
        chosen = waiting if waiting and self._rng.random() < 0.8 else newest
        if not chosen:
            return
        [task_id] = self._rng.choice(chosen)
        if await self._say(f"/api/tasks/{task_id}/cancel", {"why": "a typo"}) is not None:
            self._witness.cancelled.append(task_id)

    async def _say(self, path: str, body: Mapping[str, Any]) -> Answer | None:
        """Say something; give the answer where it was done, and take down what is neither done nor refused."""
        answer = await self._callers.call("admin", path, body)
        if answer is None or answer.status >= 500:
            return None
        done = answer.status < 300
        if not done and answer.status not in _REFUSALS:
            self._witness.tell(f"a person's {path} {body} was answered {answer.status}: {answer.body!r}")
        self._witness.counts["deeds of a person" if done else "deeds refused"] += 1
        return answer if done else None
