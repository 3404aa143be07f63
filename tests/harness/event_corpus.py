"""Events as they are stored: bodies of all endpoints and states, with the envelopes that the receiver makes."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from random import Random

from harness.clock import FakeClock

from receiver.domain.clock import Ids
from receiver.domain.model import Asset, Json, Origin, Source, Task, TaskState, Verification
from receiver.events.factory import EventFactory
from receiver.events.payload import result_urls, with_assets
from receiver.events.routing import RouteTable
from receiver.kling import protocol
from receiver.kling.simulator import tasks as simulated
from receiver.kling.simulator.endpoints import CAPABILITIES, LEGACY, Endpoint

_HOSTS = (
    "https://p1.a.kwimgs.com/bs2/upload-ylab-stunt/special-effect/output/HB1_PROD_ai_web_{number}/{word}/",
    "https://v15-kling.klingai.com/bs2/upload-ylab-stunt-sgp/se/ai_portal_queue_mmu_{word}/",
    "https://cdn.klingai.com/bs2/upload-kling-api/{number}/{word}/",
    "https://{word}.example.net/files/{number}/",
)
_QUERIES = ("", "", "?x-kcdn-pid={number}", "?x-expires={number}&x-signature={word}{word}")
_MODELS = ("kling-v2-1", "kling-v2-6", "kling-3.0-turbo", "kling-v3")
_REASONS = (
    "Failure to pass the risk control system",
    "The content violates the content safety policy.",
    "Service is busy, please try again later",
)
_ENDPOINTS = [endpoint for endpoint in LEGACY.values() if not endpoint.is_synchronous] + [
    Endpoint(path=f"{name}/{model}", result_kinds=kinds, pack=None, is_new=True)
    for (name, kinds), model in zip(CAPABILITIES.items(), _MODELS * len(CAPABILITIES), strict=False)
]
_COMMON = [
    LEGACY[path]
    for path in ("images/generations", "images/multi-image2image", "videos/text2video", "videos/image2video")
]
_STATUSES = (simulated.SUBMITTED, simulated.PROCESSING, simulated.SUCCEED, simulated.SUCCEED, simulated.FAILED)
_ALERTS = ("route_held", "delivery_dead", "callbacks_missed", "task_stuck", "disk_low", "budget_reached")


class _SteppingClock(FakeClock):
    """A fake clock of which each look is up to half a minute later than the last one."""

    def __init__(self, rng: Random) -> None:
        super().__init__()
        self._rng = rng

    def now(self) -> datetime:
        self.set_forward(timedelta(microseconds=self._rng.randrange(30_000_000)))
        return super().now()


class EventCorpus:
    """A stream of events that depends on nothing but its *seed*."""

    def __init__(self, seed: int) -> None:
        self._rng = Random(seed)
        self._clock = _SteppingClock(self._rng)
        self._ids = Ids(self._clock, self._rng.randbytes)
        self._factory = EventFactory(RouteTable(()), self._ids)

    def pairs(self, count: int) -> Iterator[tuple[bytes, bytes]]:
        """Yield envelopes and bodies of events. The body of an alert is empty."""
        for number in range(count):
            yield self._alert() if number % 50 == 0 else self._event()

    def answers(self, count: int) -> Iterator[bytes]:
        """Yield answers of the API about a task."""
        for _ in range(count):
            task, status = self._new_task(), self._rng.choice(_STATUSES)
            data = self._rendered(task, status)
            yield simulated.encode(simulated.envelope(self._word(32), [data] if task.endpoint.is_new else data))

    def _event(self) -> tuple[bytes, bytes]:
        made, status = self._new_task(), self._rng.choice(_STATUSES)
        body = simulated.encode(self._rendered(made, status))
        report = protocol.parse_status(body)
        task = self._stored(made, report.state or TaskState.PROCESSING, message=report.message)
        source = self._rng.choice((Source.CALLBACK, Source.CALLBACK, Source.CALLBACK, Source.POLL))
        is_poll = source is Source.POLL
        verified = Verification.API if is_poll else self._rng.choice((Verification.NONE, Verification.SIGNATURE))
        event = self._factory.task_event(
            task, report, body, source=source, verified=verified, at=self._clock.now()
        ).event
        if self._rng.random() < 0.2 and (urls := result_urls(report.result)):
            return with_assets(
                event.envelope, [self._asset(task, number, url) for number, url in enumerate(urls)]
            ), body
        return event.envelope, body

    def _alert(self) -> tuple[bytes, bytes]:
        task = self._stored(self._new_task(), TaskState.PROCESSING, message="")
        data: Json = {"alert": self._rng.choice(_ALERTS), "message": "A task", "remedy": "Check", "route": "publish"}
        return self._factory.alert(data["alert"], data, at=self._clock.now(), task=task).event.envelope, b""

    def _asset(self, task: Task, number: int, url: str) -> Asset:
        path = f"archive/2026-11/{task.id}/{number}.{url.partition('?')[0].rpartition('.')[2]}"
        digest, size = self._rng.randbytes(32), self._rng.randrange(1 << 24)
        content_type = "video/mp4" if path.endswith("mp4") else "image/png"
        return Asset(number=number, url=url, path=path, sha256=digest, size=size, content_type=content_type)

    def _new_task(self) -> simulated.Task:
        endpoint = self._rng.choice(self._rng.choice((_COMMON, _ENDPOINTS)))
        id_ = self._word(22) if self._rng.random() < 0.1 else self._number(18)
        own_id = self._rng.choice(("", self._ids.new("tsk"), f"shot-{self._number(3)}"))
        body: Json = {"n": self._rng.choice((1, 1, 1, 4)), "element_name": "hero", "voice_name": "narrator"}
        if self._rng.random() < 0.1:
            body["watermark_info"] = {"enabled": True}
        at = self._clock.now()
        return simulated.Task(
            id=id_,
            shown_id=id_,
            endpoint=endpoint,
            body=body,
            external_task_id=own_id,
            callback_url=None,
            rng=self._rng,
            created_at=at,
            update=simulated.TaskUpdate(status=simulated.SUBMITTED, at=at),
        )

    def _rendered(self, task: simulated.Task, status: str) -> Json:
        is_success = status == simulated.SUCCEED
        result = simulated.make_result(task.endpoint, task.body, task.id, self._url()) if is_success else None
        message = self._rng.choice(_REASONS) if status == simulated.FAILED else ""
        update = simulated.TaskUpdate(status=status, at=self._clock.now(), message=message, result=result)
        return simulated.render(task, update, shown_id=task.id)

    def _url(self) -> simulated.UrlOf:
        """Return a function that maps the names of one task's files to URLs."""
        number, word = self._number(19), self._word(32)
        start, end = (part.format(number=number, word=word) for part in self._rng.choice(_PLACES))
        return lambda name: f"{start}{name}{end}"

    def _stored(self, task: simulated.Task, state: TaskState, *, message: str) -> Task:
        is_minted = self._rng.random() < 0.2
        has_names = self._rng.random() < 0.3
        return Task(
            id=self._ids.new("tsk"),
            origin=Origin.MINTED if is_minted else Origin.API,
            state=state,
            created_at=task.created_at,
            updated_at=task.created_at,
            endpoint=None if is_minted else task.endpoint.path,
            label=f"scene {self._number(2)}" if has_names else None,
            tags={"client": "acme", "project": f"p{self._number(2)}"} if has_names else {},
            batch=f"batch-{self._number(3)}" if self._rng.random() < 0.1 else None,
            kling_id=task.id,
            external_task_id=task.external_task_id or None,
            message=message,
        )

    def _number(self, digits: int) -> str:
        return "".join(self._rng.choices("0123456789", k=digits))

    def _word(self, letters: int) -> str:
        return "".join(self._rng.choices("0123456789abcdef", k=letters))


_PLACES = [(host, query) for host in _HOSTS for query in _QUERIES]
