"""Tests of the service on SQLite, run again on PostgreSQL: delivery, replay, batches, submits and stops.

They are the same functions. The fixture gives each receiver a database instead of a file. Some are called with fewer
kills than on SQLite: a process that was killed is replaced after some seconds, when its leases end. Kills under load
are in ``chaos/test_nodes.py``.
"""

from pathlib import Path

import pytest
from e2e import test_batches, test_stop, test_submit_crashes
from e2e.test_delivery import (
    test_a_410_holds_the_route_and_later_deliveries_wait,
    test_a_retry_has_the_same_webhook_id,
    test_a_slow_route_delays_no_other,
    test_conditions_select_a_routes_events,
    test_deliveries_of_a_removed_route_wait_for_its_return,
)
from e2e.test_replay import (
    test_a_manually_held_route_delivers_nothing_until_retried,
    test_a_replay_and_its_command_continue_after_a_kill,
    test_explain_shows_a_tasks_complete_history,
)
from e2e.test_retry_tasks import test_the_failed_tasks_of_a_batch_become_new_tasks_once
from e2e.test_stop import test_a_stop_finishes_the_attempt_in_flight_and_refuses_connections
from e2e.test_submit import (
    test_a_create_interrupted_by_a_crash_is_looked_up_first,
    test_an_idempotency_key_creates_one_task,
)
from harness.running_service import Receiver
from harness.soak_report import RecordCounts

__all__ = [
    "test_a_410_holds_the_route_and_later_deliveries_wait",
    "test_a_create_interrupted_by_a_crash_is_looked_up_first",
    "test_a_manually_held_route_delivers_nothing_until_retried",
    "test_a_replay_and_its_command_continue_after_a_kill",
    "test_a_retry_has_the_same_webhook_id",
    "test_a_slow_route_delays_no_other",
    "test_a_stop_finishes_the_attempt_in_flight_and_refuses_connections",
    "test_an_idempotency_key_creates_one_task",
    "test_conditions_select_a_routes_events",
    "test_deliveries_of_a_removed_route_wait_for_its_return",
    "test_explain_shows_a_tasks_complete_history",
    "test_the_failed_tasks_of_a_batch_become_new_tasks_once",
]

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def on_postgres(monkeypatch: pytest.MonkeyPatch, postgres_url: str) -> None:
    """Give each receiver of a test the same database."""
    monkeypatch.setattr(Receiver, "store_url", postgres_url)


async def test_a_batch_finishes_once_through_kills(
    tmp_path: Path, record_counts: RecordCounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(test_batches, "KILLS", 1)
    await test_batches.test_a_batch_of_50_finishes_once_through_kills(tmp_path, 1, record_counts)


async def test_stops_under_load_lose_nothing_and_deliver_nothing_twice(
    tmp_path: Path, record_counts: RecordCounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(test_stop, "STOPS", 2)
    await test_stop.test_stops_under_load_lose_nothing_and_deliver_nothing_twice(tmp_path, record_counts)


async def test_each_job_is_created_once_through_kills(
    tmp_path: Path, record_counts: RecordCounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(test_submit_crashes, "CRASHES", 2)
    await test_submit_crashes.test_each_job_is_created_once_through_kills(tmp_path, record_counts)
