"""Each setting that a reload can change reaches the part that uses it."""

import signal
from functools import partial
from pathlib import Path
from typing import Any

from harness.http_client import plain_http
from harness.raw_http import http_request
from harness.running_service import (
    JOB,
    Receiver,
    a_config,
    a_kling,
    a_receiver,
    a_recording_server,
    a_sink,
    create_callback_url,
    submit_task,
    wait_for_state,
)
from harness.waiting import wait_until

from receiver.settings import Settings
from receiver.settings.changes import RELOADABLE

QUIET = {"KLING_RECEIVER_LOG": ""}


async def reload(receiver: Receiver, old: str, new: str) -> None:
    text = receiver.config_path.read_text()
    assert old in text
    receiver.config_path.write_text(text.replace(old, new))
    async with receiver.client() as client:
        answer = await client.post("/api/config/reload")
    assert (answer.status_code, answer.json()["needs_restart"]) == (200, []), answer.text


def test_every_reloadable_name_is_a_setting() -> None:
    sections = Settings.model_fields
    known = {*sections, *(f"{name}.{key}" for name in sections for key in keys_of(name))}

    assert set(RELOADABLE) <= known


def keys_of(section: str) -> set[str]:
    value = getattr(Settings(), section)
    return set(getattr(type(value), "model_fields", ()))


async def test_a_new_key_is_sent_with_the_next_call(tmp_path: Path) -> None:
    async with (
        a_recording_server() as (kling, url),
        a_receiver(tmp_path, a_config(url)) as receiver,
        receiver.client() as client,
    ):
        await client.post("/api/tasks", json={"endpoint": "images/generations", "body": JOB})
        await reload(receiver, 'api_key = "the-key-of-a-test"', 'api_key = "another-key-of-a-test"')
        await client.post("/api/tasks", json={"endpoint": "images/generations", "body": JOB})

    keys = [each.headers["authorization"] for each in kling.requests if each.method == "POST"]
    assert keys == ["Bearer the-key-of-a-test", "Bearer another-key-of-a-test"]


async def test_more_slots_release_queued_tasks(tmp_path: Path) -> None:
    async with a_kling(processing_for="1h") as kling:
        config = a_config(kling.url, kling_more="slots = { image = 1 }")
        async with a_receiver(tmp_path, config) as receiver, receiver.client() as client:
            await submit_task(client)
            second = await submit_task(client)
            assert second["state"] == "queued"

            await reload(receiver, "image = 1", "image = 2")

            await wait_for_state(client, second["id"], "processing")


async def test_tokens_hosts_and_the_size_of_callbacks_change(tmp_path: Path) -> None:
    async with a_receiver(tmp_path, a_config("http://127.0.0.1:9", more="[callbacks]\n")) as receiver:
        async with receiver.client() as client:
            _, url = await create_callback_url(client)
        before = await status_of(receiver, "the-token-of-anna")

        await reload(receiver, "[callbacks]", "[callbacks]\nmax_body = '1KiB'")
        await reload(
            receiver, "[admin]", "[admin]\ntokens = { anna = 'the-token-of-anna' }\nread_token = 'a-read-token-of-16'"
        )
        await reload(receiver, "[admin]", "[admin]\nhosts = ['tasks.example.com']")

        assert (before, await status_of(receiver, "the-token-of-anna")) == (401, 200)
        assert await status_of(receiver, "a-read-token-of-16") == 200
        assert await status_of(receiver, receiver.token, host="tasks.example.com") == 200
        assert (await http_request("POST", url, b'{"a":"' + b"x" * 2000 + b'"}')).status == 413


async def test_a_token_that_is_removed_ends_the_streams_that_it_opened(tmp_path: Path) -> None:
    anna = "tokens = { anna = 'the-token-of-anna' }\n"
    config = a_config("http://127.0.0.1:9").replace("[admin]\n", f"[admin]\n{anna}")
    headers = {"authorization": "Bearer the-token-of-anna"}
    async with (
        a_receiver(tmp_path, config) as receiver,
        plain_http(base_url=receiver.admin, headers=headers, timeout=60) as client,
        client.stream("GET", "/api/stream") as events,
    ):
        chunks = events.aiter_bytes()
        assert b"listening" in await anext(chunks)
        await reload(receiver, anna, anna + "hosts = ['tasks.example.com']\n")
        async with receiver.client() as admin:
            await admin.post("/api/trigger", json={"state": "succeed"})
        assert b"task.submitted" in await anext(chunks), "a reload that changes no token ends no stream"

        await reload(receiver, anna, "")

        async for _ in chunks:  # until the service ends it
            pass
        assert await status_of(receiver, "the-token-of-anna") == 401


async def test_a_changed_token_deletes_logins_to_the_console(tmp_path: Path) -> None:
    async with a_receiver(tmp_path, a_config("http://127.0.0.1:9")) as receiver:
        async with receiver.client() as client:
            await client.post("/api/console/links")
        links = partial(receiver.rows, "SELECT 1 FROM console_links")
        assert links() == [(1,)]

        await reload(receiver, "[admin]", "[admin]\nread_token = 'a-read-token-of-16'")

        await wait_until(lambda: links() == [])


async def status_of(receiver: Receiver, token: str, **headers: str) -> int:
    sent: dict[str, Any] = {"authorization": f"Bearer {token}", **headers}
    async with plain_http(base_url=receiver.admin, headers=sent, timeout=30) as client:
        return (await client.get("/api/tasks")).status_code


async def test_the_log_level_changes_in_loggers_that_exist(tmp_path: Path) -> None:
    config = a_config("http://127.0.0.1:9", more="[log]\nlevel = 'info'\n")
    async with a_receiver(tmp_path, config, environ=QUIET) as receiver:
        await reload(receiver, "level = 'info'", "level = 'error'")
        quiet_from = len(receiver.log())
        async with receiver.client() as client:
            await create_callback_url(client)
        await reload(receiver, "level = 'error'", "level = 'debug'")
        lines = receiver.log()[quiet_from:].splitlines()

    assert "configuration.reloaded" in lines[0], "nothing is logged in between"


async def test_environment_and_option_decide_about_the_log_level(tmp_path: Path) -> None:
    config = a_config("http://127.0.0.1:9", more="[log]\nlevel = 'info'\n")
    async with a_receiver(tmp_path, config, environ={"KLING_RECEIVER_LOG": "info"}) as receiver:
        assert receiver.process is not None
        receiver.config_path.write_text(receiver.config_path.read_text().replace("'info'", "'error'"))

        for number in (1, 2):
            receiver.process.send_signal(signal.SIGHUP)
            await wait_until(partial(has_reloaded, receiver, number))


def has_reloaded(receiver: Receiver, times: int) -> bool:
    return len(receiver.log_entries("configuration.reloaded")) == times


async def test_a_corrected_projection_or_template_is_used_by_the_next_attempt(tmp_path: Path) -> None:
    async with a_sink(check_signatures=False) as sink:
        project = '{ project = "length(data.result)" }'  # the result is an object of lists, here with one
        retry = 'retry = ["500ms"]'
        chat = sink.url.replace("http://", "json://")
        routes = f"""
[[routes]]
name = "app"
webhook = {{ url = "{sink.url}", payload = {project.replace("data.result", "data.status.x")} }}
{retry}
[[routes]]
name = "chat"
notify = {{ urls = ["{chat}?format=text"], body = "{{length(nothing)}}" }}
{retry}
"""
        async with a_receiver(tmp_path, a_config("http://127.0.0.1:9", more=routes)) as receiver:
            async with receiver.client() as client:
                await client.post("/api/trigger", json={"state": "succeed"})
                await wait_until(partial(every_route_has_failed, client))
            assert sink.bodies == []

            await reload(receiver, "data.status.x", "data.result")
            await reload(receiver, "{length(nothing)}", "{length(result.images)} images")

            await wait_until(lambda: len(sink.bodies) == 2)
            assert b"1" in sink.bodies
            assert any(b"1 images" in body for body in sink.bodies)


async def every_route_has_failed(client: Any) -> bool:
    """Whether each delivery is pending after a failed attempt that says why."""
    listed = (await client.get("/api/deliveries")).json()["items"]
    details = [(await client.get(f"/api/deliveries/{each['id']}")).json() for each in listed]
    if len(details) != 2 or not all(each["attempts_made"] for each in details):
        return False
    assert [each["status"] for each in details] == ["pending"] * 2
    assert all("Correct it and reload" in each["attempts_made"][0]["reason"] for each in details)
    return True
