"""The demo's steps, in order. Each printed step was observed by the simulator, the sink, or the service's API."""

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

from receiver.cli.demo.more_jobs import submit_more
from receiver.cli.demo.output import DemoOutput
from receiver.cli.demo.sandbox import DemoFailed, Sandbox, clean_environment
from receiver.cli.demo.steps import DemoProgress
from receiver.cli.demo.webhook_sink import CLIENT_PATH, ReceivedRequest, WebhookSink
from receiver.client import SyncClient
from receiver.domain.clock import BEFORE_ALL_EVENTS, SystemClock
from receiver.domain.errors import ServiceUnreachable
from receiver.domain.model import Json
from receiver.service.admin_token import TOKEN_FILE
from receiver.settings import load

ENDPOINT = "images/multi-image2image"

_SIMULATOR = ("--json", "--push-submitted", "--submitted-for", "400ms", "--processing-for", "800ms")
_TIMEOUT_SECONDS = 30.0
_POLL_SECONDS = 0.03

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

_Updates: TypeAlias = "Queue[Callable[[DemoProgress], None]]"


@contextmanager
def run_scenario(sandbox: Sandbox, output: DemoOutput) -> Iterator[SyncClient]:
    """Run the whole scenario. Everything keeps running while the context is open."""
    deadline = perf_counter() + _TIMEOUT_SECONDS
    updates: _Updates = Queue()
    output.introduce("The round trip of one job on this machine: a simulated Kling, the receiver, a webhook, a script.")
    with ExitStack() as running:
        sink = running.enter_context(_webhook_sink(sandbox, updates))
        kling = sandbox.start_with_output(
            "simulator", "simulate", *_SIMULATOR, "--listen", f"127.0.0.1:{sandbox.ports.kling}"
        )
        has_started = _read_simulator(kling, updates)
        sandbox.start("receiver", "serve", "--config", str(sandbox.config))
        client = running.enter_context(_connect_receiver(sandbox, deadline))
        _wait_for(has_started, sandbox, deadline, "the simulator to start")
        _read_events(client, updates)
        _report_ready(sandbox, output)
        simulator = running.enter_context(SyncClient(f"http://127.0.0.1:{sandbox.ports.kling}", "any"))
        progress = DemoProgress(client=client, kling=simulator, output=output)
        _submit(progress, callback_url=sink.url + CLIENT_PATH)
        _follow_until_complete(progress, updates, sandbox, deadline)
        output.finish(
            "Done. The webhook and the script both received the result.",
            kling_id=progress.kling_id,
            event=progress.event_id,
        )
        yield client


def keep_running(sandbox: Sandbox, output: DemoOutput, client: SyncClient) -> None:
    """Submit more jobs, print what is running and commands to try, then wait until Ctrl-C.

    The link to the console works once.
    """
    submit_more(client)
    admin_url = client.url
    places = {
        "console": f"{admin_url}{client.post('/api/console/links', {})['path']}",
        "folder": str(sandbox.folder),
        "gateway": f"{admin_url}/kling",
        "api": f"{admin_url}/api/tasks",
        "simulator": f"http://127.0.0.1:{sandbox.ports.kling}",
        "token": str(sandbox.folder / TOKEN_FILE),
        "config": str(sandbox.config),
        "output": str(sandbox.output_file),
        "log": str(sandbox.log_file("receiver")),
    }
    command = command_name()
    commands = [
        f"export KLING_RECEIVER_CONFIG={sandbox.config}",
        f"{command} console",
        f"{command} tasks list",
        f"{command} deliveries list",
        f"{command} submit {ENDPOINT} --set prompt='a boat' --image https://example.com/cat.png --wait",
        f"tail -f {sandbox.output_file}",
    ]
    output.show_running(places, commands)
    while True:
        sandbox.check_running()
        sleep(0.5)


def command_name() -> str:
    """Return the command as the user can type it: the name alone only if the shell would find this program."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m receiver"
    found = shutil.which(program.name)
    is_on_path = found is not None and Path(found).absolute() == program.absolute()
    return shlex.quote(program.name if is_on_path else sys.argv[0])


@contextmanager
def _webhook_sink(sandbox: Sandbox, updates: _Updates) -> Iterator[WebhookSink]:
    def on_request(request: ReceivedRequest) -> None:
        updates.put(partial(DemoProgress.on_webhook_request, request=request))

    try:
        sink = WebhookSink(port=sandbox.ports.sink, secret=sandbox.secret, clock=SystemClock(), on_request=on_request)
    except OSError as exc:
        raise DemoFailed(
            f"Cannot listen on port {sandbox.ports.sink}: {exc.strerror}.", remedy="Choose another --port."
        ) from exc
    with sink:
        yield sink


def _read_simulator(lines: IO[bytes], updates: _Updates) -> Callable[[], bool]:
    """Read the simulator's output on a thread. Return a function that returns whether it has started."""
    started = Event()

    def read() -> None:
        with lines:
            for line in lines:
                event: Json = json.loads(line)
                started.set()
                updates.put(partial(DemoProgress.on_simulator_event, event=event))

    Thread(target=read, name="simulator output", daemon=True).start()
    return started.is_set


def _read_events(client: SyncClient, updates: _Updates) -> None:
    """Read all events of the service on a thread."""

    def read() -> None:
        with suppress(ServiceUnreachable):  # the demo has ended
            for event in client.events(after=BEFORE_ALL_EVENTS):
                updates.put(partial(DemoProgress.on_receiver_event, event=event))

    Thread(target=read, name="events", daemon=True).start()


@contextmanager
def _connect_receiver(sandbox: Sandbox, deadline: float) -> Iterator[SyncClient]:
    """Connect to the receiver as soon as it is ready."""
    settings = load(sandbox.config, clean_environment()).settings
    token_file = settings.data_dir / TOKEN_FILE
    _wait_for(token_file.exists, sandbox, deadline, "the receiver to create its admin token")
    with SyncClient(f"http://{settings.admin.listen}", token_file.read_text("utf-8").strip()) as client:

        def is_ready() -> bool:
            try:
                client.get("/api/routes")
            except ServiceUnreachable:
                return False
            return True

        _wait_for(is_ready, sandbox, deadline, "the receiver to be ready")
        yield client


def _report_ready(sandbox: Sandbox, output: DemoOutput) -> None:
    ports = sandbox.ports
    output.step(
        "ready",
        "Ready",
        f"Kling (simulated) on port {ports.kling}, the receiver on {ports.public} (public) and {ports.admin} (admin)",
        ports={"kling": ports.kling, "public": ports.public, "admin": ports.admin, "sink": ports.sink},
    )


def _submit(progress: DemoProgress, *, callback_url: str) -> None:
    """Submit as a Kling client that changed only its base URL and its key."""
    answer = progress.client.post(f"/kling/v1/{ENDPOINT}", _JOB | {"callback_url": callback_url})
    progress.kling_id = str(answer["data"]["task_id"])
    progress.output.step(
        "submitted",
        "Job submitted",
        f"POST /kling/v1/{ENDPOINT}, Kling's id {progress.kling_id}",
        endpoint=ENDPOINT,
        kling_id=progress.kling_id,
    )


def _follow_until_complete(progress: DemoProgress, updates: _Updates, sandbox: Sandbox, deadline: float) -> None:
    while progress.missing:
        sandbox.check_running()
        if perf_counter() > deadline:
            missing = ", ".join(progress.missing)
            raise DemoFailed(f"After {_TIMEOUT_SECONDS:.0f} s still missing: {missing}.{sandbox.log_tail('receiver')}")
        try:
            updates.get(timeout=_POLL_SECONDS)(progress)
        except Empty:
            if progress.event_id:
                progress.check_deliveries()


def _wait_for(condition: Callable[[], bool], sandbox: Sandbox, deadline: float, description: str) -> None:
    while not condition():
        sandbox.check_running()
        if perf_counter() > deadline:
            raise DemoFailed(f"Waited {_TIMEOUT_SECONDS:.0f} s for {description}.{sandbox.log_tail('receiver')}")
        sleep(_POLL_SECONDS)
