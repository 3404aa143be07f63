"""`kling-receiver simulate`: Kling's API on this machine, with faults on demand."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, TypeAlias

from cyclopts import Group, Parameter

from receiver.cli import OK, render
from receiver.cli.options import UsageError
from receiver.domain.errors import ReceiverError

_ACCOUNT = Group("The account", sort_key=2)
_TIMING = Group("The pace", sort_key=3, help="Durations: 250ms, 5s, 10m.")
_CALLBACKS = Group(
    "Faults of callbacks", sort_key=4, help="How often: a share (0.3, 30%, always) or so many times (next:2)."
)
_CREATES = Group(
    "Faults of creates and queries", sort_key=5, help="Errors: a code and how often (1303:3,502,1302:20%)."
)
_TASKS = Group("Faults of tasks", sort_key=6)

Text: TypeAlias = str | None


class SimulatorFailed(ReceiverError):
    """The simulator cannot do what it was asked to."""

    code = "simulator_failed"


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The account and its pace."""

    api_key: Annotated[Text, Parameter(group=_ACCOUNT, help="The one key to take (default: any).")] = None
    access_key: Annotated[Text, Parameter(group=_ACCOUNT, help="For keys in two parts, signed as a JWT.")] = None
    secret_key: Annotated[Text, Parameter(group=_ACCOUNT, help="Its other part.")] = None
    signing_secrets: Annotated[
        list[str] | None, Parameter(name="--signing-secret", group=_ACCOUNT, help="Sign callbacks with whsec_...")
    ] = None
    dialect: Annotated[Text, Parameter(group=_ACCOUNT, help="official, or gateway (images are strings).")] = None
    video_slots: Annotated[int | None, Parameter(group=_ACCOUNT, help="Parallel videos (default: no limit).")] = None
    image_slots: Annotated[int | None, Parameter(group=_ACCOUNT, help="Parallel images (default: no limit).")] = None
    rate: Annotated[int | None, Parameter(group=_ACCOUNT, help="Creates in a second (default: no limit).")] = None
    public_url: Annotated[Text, Parameter(group=_ACCOUNT, help="How results' URLs begin.")] = None
    endpoints: Annotated[
        list[str] | None,
        Parameter(name="--endpoint", group=_ACCOUNT, help="One more, v1/videos/new=videos or dance-to-video=videos."),
    ] = None
    seed: Annotated[int | None, Parameter(group=_ACCOUNT, help="Repeat the chances of an earlier run.")] = None
    submitted_for: Annotated[Text, Parameter(group=_TIMING, help="How long a task stays submitted (300ms).")] = None
    processing_for: Annotated[Text, Parameter(group=_TIMING, help="How long it stays processing (1s).")] = None
    slow_for: Annotated[Text, Parameter(group=_TIMING, help="How long a slow one stays processing (30s).")] = None
    push_submitted: Annotated[bool | None, Parameter(group=_TIMING, help="Send a callback for submitted, too.")] = None


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What goes wrong, and how often."""

    drop: Annotated[Text, Parameter(group=_CALLBACKS, help="Never send a callback.")] = None
    duplicate: Annotated[Text, Parameter(group=_CALLBACKS, help="Send it twice.")] = None
    reorder: Annotated[Text, Parameter(group=_CALLBACKS, help="Send it after the one that follows.")] = None
    delay: Annotated[Text, Parameter(group=_CALLBACKS, help="Send it later.")] = None
    delay_by: Annotated[Text, Parameter(group=_CALLBACKS, help="So much later (2s).")] = None
    forge: Annotated[Text, Parameter(group=_CALLBACKS, help="Send a false succeed before the true end.")] = None
    truncate: Annotated[Text, Parameter(group=_CALLBACKS, help="Cut the body in half.")] = None
    wrap: Annotated[Text, Parameter(group=_CALLBACKS, help="Wrap the body as some gateways do.")] = None
    refuse: Annotated[Text, Parameter(group=_CREATES, help="Answer a create with an error.")] = None
    lose: Annotated[Text, Parameter(group=_CREATES, help="Hang up before anything is made.")] = None
    hang_up: Annotated[Text, Parameter(group=_CREATES, help="Hang up after the task is made.")] = None
    late: Annotated[Text, Parameter(group=_CREATES, help="Answer a create late.")] = None
    late_by: Annotated[Text, Parameter(group=_CREATES, help="So late (2s).")] = None
    after_callback: Annotated[Text, Parameter(group=_CREATES, help="Answer it after the last callback.")] = None
    gateway_ids: Annotated[Text, Parameter(group=_CREATES, help="Answer with an id no callback will carry.")] = None
    drop_external: Annotated[Text, Parameter(group=_CREATES, help="Forget the client's own id.")] = None
    refuse_queries: Annotated[Text, Parameter(group=_CREATES, help="Answer a query with an error.")] = None
    listed: Annotated[Text, Parameter(group=_CREATES, help="Answer a query with a list of one.")] = None
    fresh_urls: Annotated[Text, Parameter(group=_CREATES, help="Answer each query with URLs signed anew.")] = None
    fail: Annotated[Text, Parameter(group=_TASKS, help="End as failed.")] = None
    fail_reason: Annotated[Text, Parameter(group=_TASKS, help="With this reason.")] = None
    slow: Annotated[Text, Parameter(group=_TASKS, help="Take long.")] = None
    stall: Annotated[Text, Parameter(group=_TASKS, help="Take for ever.")] = None
    result_missing: Annotated[Text, Parameter(group=_TASKS, help="Succeed without a result.")] = None
    result_late: Annotated[Text, Parameter(group=_TASKS, help="Tell the result to queries alone.")] = None
    result_late_by: Annotated[Text, Parameter(group=_TASKS, help="So much later.")] = None


_DEFAULT_ACCOUNT = Account()
_NO_FAULTS = Faults()


def simulate(
    *,
    listen: Annotated[str, Parameter(help="Where to listen.")] = "127.0.0.1:8790",
    account: Account = _DEFAULT_ACCOUNT,
    faults: Faults = _NO_FAULTS,
    json: Annotated[bool, Parameter(help="Print each thing that happens as a line of JSON.")] = False,
) -> int:
    """Be Kling's API on this machine, until Ctrl-C. Prints a line for each thing that happens.

    Words in a prompt steer a task: [fail], [fail: reason], [slow], [stuck], [empty], [unsafe].
    While it runs, GET /_simulator/state tells all it saw, and POST /_simulator/faults changes what goes wrong.
    """
    from receiver.kling import simulator

    options = {name: value for name, value in (asdict(account) | asdict(faults)).items() if value is not None}
    try:
        simulator.run(listen, observer=_print_event_json if json else _print_event, **options)
    except ValueError as exc:
        raise UsageError(f"{exc}.", remedy="See `kling-receiver simulate --help`.") from exc
    except OSError as exc:
        raise SimulatorFailed(
            f"The simulator cannot listen on {listen}: {exc.strerror or exc}.", remedy="Choose another with --listen."
        ) from exc
    return OK


def _print_event(event: str, /, **fields: object) -> None:
    noun, _, happened = event.partition(".")
    render.print_line(f"{noun} {happened}", _fields_text(fields))


def _print_event_json(event: str, /, **fields: object) -> None:
    render.print_json_line({"event": event, **fields})


def _fields_text(fields: Mapping[str, object]) -> str:
    return "  ".join(f"{name}={render.clean(value)}" for name, value in fields.items() if value not in (None, ""))
