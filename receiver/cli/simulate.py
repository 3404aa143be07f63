"""`kling-receiver simulate`: Kling's API on this machine, with faults on demand."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, TypeAlias

from cyclopts import Group, Parameter

from receiver.cli import OK, render
from receiver.cli.options import UsageError
from receiver.cli.value_kinds import ADDRESS, DURATION, ERRORS, FREQUENCY, KEY, KEY_VALUE, NUMBER, TEXT, URL
from receiver.domain.errors import ReceiverError

_ACCOUNT = Group("Account", sort_key=2)
_TIMING = Group("Timing", sort_key=3, help="Durations: 250ms, 5s, 10m.")
_CALLBACKS = Group(
    "Callback faults", sort_key=4, help="Frequency: a share (0.3, 30%, always) or the next N times (next:2)."
)
_CREATES = Group("Create and query faults", sort_key=5, help="Errors: a code and its frequency (1303:3,502,1302:20%).")
_TASKS = Group("Task faults", sort_key=6)

Duration: TypeAlias = Annotated[str | None, DURATION]
Errors: TypeAlias = Annotated[str | None, ERRORS]
Frequency: TypeAlias = Annotated[str | None, FREQUENCY]
Key: TypeAlias = Annotated[str | None, KEY]
Number: TypeAlias = Annotated[int | None, NUMBER]
Text: TypeAlias = Annotated[str | None, TEXT]
Url: TypeAlias = Annotated[str | None, URL]


class SimulatorFailed(ReceiverError):
    """The simulator cannot start."""

    code = "simulator_failed"


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The simulated account and its timing."""

    api_key: Annotated[Key, Parameter(group=_ACCOUNT, help="Accept only this API key (default: any).")] = None
    access_key: Annotated[Key, Parameter(group=_ACCOUNT, help="Access key, for clients that sign a JWT.")] = None
    secret_key: Annotated[Key, Parameter(group=_ACCOUNT, help="Secret key for the access key.")] = None
    signing_secrets: Annotated[
        list[str] | None,
        KEY,
        Parameter(name="--signing-secret", group=_ACCOUNT, help="Sign callbacks with whsec_... May be repeated."),
    ] = None
    dialect: Annotated[Text, Parameter(group=_ACCOUNT, help="Dialect: official, or gateway (images are strings).")] = (
        None
    )
    slots: Annotated[
        list[str] | None,
        KEY_VALUE,
        Parameter(
            name="--slots",
            group=_ACCOUNT,
            help="Parallel tasks of each model: video=3, video/kling-v2-1=1; scope=pack counts all models together. "
            "May be repeated.",
        ),
    ] = None
    rate: Annotated[Number, Parameter(group=_ACCOUNT, help="Maximum creates per second (default: none).")] = None
    postpaid: Annotated[bool | None, Parameter(group=_ACCOUNT, help="Charge money, not units of a pack.")] = None
    pack_units: Annotated[Number, Parameter(group=_ACCOUNT, help="Units in each pack (10000).")] = None
    public_url: Annotated[Url, Parameter(group=_ACCOUNT, help="Base URL of result files.")] = None
    endpoints: Annotated[
        list[str] | None,
        TEXT,
        Parameter(name="--endpoint", group=_ACCOUNT, help="Add an endpoint: v1/videos/new=videos. May be repeated."),
    ] = None
    seed: Annotated[Number, Parameter(group=_ACCOUNT, help="Random seed, to repeat an earlier run.")] = None
    submitted_for: Annotated[Duration, Parameter(group=_TIMING, help="Time in state submitted (300ms).")] = None
    processing_for: Annotated[Duration, Parameter(group=_TIMING, help="Time in state processing (1s).")] = None
    slow_for: Annotated[Duration, Parameter(group=_TIMING, help="Time in state processing for a slow task (30s).")] = (
        None
    )
    push_submitted: Annotated[bool | None, Parameter(group=_TIMING, help="Also send a callback for submitted.")] = None


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """The faults to inject, and their frequency."""

    drop: Annotated[Frequency, Parameter(group=_CALLBACKS, help="Never send a callback.")] = None
    duplicate: Annotated[Frequency, Parameter(group=_CALLBACKS, help="Send a callback twice.")] = None
    reorder: Annotated[Frequency, Parameter(group=_CALLBACKS, help="Send a callback after the next one.")] = None
    delay: Annotated[Frequency, Parameter(group=_CALLBACKS, help="Delay a callback.")] = None
    delay_by: Annotated[Duration, Parameter(group=_CALLBACKS, help="Length of a callback's delay (2s).")] = None
    forge: Annotated[Frequency, Parameter(group=_CALLBACKS, help="Send a forged succeed before the real end.")] = None
    truncate: Annotated[Frequency, Parameter(group=_CALLBACKS, help="Cut a callback's body in half.")] = None
    wrap: Annotated[Frequency, Parameter(group=_CALLBACKS, help="Wrap a callback's body as some gateways do.")] = None
    refuse: Annotated[Errors, Parameter(group=_CREATES, help="Answer a create with an error.")] = None
    lose: Annotated[Frequency, Parameter(group=_CREATES, help="Close the connection before the task is created.")] = (
        None
    )
    hang_up: Annotated[Frequency, Parameter(group=_CREATES, help="Close the connection after the task is created.")] = (
        None
    )
    late: Annotated[Frequency, Parameter(group=_CREATES, help="Answer a create late.")] = None
    late_by: Annotated[Duration, Parameter(group=_CREATES, help="Length of a late answer's delay (2s).")] = None
    after_callback: Annotated[Frequency, Parameter(group=_CREATES, help="Answer a create after the last callback.")] = (
        None
    )
    gateway_ids: Annotated[
        Frequency, Parameter(group=_CREATES, help="Answer a create with an id unknown to callbacks.")
    ] = None
    drop_external: Annotated[Frequency, Parameter(group=_CREATES, help="Ignore the client's external id.")] = None
    refuse_queries: Annotated[Errors, Parameter(group=_CREATES, help="Answer a query with an error.")] = None
    listed: Annotated[Frequency, Parameter(group=_CREATES, help="Answer a query with a list of one task.")] = None
    fresh_urls: Annotated[Frequency, Parameter(group=_CREATES, help="Answer each query with newly signed URLs.")] = None
    fail: Annotated[Frequency, Parameter(group=_TASKS, help="Fail the task.")] = None
    fail_reason: Annotated[Text, Parameter(group=_TASKS, help="Reason of a failed task.")] = None
    slow: Annotated[Frequency, Parameter(group=_TASKS, help="Make the task slow.")] = None
    stall: Annotated[Frequency, Parameter(group=_TASKS, help="Never finish the task.")] = None
    result_missing: Annotated[Frequency, Parameter(group=_TASKS, help="Succeed without a result.")] = None
    result_late: Annotated[
        Frequency, Parameter(group=_TASKS, help="Leave the result out of callbacks; queries return it late.")
    ] = None
    result_late_by: Annotated[Duration, Parameter(group=_TASKS, help="Time until queries return a late result.")] = None
    unbilled: Annotated[Frequency, Parameter(group=_TASKS, help="Leave the task out of the account's ledger.")] = None
    overbilled: Annotated[Frequency, Parameter(group=_TASKS, help="Charge the task twice in the account's ledger.")] = (
        None
    )


CONFIGURATION = """\
[public]
url = "http://127.0.0.1:8700"       # without it, no callbacks: polls find the results

[kling]
base_url = "{url}"
api_key = "any-key"                 # or the one of --api-key

[network]
allow = ["127.0.0.0/8"]             # results and callback URLs on this machine, for the archive and the gateway
"""

_DEFAULT_ACCOUNT = Account()
_NO_FAULTS = Faults()


def simulate(
    *,
    listen: Annotated[
        str, ADDRESS, Parameter(help="Address and port to listen on (default: 127.0.0.1:8790).")
    ] = "127.0.0.1:8790",
    account: Account = _DEFAULT_ACCOUNT,
    faults: Faults = _NO_FAULTS,
    json: Annotated[bool, Parameter(help="Print each event as a line of JSON.")] = False,
) -> int:
    """Simulate Kling's API on this machine until Ctrl-C, and print a line for each event.

    Words in a prompt control a task: [fail], [fail: reason], [slow], [stuck], [empty], [unsafe].
    While it runs, GET /_simulator/state returns all it received, and POST /_simulator/faults changes the faults.
    """
    from receiver.kling import simulator

    options = {name: value for name, value in (asdict(account) | asdict(faults)).items() if value is not None}
    try:
        simulator.run(listen, observer=_print_event_json if json else _print_event, **options)
    except simulator.InvalidOption as exc:
        option = f"--{exc.name.replace('_', '-')}"
        raise UsageError(f"{option} {exc.reason}.", remedy="See `kling-receiver simulate --help`.") from exc
    except ValueError as exc:
        raise UsageError(f"{exc}.", remedy="See `kling-receiver simulate --help`.") from exc
    except OSError as exc:
        reason = os.strerror(exc.errno) if exc.errno and exc.errno > 0 else exc.strerror or exc  # negative: resolver's
        raise SimulatorFailed(
            f"The simulator cannot listen on {listen}: {reason}.", remedy="Choose another with --listen."
        ) from exc
    return OK


def _print_event(event: str, /, **fields: object) -> None:
    noun, _, verb = event.partition(".")
    render.print_line(f"{noun} {verb}", _fields_text(fields))
    if event == "simulator.started":
        render.notice(
            "The configuration that leads to it, for config.toml, or a new kling-receiver.toml in this folder:"
        )
        for line in CONFIGURATION.format(url=fields["url"]).splitlines():
            render.notice(f"  {line}".rstrip())


def _print_event_json(event: str, /, **fields: object) -> None:
    render.print_json_line({"event": event, **fields})


def _fields_text(fields: Mapping[str, object]) -> str:
    return "  ".join(f"{name}={render.clean(value)}" for name, value in fields.items() if value not in (None, ""))
