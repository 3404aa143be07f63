"""Secrets: as text or by reference, valid for their use, never quoted."""

from pathlib import Path

import pytest
from harness.settings_files import config_error, config_errors, load_route, load_text, route_text

from receiver.domain.errors import ConfigurationError
from receiver.domain.secret import Secret
from receiver.domain.signing import decode_key
from receiver.settings import load

LONG = "a-secret-of-26-characters"
STANDARD = "whsec_dGVzdHNlY3JldHRlc3RzZWNyZXR0ZXN0c2VjcmV0MTI="


def token(folder: Path, reference: str, **environ: str) -> Secret | None:
    """Load a configuration whose admin token is *reference*."""
    return load_text(folder, f'[admin]\ntoken = "{reference}"', environ).settings.admin.token


def fault(folder: Path, reference: str, **environ: str) -> str:
    """Give what is wrong with an admin token that is *reference*."""
    error = config_error(folder, f'[admin]\ntoken = "{reference}"', environ)
    assert error.startswith("config.toml:2: admin.token: ")
    return error


def test_a_secret_is_a_text_or_a_reference(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text(f"{LONG}\n")

    assert token(tmp_path, LONG) == Secret(LONG)
    assert token(tmp_path, "env:TOKEN", TOKEN=LONG) == Secret(LONG)
    assert token(tmp_path, "file:kept") == Secret(LONG)
    assert token(tmp_path, f"file:{tmp_path}/kept") == Secret(LONG)
    assert token(tmp_path, "file:~/kept", HOME=str(tmp_path)) == Secret(LONG)
    assert token(tmp_path, "credential:kept", CREDENTIALS_DIRECTORY=str(tmp_path)) == Secret(LONG)
    assert token(tmp_path, "") is None


@pytest.mark.parametrize("reference", ["env:TOKEN", "file:kept", "credential:kept"])
def test_the_read_token_is_a_reference_too(tmp_path: Path, reference: str) -> None:
    (tmp_path / "kept").write_text(LONG)
    environ = {"TOKEN": LONG, "CREDENTIALS_DIRECTORY": str(tmp_path)}

    loaded = load_text(tmp_path, f'[admin]\nread_token = "{reference}"', environ)

    assert loaded.settings.admin.read_token == Secret(LONG)
    assert loaded.settings.admin.token is None


def test_the_read_token_is_another_one_than_the_token(tmp_path: Path) -> None:
    found = config_error(tmp_path, f'[admin]\ntoken = "{LONG}"\nread_token = "env:TOKEN"', {"TOKEN": LONG})

    assert found.startswith("config.toml:3: admin.read_token: is the same as token")
    assert LONG not in found


def test_a_broken_reference_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    (tmp_path / "large").write_bytes(b"x" * 70_000)

    assert "the environment variable TOKEN is not set; set it" in fault(tmp_path, "env:TOKEN")
    assert "the environment variable TOKEN is empty; set it" in fault(tmp_path, "env:TOKEN", TOKEN="")
    assert "env: must be followed by a variable name" in fault(tmp_path, "env:")
    assert "env: must be followed by a variable name" in fault(tmp_path, "env:$TOKEN")
    assert f"the file {tmp_path}/none does not exist; write the secret there" in fault(tmp_path, "file:none")
    assert "cannot be read: Is a directory" in fault(tmp_path, "file:.")
    assert "is empty; write the secret there" in fault(tmp_path, "file:empty")
    assert "is not UTF-8 text" in fault(tmp_path, "file:bytes")
    assert "is too large for a secret" in fault(tmp_path, "file:large")
    assert "must be a path" in fault(tmp_path, "file:")
    assert "$CREDENTIALS_DIRECTORY is not set; start with systemd and LoadCr" in fault(tmp_path, "credential:kept")
    assert "credential: must be followed by a name" in fault(tmp_path, "credential:../kept")
    assert "the credential" in fault(tmp_path, "credential:kept", CREDENTIALS_DIRECTORY=str(tmp_path))


@pytest.mark.parametrize(
    "value", ["two\nlines of it", " with-a-blank-at-its-start", "with-ümläuts-in-it", "tab\tin it"]
)
def test_a_secret_invalid_in_a_header_is_refused_and_not_quoted(value: str, tmp_path: Path) -> None:
    error = fault(tmp_path, "env:TOKEN", TOKEN=value)

    assert "write only the secret" in error
    assert value not in error


def test_only_klings_key_may_be_unset(tmp_path: Path) -> None:
    unset = load_text(tmp_path, '[kling]\napi_key = "env:OTHER_KEY"')
    found = load_text(tmp_path, '[kling]\napi_key = "env:OTHER_KEY"', {"OTHER_KEY": LONG})

    assert unset.settings.kling.api_key is None
    assert "the environment variable OTHER_KEY is not set" in "".join(unset.warnings)
    assert found.settings.kling.api_key == Secret(LONG)
    assert found.warnings == ()


def test_a_byte_order_mark_is_not_part_of_a_secret(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text(f"{LONG}\r\n", encoding="utf-8-sig")

    assert token(tmp_path, "file:kept") == Secret(LONG)


@pytest.mark.parametrize("reference", ["file:none", "credential:none", "env:not a name"])
def test_a_broken_reference_for_klings_key_is_an_error(reference: str, tmp_path: Path) -> None:
    assert config_error(tmp_path, f'[kling]\napi_key = "{reference}"').startswith("config.toml:2: kling.api_key: ")


@pytest.mark.parametrize(
    ("secret", "signs_with"),
    [(STANDARD, b"testsecrettestsecrettestsecret12"), ("sixteen-letters-", b"sixteen-letters-")],
)
def test_a_signing_secret_is_standard_or_long_enough(secret: str, signs_with: bytes, tmp_path: Path) -> None:
    (found,) = load_text(tmp_path, f'[callbacks]\nsigning_secrets = ["{secret}"]').settings.callbacks.signing_secrets

    assert decode_key(found) == signs_with


@pytest.mark.parametrize(
    ("secret", "reason"),
    [
        ("fifteen-letters", "is too short to sign with"),
        ("whsec_", "the rest is not base64"),
        ("whsec_not base64", "the rest is not base64"),
        ("whsec_dGVzd$", "the rest is not base64"),
        ("", "is empty; write the secret"),
    ],
)
@pytest.mark.parametrize("place", ["callbacks", "webhook"])
def test_an_unusable_signing_secret_is_refused(place: str, secret: str, reason: str, tmp_path: Path) -> None:
    webhook = f'[[routes]]\nname = "a"\nwebhook = {{ url = "https://a.example.com", secret = ["{secret}"] }}'
    callbacks = f'[callbacks]\nsigning_secrets = [\n"{secret}"]'

    error = config_error(tmp_path, callbacks if place == "callbacks" else webhook)

    assert error.startswith("config.toml:3: ")
    assert reason in error


@pytest.mark.parametrize("secret", ['""', "[]"])
def test_an_empty_secret_does_not_mean_unsigned(secret: str, tmp_path: Path) -> None:
    text = f'[[routes]]\nname = "a"\nwebhook = {{ url = "https://a.example.com", secret = {secret} }}'

    assert "routes.0.webhook.secret: is empty; remove the key to send unsigned" in config_error(tmp_path, text)


def test_a_rotation_is_a_list_of_references_newest_first(tmp_path: Path) -> None:
    text = route_text("").replace('hook"', 'hook", secret = ["env:NEW", "env:OLD"]')

    (route,) = load_text(tmp_path, text, {"NEW": STANDARD, "OLD": LONG}).settings.routes

    assert route.webhook is not None
    assert route.webhook.secret == (Secret(STANDARD), Secret(LONG))


def test_a_text_is_a_list_with_one_secret(tmp_path: Path) -> None:
    (route,) = load_text(tmp_path, route_text("").replace('hook"', f'hook", secret = "{STANDARD}"')).settings.routes

    assert route.webhook is not None
    assert route.webhook.secret == (Secret(STANDARD),)


def test_the_gateways_secret_is_a_signing_secret_or_none(tmp_path: Path) -> None:
    assert load_text(tmp_path, f'[gateway]\nsecret = "{LONG}"').settings.gateway.secret == Secret(LONG)
    assert load_text(tmp_path, '[gateway]\nsecret = ""').settings.gateway.secret is None
    assert "is too short to sign with" in config_error(tmp_path, '[gateway]\nsecret = "short"')


def test_a_webhooks_url_may_be_a_reference(tmp_path: Path) -> None:
    text = '[[routes]]\nname = "a"\nwebhook = { url = "env:CHAT" }'

    (route,) = load_text(tmp_path, text, {"CHAT": "https://chat.example.com/hooks/abc"}).settings.routes

    assert route.webhook is not None
    assert route.webhook.url == "https://chat.example.com/hooks/abc"
    assert "the environment variable CHAT is not set" in config_error(tmp_path, text)


def test_headers_are_texts_or_references(tmp_path: Path) -> None:
    headers = '{ x-tenant = "7", authorization = "env:AUTH" }'
    text = f'[[routes]]\nname = "a"\nwebhook = {{ url = "https://a.example.com", headers = {headers} }}'

    (route,) = load_text(tmp_path, text, {"AUTH": "Bearer abc"}).settings.routes

    assert route.webhook is not None
    assert route.webhook.headers == {"x-tenant": "7", "authorization": Secret("Bearer abc")}


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ('authorization = "Bearer env:AUTH"', "store the whole value"),
        ('x = "a\\nb"', "which are not allowed in a header"),
        ('x = "é"', "which are not allowed in a header"),
        ("x = 1", "must be text in quotes"),
        ('"a b" = "1"', '"a b" is not a header name'),
        ('Webhook-Id = "1"', "webhook-id is set by the receiver"),
        ('Content-Length = "1"', "content-length is set by the receiver"),
        ('kling-receiver-attempt = "1"', "kling-receiver-attempt is set by the receiver"),
        ('a = "1", A = "2"', "a is given twice"),
        ('x = "env:NONE"', "the environment variable NONE is not set"),
    ],
)
def test_an_invalid_header_is_refused(headers: str, reason: str, tmp_path: Path) -> None:
    text = f'[[routes]]\nname = "a"\nwebhook = {{ url = "https://a.example.com", headers = {{ {headers} }} }}'

    error = config_error(tmp_path, text)

    assert error.startswith("config.toml:3: routes.0.webhook.headers.")
    assert reason in error


def test_a_scripts_variables_are_texts_or_references(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("-----BEGIN\nabc\n-----END\n")
    env = '{ BUCKET = "results é", KEY = "file:key.pem" }'
    text = f'[[routes]]\nname = "a"\nscript = {{ command = ["/bin/true"], env = {env} }}'

    (route,) = load_text(tmp_path, text).settings.routes

    assert route.script is not None
    assert route.script.env == {"BUCKET": "results é", "KEY": Secret("-----BEGIN\nabc\n-----END")}


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        ('"A B" = "x"', '"A B" is not a variable name'),
        ('KLING_EVENT_ID = "x"', "KLING_EVENT_ID is set by the receiver"),
        ('A = "x\\u0000"', "contains NUL"),
        ("A = 1", "must be text in quotes"),
        ('A = "env:NONE"', "the environment variable NONE is not set"),
    ],
)
def test_an_invalid_variable_of_a_script_is_refused(env: str, reason: str, tmp_path: Path) -> None:
    text = f'[[routes]]\nname = "a"\nscript = {{ command = ["/bin/true"], env = {{ {env} }} }}'

    assert reason in config_error(tmp_path, text)


def test_all_errors_of_a_table_are_reported_at_once(tmp_path: Path) -> None:
    headers = '{ "bad name" = "x", Host = "é", authorization = "Bearer env:X", good = "1", Good = "2" }'
    env = '{ KLING_STATUS = "1", "a-b" = "c", GOOD = "1", "c d" = "e", KEY = "env:NONE" }'
    text = f"""
[[routes]]
name = "a"
webhook.url = "https://a.example.com"
webhook.headers = {headers}
[[routes]]
name = "b"
script.command = ["/bin/true"]
script.env = {env}
"""

    faults = config_errors(tmp_path, text)

    headers, env = "config.toml:5: routes.0.webhook.headers", "config.toml:9: routes.1.script.env"
    expected = [
        f'{headers}.bad name: "bad name" is not a header name',
        f"{headers}.Host: host is set by the receiver",
        f"{headers}.Host: has line breaks or characters other than printable ASCII",
        f"{headers}.authorization: mixes a reference with other text",
        f"{headers}.Good: good is given twice",
        f"{env}.KLING_STATUS: KLING_STATUS is set by the receiver",
        f'{env}.a-b: "a-b" is not a variable name',
        f'{env}.c d: "c d" is not a variable name',
        f"{env}.KEY: the environment variable NONE is not set",
    ]
    assert len(faults) == len(expected)
    assert [fault[: len(start)] for fault, start in zip(faults, expected, strict=True)] == expected


@pytest.mark.parametrize("table", ["1", "[]", '"a=b"'])
def test_headers_and_variables_are_tables(table: str, tmp_path: Path) -> None:
    text = f'[[routes]]\nname = "a"\nscript = {{ command = ["/bin/true"], env = {table} }}'

    assert config_error(tmp_path, text) == "config.toml:3: routes.0.script.env: must be a table, such as { key = ... }"


def test_a_secret_is_never_printed(tmp_path: Path) -> None:
    route = load_route(tmp_path, "")

    assert "app.example.com" not in repr(route)
    assert LONG not in repr(load_text(tmp_path, f'[admin]\ntoken = "{LONG}"'))


REFERENCES = """
[kling]
api_key = "file:/nowhere/key"
[callbacks]
signing_secrets = ["credential:kling"]
[gateway]
secret = "env:REPLY_SECRET"
[archive.storage]
access_key = "credential:s3-access"
secret_key = "credential:s3-secret"
url = "s3://bucket/x"
[[routes]]
name = "app"
webhook = { url = "env:CHAT_URL", secret = ["env:NEW", "env:OLD"], headers = { authorization = "env:TOKEN" } }
[[routes]]
name = "publish"
script = { command = ["/bin/true"], env = { KEY = "file:key" } }
"""


def test_a_program_that_only_finds_the_service_needs_no_secret(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(REFERENCES)

    settings = load(tmp_path / "config.toml", {}, needs_secrets=False).settings

    assert [route.name for route in settings.routes] == ["app", "publish"]
    assert settings.store.path == tmp_path / "var/receiver.db"


def test_the_service_needs_every_secret(tmp_path: Path) -> None:
    assert len(config_errors(tmp_path, REFERENCES)) >= 8


def test_every_program_needs_the_admin_token(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[admin]\ntoken = "env:ADMIN_TOKEN"\n')

    with pytest.raises(ConfigurationError, match="ADMIN_TOKEN is not set"):
        load(tmp_path / "config.toml", {}, needs_secrets=False)

    loaded = load(tmp_path / "config.toml", {"ADMIN_TOKEN": "t" * 16}, needs_secrets=False)
    assert loaded.settings.admin.token == Secret("t" * 16)
