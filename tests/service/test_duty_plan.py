"""Which duties a node takes and hands over."""

from datetime import timedelta

from harness.clock import START

from receiver.domain.duties import Duty
from receiver.service.nodes.duty_plan import HAND_OVER_INTERVAL, DutyPlan, LeaseTiming
from receiver.store.interfaces.nodes import Lease, NodesView, StoredNode

SECOND = timedelta(seconds=1)


def a_view(*holders: str | None, live: str = "a", ended: bool = False) -> NodesView:
    """The duties in their order with their holders, None for a duty that was given back."""
    nodes = [
        StoredNode(name=name, instance=name, version="1", started_at=START, seen_at=START, silence=SECOND)
        for name in live
    ]
    leases = [
        Lease(duty=duty, epoch=1, node=holder, instance=holder, remaining=-SECOND if ended else SECOND)
        for duty, holder in zip(Duty, holders, strict=True)
    ]
    return NodesView(nodes=nodes, leases=leases)


def a_plan(instance: str = "a") -> DutyPlan:
    return DutyPlan(instance, LeaseTiming())


def test_a_node_alone_takes_all_free_duties_at_once() -> None:
    assert len(a_plan().to_take(a_view(None, None, None, None))) == len(Duty)


def test_nodes_that_start_together_leave_duties_to_each_other() -> None:
    assert len(a_plan().to_take(a_view(None, None, None, None, live="ab"))) == 1


def test_an_ended_lease_is_left_to_its_owner_first() -> None:
    plan, view = a_plan("b"), a_view("a", "a", "a", "a", live="b", ended=True)

    first, second = plan.to_take(view), plan.to_take(view)

    assert (len(first), len(second)) == (0, len(Duty))


def test_a_node_that_was_cut_off_takes_only_released_duties() -> None:
    plan, view = a_plan("b"), a_view("a", "a", "a", None, live="b", ended=True)

    takes = [[lease.instance for lease in plan.to_take(view, may_replace=False)] for _ in range(3)]

    assert takes == [[None], [None], [None]]


def test_the_node_with_more_duties_takes_a_free_one_later() -> None:
    plan, view = a_plan(), a_view("a", "b", "b", None, live="abc")

    takes = [len(plan.to_take(view)) for _ in range(2)]

    assert takes == [0, 1]


def test_the_wait_for_an_ended_lease_restarts_once_it_was_renewed() -> None:
    plan, view = a_plan("b"), a_view("a", "a", "a", "a", live="b", ended=True)
    plan.to_take(view)

    plan.to_take(a_view("a", "a", "a", "a", live="ab"))

    assert plan.to_take(view) == []


def test_a_node_with_two_more_duties_hands_one_over() -> None:
    plan, view = a_plan(), a_view("a", "a", "a", "b", live="ab")

    handed_over = [plan.to_hand_over(view, now=now) for now in (100.0, 101.0, 100.0 + HAND_OVER_INTERVAL)]

    assert handed_over == [Duty.DELIVERING, None, Duty.DELIVERING]


def test_a_node_hands_nothing_over_to_one_with_one_duty_fewer() -> None:
    assert a_plan().to_hand_over(a_view("a", "a", "b", "c", live="abc"), now=100.0) is None


def test_a_node_hands_nothing_over_while_a_duty_is_free() -> None:
    assert a_plan().to_hand_over(a_view("a", "a", "a", None, live="ab"), now=100.0) is None


def test_a_dead_node_gets_no_duty() -> None:
    view = a_view("a", "a", "a", "a")
    dead = StoredNode(
        name="b", instance="b", version="1", started_at=START, seen_at=START, silence=timedelta(minutes=1)
    )

    assert a_plan().to_hand_over(NodesView(nodes=[*view.nodes, dead], leases=view.leases), now=100.0) is None
