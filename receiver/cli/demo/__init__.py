"""`kling-receiver demo`: a complete round trip on this machine, without an account, for new users."""

import signal
from contextlib import suppress
from typing import Annotated

from cyclopts import Parameter

from receiver.cli import OK
from receiver.cli.value_kinds import NUMBER


def demo(
    *,
    keep: Annotated[
        bool, Parameter(help="Keep everything running until Ctrl-C, suggest commands to try, and keep the files.")
    ] = False,
    port: Annotated[
        int | None, NUMBER, Parameter(help="First of four consecutive ports to use (default: any free ports).")
    ] = None,
    json: Annotated[bool, Parameter(help="Print each step as a line of JSON.")] = False,
) -> int:
    """Show a complete round trip on this machine, without an account. Without --keep it leaves nothing behind.

    It starts a simulated Kling, the receiver, a webhook that verifies signatures, and a script.
    Then it submits one multi-image2image job and shows each step. It exits 0 when both have received the result.
    """
    from receiver.cli.demo.output import DemoOutput
    from receiver.cli.demo.sandbox import DemoFailed, Ports, Sandbox
    from receiver.cli.demo.scenario import keep_running, run_scenario
    from receiver.domain.errors import ReceiverError

    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGHUP, _stop)
    demo_output = DemoOutput(as_json=json)
    with Sandbox(Ports.choose(port), archive=keep) as sandbox:
        try:
            with run_scenario(sandbox, demo_output) as client:
                if keep:
                    sandbox.keep_folder = True
                    with suppress(KeyboardInterrupt):
                        keep_running(sandbox, demo_output, client)
        except ReceiverError as error:
            sandbox.keep_folder = True
            demo_output.fail(str(error))
            raise DemoFailed(str(error), remedy=f"\nThe logs are in {sandbox.folder}.") from error
    if keep:
        demo_output.show_kept(sandbox.folder)
    return OK


def _stop(*_: object) -> None:
    raise KeyboardInterrupt
