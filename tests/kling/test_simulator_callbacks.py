"""The simulator sends callbacks as Kling documents them."""

import base64

from harness.clock import START
from harness.simulator_caller import CallbackReceiver, Start
from harness.waiting import wait_until
from standardwebhooks import Webhook

from receiver.domain.clock import SystemClock


class TestCallbacks:
    async def test_a_task_without_callback_url_sends_no_callback(self, start: Start) -> None:
        caller = await start()

        await caller.create()
        await caller.wait_until_announced()

        assert (await caller.state())["pushes"] == []

    async def test_a_callback_for_submitted_is_sent_on_request_only(
        self, start: Start, callback_receiver: CallbackReceiver
    ) -> None:
        caller = await start(push_submitted=True)

        await caller.create(callback_url=callback_receiver.url)
        await caller.wait_until_announced()

        assert callback_receiver.statuses == ["submitted", "processing", "succeed"]

    async def test_a_callback_is_sent_once_after_any_answer(
        self, start: Start, callback_receiver: CallbackReceiver
    ) -> None:
        caller = await start()
        callback_receiver.status = 503

        await caller.create(callback_url=callback_receiver.url)
        await caller.wait_until_announced()

        assert callback_receiver.statuses == ["processing", "succeed"]
        assert [push["answer"] for push in (await caller.state())["pushes"]] == [503, 503]

    async def test_an_undeliverable_callback_is_recorded_and_not_repeated(self, start: Start) -> None:
        caller = await start()

        await caller.create(callback_url="http://127.0.0.1:1/")
        await caller.wait_until_announced()

        assert [push["error"] for push in (await caller.state())["pushes"]] == ["ConnectError", "ConnectError"]

    async def test_callbacks_are_signed_by_the_standard_webhooks_rules(
        self, start: Start, callback_receiver: CallbackReceiver
    ) -> None:
        secrets = ["whsec_" + base64.b64encode(part * 24).decode() for part in (b"n", b"o")]
        caller = await start(signing_secrets=secrets)
        caller.clock.advance(SystemClock().now() - START)  # the reference verifier knows the real time alone

        await caller.create(callback_url=callback_receiver.url)
        await caller.wait_until_announced()

        headers, body = callback_receiver.received[-1]
        for secret in secrets:
            Webhook(secret).verify(body, headers)
        assert len({headers["webhook-id"] for headers, _ in callback_receiver.received}) == 2

    async def test_unsigned_callbacks_have_no_signature(
        self, start: Start, callback_receiver: CallbackReceiver
    ) -> None:
        caller = await start()

        await caller.create(callback_url=callback_receiver.url)
        await caller.wait_until_announced()

        assert not [name for headers, _ in callback_receiver.received for name in headers if name.startswith("webhook")]

    async def test_the_test_push_has_the_members_of_klings_console(
        self, start: Start, callback_receiver: CallbackReceiver
    ) -> None:
        caller = await start()

        await caller.client.post("/_simulator/test-push", json={"url": callback_receiver.url})
        await wait_until(lambda: bool(callback_receiver.received))

        assert callback_receiver.bodies[0].keys() == {
            "id",
            "status",
            "outputs",
            "message",
            "create_time",
            "update_time",
        }
        assert callback_receiver.statuses == ["submitted"]
