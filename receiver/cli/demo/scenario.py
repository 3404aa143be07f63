"""What happens in the demo, in order. Everything told was seen: by the simulator, the sink, or the service's API."""

import json
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from queue import Empty, Queue
from threading import Event, Thread
from time import perf_counter, sleep
from typing import IO, TypeAlias

from receiver.cli.demo.output import Teller
from receiver.cli.demo.sandbox import DemoFailed, Stage, environment
from receiver.cli.demo.steps import Plot
from receiver.cli.demo.webhook_sink import CLIENT_PATH, Arrival, Sink
from receiver.client import SyncClient
from receiver.client.event_cursor import BEFORE_ALL
from receiver.domain.clock import SystemClock
from receiver.domain.errors import ServiceUnreachable
from receiver.domain.model import Json
from receiver.settings import load

ENDPOINT = "images/multi-image2image"

_SIMULATOR = ("--json", "--push-submitted", "--submitted-for", "400ms", "--processing-for", "800ms")
_PATIENCE_SECONDS = 30.0
_GLANCE_SECONDS = 0.03

_JOB: Json = {
    "model_name": "kling-v2-1",
    "prompt": "the two of them in a paper boat, watercolour",
    "subject_image_list": [
        {"subject_image": "https://example.com/cat.png"},
        {"subject_image": "https://example.com/dog.png"},
    ],
    "n": 1,
    "aspect_ratio": "16:9",
}

_News: TypeAlias = "Queue[Callable[[Plot], None]]"


@contextmanager
def play(stage: Stage, teller: Teller) -> Iterator[SyncClient]:
    """Play the whole story; while the caller stays inside, everything is still running."""
    deadline = perf_counter() + _PATIENCE_SECONDS
    news: _News = Queue()
    teller.open("One job's round trip on this machine: a simulated Kling, the receiver, a webhook, a script.")
    with ExitStack() as running:
        sink = running.enter_context(_sink(stage, news))
        kling = stage.start_telling("simulator", "simulate", *_SIMULATOR, "--listen", f"127.0.0.1:{stage.ports.kling}")
        stage.start("receiver", "serve", "--config", str(stage.config))
        started = _hear_simulator(kling, news)
        client = running.enter_context(_reach_receiver(stage, deadline))
        _wait_for(started, stage, deadline, "the simulator to start")
        _hear_receiver(client, news)
        _tell_ready(stage, teller)
        simulator = running.enter_context(SyncClient(f"http://127.0.0.1:{stage.ports.kling}", "any"))
        plot = Plot(client=client, kling=simulator, teller=teller)
        _submit(plot, callback_url=sink.url + CLIENT_PATH)
        _follow(plot, news, stage, deadline)
        teller.close("Done. Webhook and script both have the succeed.", kling_id=plot.kling_id, event=plot.event_id)
        yield client


def keep_running(stage: Stage, teller: Teller, admin_url: str) -> None:
    """Say what is running where and what to try, and leave it alone until Ctrl-C."""
    places = {
        "gateway": f"{admin_url}/kling",
        "api": f"{admin_url}/api/tasks",
        "simulator": f"http://127.0.0.1:{stage.ports.kling}",
        "token": str(stage.folder / "admin-token"),
        "config": str(stage.config),
        "output": str(stage.output),
        "log": str(stage.log("receiver")),
    }
    ours = called_as()
    commands = [
        f"export KLING_RECEIVER_CONFIG={stage.config}",
        f"{ours} tasks list",
        f"{ours} deliveries list",
        f"{ours} submit {ENDPOINT} --set prompt='a boat' --image https://example.com/cat.png --wait",
        f"tail -f {stage.output}",
    ]
    teller.leave(places, commands)
    while True:
        stage.check()
        sleep(0.5)


def called_as() -> str:
    """Write the command as a person calls it here: by its name alone only where a shell would find it by that."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m receiver"
    found = shutil.which(called.name)
    by_name = found is not None and Path(found).absolute() == called.absolute()
    return shlex.quote(called.name if by_name else sys.argv[0])


@contextmanager
def _sink(stage: Stage, news: _News) -> Iterator[Sink]:
    def tell(arrival: Arrival) -> None:
        news.put(partial(Plot.sink_got, arrival=arrival))

    try:
        sink = Sink(port=stage.ports.sink, secret=stage.secret, clock=SystemClock(), tell=tell)
    except OSError as exc:
        raise DemoFailed(
            f"Port {stage.ports.sink} cannot be used: {exc.strerror}.", remedy="Use another --port."
        ) from exc
    with sink:
        yield sink


def _hear_simulator(lines: IO[bytes], news: _News) -> Callable[[], bool]:
    """Read what the simulator tells, on a thread; give what says whether it has started."""
    started = Event()

    def listen() -> None:
        for line in lines:
            what: Json = json.loads(line)
            started.set()
            news.put(partial(Plot.simulator_did, what=what))

    Thread(target=listen, name="simulator's lines", daemon=True).start()
    return started.is_set


def _hear_receiver(client: SyncClient, news: _News) -> None:
    """Read the service's events, from the first one on, on a thread."""

    def listen() -> None:
        with suppress(ServiceUnreachable):  # the story is over
            for event in client.events(after=BEFORE_ALL):
                news.put(partial(Plot.receiver_told, event=event))

    Thread(target=listen, name="events", daemon=True).start()


@contextmanager
def _reach_receiver(stage: Stage, deadline: float) -> Iterator[SyncClient]:
    """Reach the receiver as soon as it is ready."""
    settings = load(stage.config, environment()).settings
    token_file = settings.data_dir / "admin-token"
    _wait_for(token_file.exists, stage, deadline, "the receiver to make its admin token")
    with SyncClient(f"http://{settings.admin.listen}", token_file.read_text("utf-8").strip()) as client:

        def ready() -> bool:
            try:
                client.get("/api/routes")
            except ServiceUnreachable:
                return False
            return True

        _wait_for(ready, stage, deadline, "the receiver to be ready")
        yield client


def _tell_ready(stage: Stage, teller: Teller) -> None:
    ports = stage.ports
    teller.step(
        "ready",
        "Ready",
        f"Kling (simulated) on port {ports.kling}, the receiver on {ports.public} (public) and {ports.admin} (admin)",
        ports={"kling": ports.kling, "public": ports.public, "admin": ports.admin, "sink": ports.sink},
    )


def _submit(plot: Plot, *, callback_url: str) -> None:
    """Submit as a client does that changed nothing but its base URL and its key."""
    answer = plot.client.post(f"/kling/v1/{ENDPOINT}", _JOB | {"callback_url": callback_url})
    plot.kling_id = str(answer["data"]["task_id"])
    plot.teller.step(
        "submitted",
        "Job submitted",
        f"POST /kling/v1/{ENDPOINT}, Kling's id {plot.kling_id}",
        endpoint=ENDPOINT,
        kling_id=plot.kling_id,
    )


def _follow(plot: Plot, news: _News, stage: Stage, deadline: float) -> None:
    while plot.missing:
        stage.check()
        if perf_counter() > deadline:
            waits = ", ".join(plot.missing)
            raise DemoFailed(f"After {_PATIENCE_SECONDS:.0f} s still missing: {waits}.{stage.last_words('receiver')}")
        try:
            news.get(timeout=_GLANCE_SECONDS)(plot)
        except Empty:
            if plot.event_id:
                plot.look_at_deliveries()


def _wait_for(fact: Callable[[], bool], stage: Stage, deadline: float, what: str) -> None:
    while not fact():
        stage.check()
        if perf_counter() > deadline:
            raise DemoFailed(f"Waited {_PATIENCE_SECONDS:.0f} s for {what}.{stage.last_words('receiver')}")
        sleep(_GLANCE_SECONDS)
