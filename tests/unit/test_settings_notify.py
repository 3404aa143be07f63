"""Routes that tell people: the URLs of Apprise and the templates."""

from pathlib import Path

import pytest
from harness.settings_files import config_error, load_text

from receiver.domain.redaction import Redactor
from receiver.domain.secret import Secret
from receiver.settings import effective_settings, secrets_in
from receiver.settings.notify import secret_parts

TELEGRAM = "tgram://123456789:AbcdefghijK/42"


def notify(text: str) -> str:
    return f'[[routes]]\nname = "a"\non = ["alert"]\n[routes.notify]\n{text}\n'


def test_a_notify_needs_only_a_url(tmp_path: Path) -> None:
    text, environ = notify('urls = "env:TELEGRAM_URL"'), {"TELEGRAM_URL": TELEGRAM}

    (route,) = load_text(tmp_path, text, environ).settings.routes

    assert route.notify is not None
    assert [url.reveal() for url in route.notify.urls] == [TELEGRAM]
    assert route.notify.services == ("tgram",)
    assert (route.notify.title, route.notify.body, route.notify.timeout.total_seconds()) == (None, None, 30)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("urls = []", "urls: must not be empty"),
        ('urls = ["no url at all"]', "must be a URL of Apprise"),
        ('urls = ["json://x"]\ntitle = "{a"', 'title: has a "{" without "}" at character 1'),
        ('urls = ["json://x"]\nbody = "ok } no"', 'body: has a "}" without "{" at character 4'),
        ('urls = ["json://x"]\nbody = "{}"', "body: has empty braces"),
        ('urls = ["json://x"]\nbody = "{a b}"', 'body: has "{a b}", which is not a JMESPath expression'),
        ('urls = ["json://x"]\nbody = "{nope(a)}"', 'calls "nope", which is not a JMESPath function'),
    ],
)
def test_an_error_names_the_file_the_line_and_the_key_and_no_url(tmp_path: Path, text: str, error: str) -> None:
    found = config_error(tmp_path, notify(text))

    assert error in found
    assert found.startswith("config.toml:")
    assert "no url at all" not in found


def test_a_route_has_only_one_destination(tmp_path: Path) -> None:
    both = notify('urls = ["json://x"]') + '[routes.webhook]\nurl = "https://x.example"\n'

    assert "is given together with webhook" in config_error(tmp_path, both)


def test_without_the_extra_the_error_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("receiver.settings.notify.find_spec", lambda _: None)

    error = config_error(tmp_path, notify('urls = ["json://x"]'))

    assert "make notify" in error
    assert "pip install 'kling-receiver[notify]'" in error


@pytest.mark.parametrize(
    ("url", "echo"),
    [
        (TELEGRAM, "https://api.telegram.org/bot123456789:AbcdefghijK/sendMessage"),
        ("slack://T1JJ3T3L2X/A1BRTD4JD9/TIiajkdnlazkcOXrIdevi7FQ/#ops", "token TIiajkdnlazkcOXrIdevi7FQ is revoked"),
        ("discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js", "/webhooks/4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js"),
        ("mailtos://anna:pa%40ssword99@smtp.example.com?to=x@y.example", "535 anna pa@ssword99 smtp.example.com"),
        ("ntfys://secret-topic-77@ntfy.example.com/other-topic-88", "https://ntfy.example.com/other-topic-88"),
    ],
)
def test_the_parts_of_a_url_are_redacted_and_its_host_is_not(url: str, echo: str) -> None:
    redacted = Redactor(secret_parts(Secret(url))).text(echo)

    tokens = ["AbcdefghijK", "TIiajkdnlazkcOXrIdevi7FQ", "JHMHI8qBe7bk", "pa@ssword99", "other-topic-88"]
    assert not [token for token in tokens if token in redacted]
    assert ("example.com" in redacted) == ("example.com" in echo)


def test_no_url_is_shown_and_each_part_is_known_as_a_secret(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, notify(f'urls = ["{TELEGRAM}"]'))

    assert "Abcdefghij" not in str(effective_settings(loaded))
    assert "Abcdefghij" not in repr(loaded.settings)
    assert "AbcdefghijK" in {secret.reveal() for secret in secrets_in(loaded.settings)}
