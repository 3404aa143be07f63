"""The whole path in real processes: submitted, called back, stored, delivered to a webhook and to a script."""

from pathlib import Path

from processes import a_config, a_kling, a_receiver, a_sink, a_webhook_route
from support import until


def a_script_route(folder: Path) -> str:
    """A route to a script that appends what it got to a file."""
    script = folder / "publish.sh"
    script.write_text('#!/bin/sh\ncat >> "$OUT"; echo >> "$OUT"; echo "published $KLING_TASK_ID"\n')
    script.chmod(0o755)
    return f"""
[[routes]]
name = "script"
script = {{ command = ["{script}"], env = {{ OUT = "{folder / 'published.jsonl'}" }} }}
"""


async def test_a_submitted_job_reaches_webhook_and_script(tmp_path: Path) -> None:
    async with a_sink() as sink, a_kling() as kling:
        routes = a_webhook_route(sink) + a_script_route(tmp_path)
        async with a_receiver(tmp_path, a_config(kling.url, more=routes)) as receiver, receiver.client() as client:
            body = {"prompt": "a cat", "subject_image_list": [{"subject_image": "https://example.com/a.png"}]}
            created = await client.post("/api/tasks", json={"endpoint": "images/multi-image2image", "body": body})
            assert created.status_code == 202, created.text
            await until(lambda: len(sink.received) == 1)
            await until(lambda: (tmp_path / "published.jsonl").exists())
            task = (await client.get(f"/api/tasks/{created.json()['id']}")).json()
            assert task["state"] == "succeed"
            assert task["result"]["images"]
            assert await receiver.stop() == 0
