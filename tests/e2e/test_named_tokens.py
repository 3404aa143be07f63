"""Each person has a token of their own, and the audit log names them."""

from pathlib import Path

from harness.run_cli import run_cli
from harness.running_service import a_config, a_kling, a_receiver, a_sink, a_webhook_route
from harness.waiting import wait_until

ANNA = "the-token-of-anna-0001"


async def test_the_audit_log_shows_the_name_of_the_token(tmp_path: Path) -> None:
    async with a_sink() as sink, a_kling() as kling:
        config = a_config(kling.url, more=a_webhook_route(sink))
        config = config.replace("[admin]\n", f'[admin]\ntokens = {{ anna = "{ANNA}" }}\n')
        async with a_receiver(tmp_path, config) as receiver:
            held = run_cli("routes", "hold", "hook", "--url", receiver.admin, "--token", ANNA, cwd=tmp_path)
            refused = run_cli("routes", "list", "--url", receiver.admin, "--token", ANNA + "x", cwd=tmp_path)

            assert (held.returncode, held.stderr) == (0, "")
            assert refused.returncode == 1
            await wait_until(lambda: bool(receiver.rows("SELECT 1 FROM actions WHERE actor = 'anna'")))
            assert ANNA not in receiver.log()
