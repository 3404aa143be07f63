"""The template engine is loaded by the first visit, for all pages, and a reload keeps it."""

from harness.clock import FakeClock
from harness.waiting import wait_until

from receiver.web.console.renderer import Renderer, template_engine


async def test_the_first_visit_loads_the_templates_of_all_pages() -> None:
    clock = FakeClock()
    engine = template_engine(clock.now)
    assert not engine.cache

    await Renderer(clock).load()
    first = {name for _, name in engine.cache or {}}
    await wait_until(lambda: {name for _, name in engine.cache or {}} == set(engine.list_templates()), seconds=60)

    assert first == {"layout.html"}, "the login waits for no other one"


async def test_a_reload_keeps_the_loaded_templates() -> None:
    clock = FakeClock()
    await Renderer(clock).load()
    before = template_engine(clock.now)
    assert before.cache

    await Renderer(clock).load()  # as the console that a reload makes

    assert template_engine(clock.now) is before
