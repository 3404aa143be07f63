"""The examples in the README and the manual do what they say, exactly as printed."""

import asyncio
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from harness.http_client import plain_http
from harness.ports import free_port
from harness.running_service import SECRET, a_config, a_kling, a_receiver, wait_for_state
from harness.waiting import wait_until
from standardwebhooks import Webhook

from receiver import Client

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *(ROOT / "receiver" / "docs").glob("*.md")]
MANUAL = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
JOB = {"prompt": "a cat", "subject_image_list": [{"subject_image": "https://example.com/a.png"}], "n": 2}


def readme_block(language: str, first: str) -> str:
    """Return the one block in *language* whose text has *first* in it."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", MANUAL, re.DOTALL | re.MULTILINE)
    (block,) = [text for text in blocks if first in text]
    return str(block)


@asynccontextmanager
async def run_consumer(folder: Path) -> AsyncIterator[tuple[int, Path]]:
    """Run the manual's consumer; yield its port and the file with its output."""
    (folder / "consumer.py").write_text(readme_block("python", "# consumer.py"))
    port, output = free_port(), folder / "consumer.out"
    with output.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "consumer:app", "--port", str(port)],
            cwd=folder,
            env={"HOOK_SECRET": SECRET, "PATH": "/usr/bin:/bin"},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        await wait_until(lambda: "running on" in output.read_text())
        yield port, output
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait)


async def test_the_consumer_accepts_only_signed_requests(tmp_path: Path) -> None:
    async with run_consumer(tmp_path) as (port, output), a_kling() as kling:
        url = f"http://127.0.0.1:{port}/hooks/kling"
        route = f'[[routes]]\nname = "app"\non = ["succeed"]\nwebhook = {{ url = "{url}", secret = "{SECRET}" }}'
        async with a_receiver(tmp_path, a_config(kling.url, more=route)) as receiver, receiver.client() as client:
            created = await client.post("/api/tasks", json={"endpoint": "images/multi-image2image", "body": JOB})
            await wait_until(lambda: "task.succeed" in output.read_text())

        async with plain_http() as stranger:
            forged = await stranger.post(url, json={"type": "task.succeed"}, headers={"webhook-signature": "v1,AAAA"})

    assert created.json()["kling_id"] in output.read_text()
    assert forged.status_code == 401


def signed(event_id: str, body: str) -> dict[str, str]:
    """Return the headers with which the receiver would sign *body* now."""
    now = datetime.now(UTC)  # noqa: TID251 -- the consumer uses the system clock
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(SECRET).sign(event_id, now, body),
        "connection": "close",  # the server closes the connection after an error
    }


async def test_the_consumer_accepts_events_without_a_task_and_deduplicates(tmp_path: Path) -> None:
    printed = [
        {"type": "batch.finished", "data": {"event_id": "evt_batch", "message": "Batch spring is finished."}},
        {"type": "alert.route_held", "data": {"event_id": "evt_alert", "message": "Route app is held."}},
    ]
    batch, alert = (json.dumps(event) for event in printed)
    sent = [("evt_batch", batch), ("evt_alert", "{}"), ("evt_alert", alert), ("evt_alert", alert)]
    async with run_consumer(tmp_path) as (port, output), plain_http() as http:
        url = f"http://127.0.0.1:{port}/hooks/kling"
        answers = [(await http.post(url, content=body, headers=signed(id_, body))).status_code for id_, body in sent]

    assert answers == [204, 500, 204, 204]
    assert "batch.finished evt_batch Batch spring is finished." in output.read_text()
    assert output.read_text().count("alert.route_held evt_alert Route app is held.") == 1


@pytest.mark.skipif(shutil.which("curl") is None, reason="the manual's requests need curl")
@pytest.mark.parametrize("path", ["/kling/v1/images/multi-image2image", "/api/tasks"])
async def test_the_example_requests_are_valid_for_kling(tmp_path: Path, path: str) -> None:
    request = readme_block("console", f"curl -X POST http://127.0.0.1:8701{path}").removeprefix("$ ")
    async with a_kling() as kling, a_receiver(tmp_path, a_config(kling.url)) as receiver:
        words = request.replace("http://127.0.0.1:8701", receiver.admin).replace(
            "$(cat var/admin-token)", receiver.token
        )
        ended = await asyncio.to_thread(
            subprocess.run, [*shlex.split(words.replace("\\\n", " ")), "--silent"], capture_output=True, check=True
        )
        async with receiver.client() as client:
            (task,) = (await client.get("/api/tasks")).json()["items"]
            await wait_for_state(client, task["id"], "succeed")

    assert task["kling_id"] in ended.stdout.decode()


async def test_the_example_program_submits_and_waits(tmp_path: Path) -> None:
    async with a_kling() as kling, a_receiver(tmp_path, a_config(kling.url)) as receiver:
        ended = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", readme_block("python", "import Client")],
            cwd=tmp_path,
            env=receiver.environ,
            capture_output=True,
            text=True,
            check=False,
        )

    assert ended.stderr == ""
    state, *places = ended.stdout.split()
    assert state == "succeed"
    assert [place.startswith(kling.url) for place in places] == [True]


async def test_the_sync_example_gets_each_success(tmp_path: Path) -> None:
    async with (
        a_kling() as kling,
        a_receiver(tmp_path, a_config(kling.url)) as receiver,
        Client(config=receiver.config_path) as client,
    ):
        submitted: list[str] = []
        written_to = tmp_path / "plain.out"
        with written_to.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-c", readme_block("python", "import SyncClient")],
                cwd=tmp_path,
                env=receiver.environ,
                stdout=out,
                stderr=out,
            )
        try:
            while "\n" not in written_to.read_text():  # it gets events only after it has connected
                submitted.append((await client.submit("images/multi-image2image", JOB)).id)
                await client.wait(submitted[-1])
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait)

    assert written_to.read_text().split()[1] in submitted


@pytest.mark.skipif(shutil.which("curl") is None, reason="the manual's script needs curl")
async def test_the_example_script_downloads_every_result(tmp_path: Path) -> None:
    script = tmp_path / "publish"
    script.write_text(readme_block("sh", "/usr/local/bin/publish"))
    script.chmod(0o755)
    route = f'[[routes]]\nname = "publish"\nscript = {{ command = ["{script}"], env = {{ HOME = "{tmp_path}" }} }}'
    async with (
        a_kling() as kling,
        a_receiver(tmp_path, a_config(kling.url, more=route)) as receiver,
        receiver.client() as client,
    ):
        created = (await client.post("/api/tasks", json={"endpoint": "images/multi-image2image", "body": JOB})).json()
        folder = tmp_path / "results" / created["id"]
        await wait_until((folder / "images-1").exists)

    assert {path.name for path in folder.iterdir()} == {"images-0", "images-1"}
    assert (folder / "images-0").read_bytes().startswith(b"\x89PNG")
