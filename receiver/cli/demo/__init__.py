"""`kling-receiver demo`: a whole round trip on this machine, with no account: the first thing a new user sees."""

import signal
from contextlib import suppress
from typing import Annotated

from cyclopts import Parameter

from receiver.cli import OK


def demo(
    *,
    keep: Annotated[bool, Parameter(help="Leave everything running until Ctrl-C, and say what to try next.")] = False,
    port: Annotated[
        int | None, Parameter(help="Use this port and the three after it, instead of any that are free.")
    ] = None,
    json: Annotated[bool, Parameter(help="Print each step as a line of JSON.")] = False,
) -> int:
    """Show a whole round trip on this machine, with no account and nothing left behind.

    Starts a simulated Kling, the receiver, a webhook that verifies signatures and a script; submits one
    multi-image2image job and shows each step as it happens. Ends 0 when both have the result.
    """
    from receiver.cli.demo.output import DemoOutput
    from receiver.cli.demo.sandbox import DemoFailed, Ports, Sandbox
    from receiver.cli.demo.scenario import keep_running, run_scenario
    from receiver.domain.errors import ReceiverError

    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGHUP, _stop)
    teller = DemoOutput(as_json=json)
    with Sandbox(Ports.choose(port)) as stage:
        try:
            with run_scenario(stage, teller) as client:
                if keep:
                    with suppress(KeyboardInterrupt):
                        keep_running(stage, teller, client.url)
        except ReceiverError as error:
            stage.keep_folder = True
            teller.fail(str(error))
            raise DemoFailed(str(error), remedy=f"\nThe logs are in {stage.folder}.") from error
    return OK


def _stop(*_: object) -> None:
    raise KeyboardInterrupt
