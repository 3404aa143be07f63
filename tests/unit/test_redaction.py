"""Known secrets are hidden in every encoding; everything else stays as it is."""

import json
from urllib.parse import quote

import pytest

from receiver.domain.redaction import Redactor
from receiver.domain.secret import Secret
from receiver.settings import Settings, secrets_in

KEY = 'sk/canary+4711"8'


@pytest.mark.parametrize("written", [KEY, json.dumps(KEY)[1:-1], quote(KEY, safe=""), f"Bearer {KEY}"])
def test_a_known_secret_is_hidden_in_every_encoding(written: str) -> None:
    redactor = Redactor([Secret(KEY)])

    assert "canary" not in redactor.text(f"bad {written}!")
    assert redactor.values(f"bad {written}!").endswith("***!")
    assert redactor.body(f"bad {written}!".encode()).endswith(b"***!")


@pytest.mark.parametrize(
    ("secret", "written"),
    [
        ("canary&key<17", "canary\\u0026key\\u003c17"),  # as Go writes it in JSON
        ("canary/key+17==", "canary/key+17\\u003d\\u003d"),  # Gson
        ("canary/key+17==", "canary/key\\u002B17=="),  # .NET
        ("canary/key+17==", "canary/key%2B17%3D%3D"),  # a query
        ("canary/key+17==", "canary%2fkey%2b17%3d%3d"),  # a query by .NET
        ("canary/key+17==", "canary&#x2F;key+17&#x3D;&#x3D;"),  # a web page
        ("canary&key'17", "canary&amp;key&#x27;17"),
        ("canary&key'17", "canary&amp;key'17"),
    ],
)
def test_a_secret_is_hidden_as_common_encoders_write_it(secret: str, written: str) -> None:
    assert Redactor([Secret(secret)]).body(f"echo {written}!".encode()) == b"echo ***!"


def test_a_header_value_hides_its_key_alone_too() -> None:
    assert Redactor([Secret("Bearer canary-0815")]).values("key canary-0815") == "key ***"


def test_only_the_newest_runtime_secrets_are_remembered_and_hidden() -> None:
    redactor = Redactor([Secret("configured-canary")])
    for number in range(40):
        redactor.add(Secret(f"signed-canary-{number:02}"))

    assert redactor.values("signed-canary-39 configured-canary") == "*** ***"
    assert redactor.values("signed-canary-00") == "signed-canary-00"


def test_the_longer_of_two_secrets_is_hidden_first() -> None:
    assert Redactor([Secret("canary-12"), Secret("canary-1234")]).values("canary-1234") == "***"


def test_a_short_secret_does_not_change_ordinary_words() -> None:
    assert Redactor([Secret("key")]).body(b'{"key": "monkey"}') == b'{"key": "monkey"}'


def test_a_body_keeps_its_signed_urls_and_a_text_does_not() -> None:
    url = "https://cdn.example.com/a.png?sig=abc"
    redactor = Redactor([Secret(KEY)])

    assert redactor.body(url.encode()) == url.encode()
    assert redactor.text(url) == "https://cdn.example.com/a.png?***"


def test_every_secret_of_the_configuration_is_known() -> None:
    webhook = {
        "url": "https://a.example",
        "secret": ["route-canary-0123456789", "old-canary-0123456789"],
        "headers": {"authorization": "Bearer plain-canary", "x-project": "ads"},
    }
    settings = Settings.model_validate(
        {
            "admin": {"token": "admin-canary-0123456789"},
            "kling": {"api_key": "kling-canary-0123456789"},
            "callbacks": {"signing_secrets": ["callback-canary-0123456789"]},
            "gateway": {"secret": "gateway-canary-0123456789"},
            "routes": [{"name": "hook", "webhook": webhook}],
        }
    )

    assert {secret.reveal() for secret in secrets_in(settings)} == {
        "admin-canary-0123456789",
        "kling-canary-0123456789",
        "callback-canary-0123456789",
        "gateway-canary-0123456789",
        "route-canary-0123456789",
        "old-canary-0123456789",
        "Bearer plain-canary",
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("POST /callbacks/dG9rZW4-_x1 HTTP/1.1", "POST /callbacks/*** HTTP/1.1"),
        ("path='/console/login/dG9rZW4-_x1' code='store'", "path='/console/login/***' code='store'"),
        ("https://hooks.example.com/callbacks/dG9rZW4?x=1", "https://hooks.example.com/callbacks/***?***"),
        ("('authorization', 'Bearer abc.def-123')", "('authorization', 'Bearer ***')"),
        ("secret whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw failed", "secret whsec_*** failed"),
        ("jwt eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJhIn0.c2ln", "jwt eyJ***"),
        ("https://user:pass@example.com/a?sig=1", "https://***@example.com/a?***"),
        ("https://cdn.example.com/a.png?Expires=1&Signature=x", "https://cdn.example.com/a.png?***"),
        ("https://cdn.example.com/a.png", "https://cdn.example.com/a.png"),
        ("the bearer of bad news", "the bearer of bad news"),
    ],
)
def test_text_that_looks_like_a_secret_is_hidden(text: str, shown: str) -> None:
    assert Redactor().text(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f'{{"u":"https://h/callbacks/{"a-_Z" * 10}123"}}', '{"u":"https://h/callbacks/***"}'),
        (f'{{"u":"https:\\/\\/h\\/callbacks\\/{"b" * 43}"}}', '{"u":"https:\\/\\/h\\/callbacks\\/***"}'),
        (f"next=https%3A%2F%2Fh%2Fcallbacks%2F{'c' * 43}&n=1", "next=https%3A%2F%2Fh%2Fcallbacks%2F***&n=1"),
        (f"https://h/callbacks/{'d' * 44}", f"https://h/callbacks/{'d' * 44}"),
        ("https://h/callbacks/kling?signature=x", "https://h/callbacks/kling?signature=x"),
    ],
)
def test_a_callback_token_is_hidden_in_bodies(text: str, shown: str) -> None:
    assert Redactor().body(text.encode()) == shown.encode()
    assert Redactor().values(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://a.example/b?sig=c d", "https://a.example/b?*** d"),
        ("a://b://c?sig=d", "a://b://c?***"),
        ("https://a.example/b? d", "https://a.example/b? d"),
        ("https://a.example/b#c?d", "https://a.example/b#c?d"),
        ("eyJhbGci.eyJpc3Mi.c2ln!", "eyJ***!"),
        ("eyJhbGci-eyJhbGci.eyJpc3Mi", "eyJ***"),
        ("eyJhbGci. eyJhbGci", "eyJhbGci. eyJhbGci"),
    ],
)
def test_only_the_secret_part_of_a_url_or_a_token_is_masked(text: str, shown: str) -> None:
    assert Redactor().text(text) == shown
