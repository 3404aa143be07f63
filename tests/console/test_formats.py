"""How the console writes remedies and costs."""

from decimal import Decimal

import pytest
from harness.factories import a_task
from harness.web_app import WebApp
from store.conftest import decide_always

from receiver.domain.costs import Cost
from receiver.store.interfaces import ById, Change
from receiver.web.console.formats import commands


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("Run `kling-receiver doctor`.", "Run <code>kling-receiver doctor</code>."),
        ("`a` or `b`", "<code>a</code> or <code>b</code>"),
        ("`<b>` & <i>", "<code>&lt;b&gt;</code> &amp; &lt;i&gt;"),
        ("one ` alone <b>", "one ` alone &lt;b&gt;"),
        ("", ""),
    ],
)
def test_a_command_in_a_sentence_is_code_and_all_text_is_escaped(text: str, html: str) -> None:
    assert str(commands(text)) == html


@pytest.mark.asyncio(loop_scope="session")
async def test_a_unit_without_costs_has_no_column(web: WebApp) -> None:
    charges = {"1": {"units": "1.5", "quota": "0", "USD": "2"}, "2": {"units": "3", "USD": "-2"}}
    for name, cost in charges.items():
        task = a_task(id=f"tsk_{name}", kling_id=name, external_task_id=None, label=name, due_at=None)
        task = await web.store.tasks.add(task, b"")
        change = Change(cost=Cost(charges={unit: Decimal(amount) for unit, amount in cost.items()}, raw="{}"))
        await web.store.tasks.apply(ById(id=task.id), decide_always(change))

    page = await web.client.get("/console/costs?by=label&from=2020-01-01T00:00")

    assert page.status_code == 200
    assert '<th scope="col">units</th>' in page.text
    assert '<th scope="col">USD</th>' in page.text
    assert "quota" not in page.text
