"""Events and subscribers of a web app's event stream."""

from harness.web_app import WebApp

from receiver.domain.model import Event, Verification

BEFORE_ALL = "evt_" + "0" * 25
JOB = {"prompt": "a cat", "subject_image_list": [{"subject_image": "https://example.com/a.png"}]}


def subscriber_count(web: WebApp) -> int:
    return len(web.notifiers.events._subscribers)


async def add_events(web: WebApp, count: int = 1, *, type_: str = "alert.test", at: str = "") -> list[str]:
    ids = [at or web.ids.new("evt") for _ in range(count)]
    events = [
        Event(
            id=event_id,
            type=type_,
            envelope=b'{"type":"%s","data":{"event_id":"%s"}}' % (type_.encode(), event_id.encode()),
            body=b'{ "as": "Kling\\r\\nwrote it",\r\n\r\n "n": 1.0 }',
            verified=Verification.NONE,
            created_at=web.clock.now(),
        )
        for event_id in ids
    ]
    await web.store.tasks.add_events(events, [])
    web.notifiers.events.notify()
    return ids
