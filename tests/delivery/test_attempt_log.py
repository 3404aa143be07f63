"""Each attempt is logged in one line, also if several end together or the service stops."""

from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from harness.delivery_system import a_delivery_system
from harness.logs import capture_logs

from receiver.delivery import attempt_runner
from receiver.domain.log_batch import log_together
from receiver.domain.model import Accepted


async def test_attempts_that_end_together_are_logged_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks: list[int] = []

    def log_together_and_count() -> AbstractContextManager[None]:
        blocks.append(1)
        return log_together()

    monkeypatch.setattr(attempt_runner, "log_together", log_together_and_count)
    with capture_logs() as lines:
        async with a_delivery_system(tmp_path) as system:
            system.add_route(concurrency=8).respond = lambda _: Accepted(code=200)
            await system.start()
            await system.add_events(5)
            wanted = {view.delivery.id for view in await system.deliveries()}

    attempted = [line for line in lines if line["event"] == "delivery.attempted"]
    assert sorted(line["delivery"] for line in attempted) == sorted(wanted)
    assert {(line["verdict"], line["recorded"], line["code"]) for line in attempted} == {("delivered", True, 200)}
    assert len(blocks) < len(attempted)


async def test_an_attempt_that_ends_during_a_stop_is_logged(tmp_path: Path) -> None:
    with capture_logs() as lines:
        async with a_delivery_system(tmp_path) as system:
            there = system.add_route()
            there.gate.clear()
            await system.start()
            await system.add_events(1)
            there.gate.set()
            await system.stop()

    assert [line["verdict"] for line in lines if line["event"] == "delivery.attempted"] == ["delivered"]
