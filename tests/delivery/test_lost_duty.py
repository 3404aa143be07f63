"""A process that delivers and has lost that duty to another one."""

import asyncio

from harness.delivery_system import DeliverySystem
from harness.waiting import wait_until

from receiver.delivery.retry import SUSPECT_AFTER
from receiver.domain.duties import Tenure


async def test_deliveries_are_sent_only_while_the_duty_is_held(system: DeliverySystem) -> None:
    there = system.add_route()
    system.tenure = Tenure(lambda: 0.0)
    await system.start()
    await system.add_events(settle=False)
    await asyncio.sleep(0.05)
    system.running[0].cancel()
    await asyncio.gather(system.running[0], return_exceptions=True)
    sent_without = list(there.attempts)

    system.tenure.extend(1.0)
    system.running[0] = asyncio.create_task(system.dispatcher.run(system._stop))

    await wait_until(lambda: len(there.attempts) == 1)
    await system.settle()
    assert sent_without == []
    assert await system.statuses() == ["delivered"]


async def test_a_late_verdict_changes_nothing_once_another_process_has_the_claim(system: DeliverySystem) -> None:
    there = system.add_route()
    there.gate.clear()
    await system.start()
    await system.add_events()
    now = system.clock.now()
    await system.store.deliveries.release_all(now=now, suspect_after=SUSPECT_AFTER)
    until = now + there.timeout
    claimed = await system.store.deliveries.claim("publish", now=now, until=until, limit=1, claim="clm_other")

    there.gate.set()
    await system.settle()

    (view,) = await system.deliveries()
    assert len(claimed) == 1
    assert (view.delivery.status.value, view.delivery.attempts) == ("pending", 0)
