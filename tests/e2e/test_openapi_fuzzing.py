"""A running service does what its OpenAPI document says, also with made-up and broken requests."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from chaos.parameters import env_int
from harness.running_service import JOB, a_config, a_kling, a_receiver, a_script_route, submit_task, wait_for_state

EXAMPLES = min(env_int("EXAMPLES", 2), 300)  # for each operation, besides the fixed ones of each parameter

# A client does not make up a cursor. The stream never ends, and a ledger is read once a second.
CONFIG = """
generation.database = "none"
[parameters]
cursor = ""
[[operations]]
include-operation-id = ["followEvents", "checkCosts"]
enabled = false
[[operations]]  # an empty selection is refused
include-operation-id = "createReplay"
checks.positive_data_acceptance.enabled = false
[[operations]]  # Kling refuses made-up bodies, and has no made-up endpoints
include-operation-id = ["submitTask", "createCallbackUrl", "estimateCost"]
checks.positive_data_acceptance.enabled = false
[[operations]]
include-operation-id = ["getTask", "explainTask", "cancelTask", "retryTask"]
parameters."path.ref" = "@TASK@"
[[operations]]
include-operation-id = "getEvent"
parameters."path.id" = "@EVENT@"
[[operations]]
include-operation-id = ["getDelivery", "retryDelivery"]
parameters."path.id" = "@DELIVERY@"
[[operations]]
include-operation-id = ["holdRoute", "releaseRoute", "testRoute", "backtestRoute"]
parameters."path.name" = "script"
"""


@pytest.mark.soak("requests made up from the OpenAPI document", minutes=5)
async def test_generated_requests_get_only_documented_responses(tmp_path: Path) -> None:
    async with (
        a_kling() as kling,
        a_receiver(tmp_path, a_config(kling.url, more=a_script_route(tmp_path, extra='on = ["*"]'))) as receiver,
        receiver.client() as client,
    ):
        task = await submit_task(client, endpoint="images/multi-image2image", body=JOB)
        await wait_for_state(client, task["id"], "succeed")
        delivery = (await client.get("/api/deliveries")).json()["items"][0]
        known = {"@TASK@": task["id"], "@EVENT@": delivery["event_id"], "@DELIVERY@": delivery["id"]}
        config = CONFIG
        for name, value in known.items():
            config = config.replace(name, value)
        (tmp_path / "schemathesis.toml").write_text(config)

        report = await asyncio.to_thread(fuzz, receiver.admin, receiver.token, tmp_path)

        assert report.returncode == 0, report.stdout[-20_000:]
        assert (await client.get("/readyz")).status_code == 200


def fuzz(url: str, token: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [str(Path(sys.executable).parent / "st"), "--config-file", "schemathesis.toml", "run"]
    command += [f"{url}/openapi.json", "--header", f"Authorization: Bearer {token}", "--seed", "1", "--no-color"]
    command += ["--phases", "coverage,fuzzing", "--max-examples", str(EXAMPLES), "--request-timeout", "30"]
    command += ["--continue-on-failure", "--warnings", "off"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=3000)
