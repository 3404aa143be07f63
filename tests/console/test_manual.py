"""The manual's list reads no more than titles, and a page becomes HTML when someone opens it."""

from receiver.web.console.pages.manual import html_of, manual


def test_listing_the_manual_renders_no_page() -> None:
    html_of.cache_clear()

    pages = manual()
    listed = html_of.cache_info().currsize
    html_of("routes")

    assert pages["routes"].title == "Routes"
    assert (listed, html_of.cache_info().currsize) == (0, 1)
