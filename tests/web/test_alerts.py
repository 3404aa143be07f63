"""Alerts over HTTP, over a real store."""

from typing import Any

from harness.web_app import TOKEN, WebApp


async def get_json(web: WebApp, path: str) -> Any:
    answer = await web.client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def hold(web: WebApp, route: str = "publish") -> None:
    answer = await web.client.post(f"/api/routes/{route}/hold", json={"why": "maintenance"})
    assert answer.status_code == 200, answer.text


async def release(web: WebApp, route: str = "publish") -> None:
    answer = await web.client.post(f"/api/routes/{route}/release", json={})
    assert answer.status_code == 200, answer.text


async def test_an_alert_is_shown_with_its_cause_and_its_times(web: WebApp) -> None:
    await hold(web)

    (shown,) = (await get_json(web, "/api/alerts"))["items"]

    assert shown["event_id"] == (await get_json(web, "/api/events"))["items"][0]["data"]["event_id"]
    assert {name: shown[name] for name in shown if name not in ("id", "event_id")} == {
        "type": "alert.route_held",
        "state": "open",
        "subject": "publish",
        "message": "An operator holds route publish until it is released: maintenance",
        "remedy": "`kling-receiver routes release publish` releases it, once its destination may be called again.",
        "cause": "maintenance",
        "since": "2026-11-22T10:00:00.000Z",
        "last_seen_at": "2026-11-22T10:00:00.000Z",
        "times": 1,
        "acknowledged": None,
        "closed_at": None,
        "closed_by": None,
    }
    assert await get_json(web, f"/api/alerts/{shown['id']}") == shown


async def test_an_acknowledgement_says_who_and_why(web: WebApp) -> None:
    await hold(web)
    (alert,) = (await get_json(web, "/api/alerts"))["items"]
    headers = {"kling-receiver-actor": "anna"}

    answers = [
        await web.client.post(f"/api/alerts/{alert['id']}/ack", json={"note": note}, headers=headers)
        for note in ("until noon", "again")
    ]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json()["acknowledged"] == {"at": "2026-11-22T10:00:00.000Z", "by": "anna", "note": "until noon"}
    assert answers[1].json() == answers[0].json()
    assert [each["id"] for each in (await get_json(web, "/api/alerts?state=acknowledged"))["items"]] == [alert["id"]]
    assert (await get_json(web, "/api/alerts?state=open,closed"))["items"] == []


async def test_a_closed_alert_cannot_be_acknowledged(web: WebApp) -> None:
    await hold(web)
    await release(web)
    (alert,) = (await get_json(web, "/api/alerts?state=closed"))["items"]

    answer = await web.client.post(f"/api/alerts/{alert['id']}/ack", json={})

    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert alert["closed_by"] == "recovery"


async def test_an_unknown_alert_is_not_found(web: WebApp) -> None:
    for method, path in (("GET", "/api/alerts/none"), ("POST", "/api/alerts/none/ack")):
        answer = await web.client.request(method, path)

        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_a_read_token_may_not_acknowledge(web: WebApp) -> None:
    await hold(web)
    (alert,) = (await get_json(web, "/api/alerts"))["items"]

    answer = await web.client.post(
        f"/api/alerts/{alert['id']}/ack", headers={"authorization": f"Bearer {TOKEN.replace('admin', 'read')}"}
    )

    assert answer.status_code == 403
