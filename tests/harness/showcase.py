"""A receiver with a day's work in it: a simulated Kling, a hundred tasks, and routes that work, fail and give up."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

from harness.running_service import (
    ENDPOINT,
    Receiver,
    a_config,
    a_kling,
    a_receiver,
    a_sink,
    a_webhook_route,
)
from harness.waiting import wait_until

SUBJECTS = (
    "a red fox in fresh snow, morning light",
    "two astronauts sharing tea on the moon",
    "the harbour of Valparaíso at dusk, oil on canvas",
    "a paper boat with a cat and a dog, watercolour",
    "Žižkov rooftops at dawn, gouache",
    "an old typewriter overgrown with moss, macro",
    "a lighthouse in a storm, long exposure",
    "street food market at night, neon, rain",
)
_VIDEO = "videos/text2video"
_PICKY = 'case "$KLING_TASK_ID" in *[13]) echo "The rights of this picture are unclear." >&2; exit 65;; esac'


@contextlib.asynccontextmanager
async def a_showcase(folder: Path, *, tasks: int = 100) -> AsyncIterator[Receiver]:
    """Run a receiver, and let it do a day's work."""
    async with (
        a_kling(
            submitted_for="200ms", processing_for="600ms", check_images=False, slots=["image=6", "video=3"]
        ) as kling,
        a_sink() as good,
        a_sink() as broken,
    ):
        broken.answer = lambda: 503
        config = a_config(
            kling.url,
            kling_more="slots = { image = 6, video = 3 }",
            more=f"""
read_token = "a-token-for-dashboards"
[archive]
dir = "{folder / "results"}"
[network]
allow = ["127.0.0.1/32"]
{a_webhook_route(good, name="shop")}
{_script(folder, "publish", "echo published $KLING_TASK_ID to the website")}
{_script(folder, "legal-review", _PICKY)}
{a_webhook_route(broken, name="crm", extra='endpoints = ["videos/*"]')}
""",
        )
        async with a_receiver(folder, _merge_admin(config)) as receiver:
            await _submit_all(receiver, tasks)
            yield receiver


def _merge_admin(config: str) -> str:
    """Move the read token into the table that the configuration already has."""
    line = 'read_token = "a-token-for-dashboards"\n'
    return config.replace(line, "", 1).replace("[admin]\n", f"[admin]\n{line}", 1)


def _script(folder: Path, name: str, command: str) -> str:
    path = folder / f"{name}.sh"
    path.write_text(f"#!/bin/sh\ncat > /dev/null\n{command}\n")
    path.chmod(0o755)
    return f'\n[[routes]]\nname = "{name}"\non = ["succeed"]\nscript = {{ command = ["{path}"] }}\n'


async def _submit_all(receiver: Receiver, tasks: int) -> None:
    rng = Random(8)
    async with receiver.client() as client:
        ids = []
        for number in range(tasks):
            answer = await client.post("/api/tasks", json=_job(number, rng), headers={"prefer": "respond-async"})
            assert answer.status_code in (202, 422), answer.text
            ids.append(answer.json()["id"])

        async def is_done() -> bool:
            counts: dict[str, int] = (await client.get("/api/tasks/counts")).json()["counts"]
            return counts["succeed"] + counts["failed"] + counts["rejected"] >= tasks

        await wait_until(is_done, seconds=300, interval=0.5)
        for number in range(tasks, tasks + 14):  # at work while someone looks
            await client.post(
                "/api/tasks",
                json=_job(number, rng, prompt=f"{SUBJECTS[number % len(SUBJECTS)]} [slow]"),
                headers={"prefer": "respond-async"},
            )


def _job(number: int, rng: Random, *, prompt: str = "") -> dict[str, Any]:
    subject = prompt or SUBJECTS[number % len(SUBJECTS)]
    if number % 19 == 7:
        subject += " [fail: the picture could not be rendered]"
    elif number % 29 == 11:
        subject += " [unsafe]"
    is_video = number % 4 == 3
    body: dict[str, Any] = {"prompt": subject, "model_name": "kling-v2-1"}
    if not is_video:
        body["subject_image_list"] = [{"subject_image": "https://example.com/a.png"}]
    return {
        "endpoint": _VIDEO if is_video else ENDPOINT,
        "body": body,
        "label": subject.partition(" [")[0].partition(",")[0][:40],
        "tags": {"project": rng.choice(["spring", "shop", "zine"]), "team": rng.choice(["a", "b"])},
        **({"batch": {"name": f"campaign-{number // 25}", "size": 25}} if number < 75 else {}),
    }
