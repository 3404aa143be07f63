"""Tests where the configuration is found, which values it allows and where each value comes from."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from harness.settings_files import CANARY, SHIPPED, WITH_CANARIES, config_error, load_text

from receiver.domain.secret import Secret
from receiver.settings import Address, Dialect, Settings, Verify, effective_settings, find, load, schema

KEYED = {"KLING_API_KEY": "sk-canary-0123456789"}


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, Path]:
    """Make a working folder, a home and one more file, each with a configuration in it."""
    found = {
        "named": tmp_path / "named.toml",
        "here": tmp_path / "here" / "config.toml",
        "xdg": tmp_path / "xdg" / "kling-receiver" / "config.toml",
        "home": tmp_path / "home" / ".config" / "kling-receiver" / "config.toml",
    }
    for path in found.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return found


def test_the_file_of_the_command_line_comes_first(paths: dict[str, Path], tmp_path: Path) -> None:
    environ = {"KLING_RECEIVER_CONFIG": str(paths["xdg"])}

    assert find(paths["named"], environ, tmp_path / "here") == paths["named"]


def test_the_file_of_the_environment_comes_second(paths: dict[str, Path], tmp_path: Path) -> None:
    environ = {"KLING_RECEIVER_CONFIG": "../named.toml"}

    found = find(None, environ, tmp_path / "here")

    assert found is not None
    assert found.resolve() == paths["named"]


def test_the_usual_files_are_searched_in_order(paths: dict[str, Path], tmp_path: Path) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "xdg"), "HOME": str(tmp_path / "home")}
    here = tmp_path / "here"

    first = find(None, environ, here)
    paths["here"].unlink()
    second = find(None, environ, here)
    third = find(None, {"HOME": environ["HOME"]}, here)

    assert [first, second, third] == [paths["here"], paths["xdg"], paths["home"]]
    assert find(None, {}, here) in (None, Path("/etc/kling-receiver/config.toml"))


def test_without_a_file_the_defaults_apply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    loaded = load(None, KEYED)

    assert loaded.path is None
    assert loaded.settings.public.listen == Address("127.0.0.1", 8700)
    assert loaded.settings.store.path == tmp_path / "var" / "receiver.db"
    assert loaded.settings.data_dir == tmp_path / "var"
    assert loaded.settings.kling.api_key == Secret(KEYED["KLING_API_KEY"])
    assert set(loaded.origins.values()) == {"default"}
    assert loaded.warnings == ()


def test_the_shipped_file_is_valid_and_warns_about_the_missing_key() -> None:
    loaded = load(SHIPPED, {})

    (warning,) = loaded.warnings
    assert loaded.settings.kling.api_key is None
    assert "config.toml:" in warning
    assert "the environment variable KLING_API_KEY is not set" in warning


def test_settings_can_be_made_in_code() -> None:
    made = Settings()

    assert made.callbacks.verify is Verify.TERMINAL
    assert made.kling.dialect is Dialect.OFFICIAL
    assert made.poll.give_up_after == timedelta(hours=48)
    assert made.kling.api_key is None


def test_settings_are_frozen() -> None:
    kling = Settings().kling

    with pytest.raises(ValueError, match="frozen"):
        setattr(kling, "timeout", timedelta(1))  # noqa: B010 -- what the type checker forbids must also fail


def test_each_listener_needs_its_own_address(tmp_path: Path) -> None:
    found = config_error(tmp_path, '[public]\nlisten = "0.0.0.0:8701"\n[admin]\n')

    assert found.startswith("config.toml:3: admin.listen: is also the public listener's address")


@pytest.mark.parametrize(
    ("public", "admin"),
    [("127.0.0.1:8701", "127.0.0.2:8701"), ("127.0.0.1:0", "127.0.0.1:0"), ("0.0.0.0:1", "[::1]:2")],
)
def test_listeners_on_different_addresses_are_accepted(public: str, admin: str, tmp_path: Path) -> None:
    loaded = load_text(tmp_path, f'[public]\nlisten = "{public}"\n[admin]\nlisten = "{admin}"\n')

    assert (str(loaded.settings.public.listen), str(loaded.settings.admin.listen)) == (public, admin)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            'api_key = "a"\naccess_key = "b"\nsecret_key = "c"',
            "config.toml:3: kling.access_key: is given together with api_key",
        ),
        ('access_key = "b"', "config.toml:1: kling.secret_key: access_key is given without secret_key"),
        ('secret_key = "b"', "config.toml:2: kling.secret_key: secret_key is given without access_key"),
    ],
)
def test_kling_needs_one_complete_kind_of_key(text: str, fault: str, tmp_path: Path) -> None:
    assert config_error(tmp_path, f"[kling]\n{text}").startswith(fault)


@pytest.mark.parametrize(("environ", "api_key"), [(KEYED, ""), ({}, 'api_key = "env:KLING_API_KEY"\n')])
def test_a_pair_of_keys_outweighs_the_default_variable(
    environ: Mapping[str, str], api_key: str, tmp_path: Path
) -> None:
    loaded = load_text(tmp_path, f'[kling]\n{api_key}access_key = "b"\nsecret_key = "c"', environ)

    assert loaded.settings.kling.api_key is None
    assert loaded.settings.kling.access_key == Secret("b")
    assert loaded.warnings == ()


@pytest.mark.parametrize("never", ["", "0", "0s", "0h"])
def test_the_stuck_alert_can_be_turned_off(never: str, tmp_path: Path) -> None:
    assert load_text(tmp_path, f'[poll]\nstuck_after = "{never}"').settings.poll.stuck_after is None
    assert load_text(tmp_path, '[poll]\nstuck_after = "20m"').settings.poll.stuck_after == timedelta(minutes=20)
    assert "is not a duration" in config_error(tmp_path, '[poll]\nstuck_after = "never"')


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('after = "10m"', "poll.every: (5m) is shorter than after (10m)"),
        ('every = "10s"', "poll.every: (10s) is shorter than after (30s)"),
        ('give_up_after = "1m"', "poll.give_up_after: (1m) is shorter than every (5m)"),
    ],
)
def test_contradicting_poll_intervals_are_refused(text: str, fault: str, tmp_path: Path) -> None:
    assert fault in config_error(tmp_path, f"[poll]\n{text}")


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:kept/here.db", "{folder}/kept/here.db"),
        ("sqlite:/abs/here.db", "/abs/here.db"),
        ("sqlite:////abs/here.db", "/abs/here.db"),
        ("sqlite:~/here.db", "/home/one/here.db"),
    ],
)
def test_the_stores_path_is_relative_to_the_configuration(url: str, path: str, tmp_path: Path) -> None:
    loaded = load_text(tmp_path, f'[store]\nurl = "{url}"', {"HOME": "/home/one"})

    assert str(loaded.settings.store.path) == path.format(folder=tmp_path)
    assert loaded.settings.data_dir == loaded.settings.store.path.parent


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql://one:hunter2@db/receiver", 'contains a password; write it as password = "env:PGPASSWORD"'),
        ("postgresql://db/receiver?password=hunter2", 'contains a password; write it as password = "env:PGPASSWORD"'),
        ("postgresql://one@db", "names no database"),
        ("postgresql://one@db:port/receiver", "must be the URL of a PostgreSQL database"),
        ("mysql://db/receiver", 'must be "sqlite:" and the path of a file'),
        ("sqlite:", 'must be "sqlite:" and the path of a file'),
        ("sqlite::memory:", 'must be "sqlite:" and the path of a file'),
        ("sqlite:///three/slashes.db", 'must be "sqlite:" and the path of a file'),
        ("sqlite:a.db?mode=ro", 'must be "sqlite:" and the path of a file'),
        ("sqlite:.", "is a folder; write the path of a file in it"),
        ("sqlite:kept/", "is a folder; write the path of a file in it"),
        ("sqlite:~/a.db", "begins with ~, but $HOME is not set"),
        ("var/receiver.db", 'must be "sqlite:" and the path of a file'),
    ],
)
def test_only_a_file_or_a_server_is_a_store(url: str, reason: str, tmp_path: Path) -> None:
    found = config_error(tmp_path, f'[store]\nurl = "{url}"')

    assert found.startswith("config.toml:2: store.url: ")
    assert reason in found
    assert "hunter2" not in found


def test_a_store_on_postgresql_has_its_files_beside_the_configuration(tmp_path: Path) -> None:
    text = '[store]\nurl = "postgresql://kling@db/kling?sslmode=require"\npassword = "env:PW"\nnode = "node-1"'
    loaded = load_text(tmp_path, text, {"PW": "hunter2"})

    store = loaded.settings.store
    assert (store.url.is_postgres, store.password and store.password.reveal()) == (True, "hunter2")
    assert (store.node, loaded.settings.data_dir) == ("node-1", tmp_path / "var")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('password = "x"', "store.password: is for PostgreSQL alone"),
        ('node = "two words"', "store.node: must be up to 63 letters"),
    ],
)
def test_a_setting_of_postgresql_is_checked(line: str, reason: str, tmp_path: Path) -> None:
    assert reason in config_error(tmp_path, f"[store]\n{line}")


def test_the_archives_path_is_relative_to_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    assert load_text(tmp_path, '[archive]\ndir = "kept"').settings.archive.dir == tmp_path / "kept"
    assert load_text(tmp_path, '[archive]\ndir = ""').settings.archive.dir is None
    assert "is a file; name a folder" in config_error(tmp_path, '[archive]\ndir = "file"')


@pytest.mark.parametrize(
    "text",
    [
        '[store]\nurl = "sqlite:@"',
        '[archive]\ndir = "@"',
        '[[routes]]\nscript = { command = ["./@"] }\nname = "a"',
        '[[routes]]\nscript = { command = ["/bin/true"], cwd = "@" }\nname = "a"',
    ],
)
def test_an_inaccessible_path_is_named_in_every_setting(text: str, tmp_path: Path) -> None:
    text = text.replace("@", "x" * 300)

    if "[store]" in text:
        message = config_error(tmp_path, text, KEYED)
    else:
        (message,) = load_text(tmp_path, text, KEYED).warnings

    assert message.removeprefix(f"{tmp_path}/").startswith("config.toml:2: ")
    assert message.endswith("x cannot be inspected: File name too long; name another path")


@pytest.mark.parametrize("length", ["10m", "0s", "11y", "4000d", "999999999999999d"])
def test_durations_have_limits(length: str, tmp_path: Path) -> None:
    text = f'[retention]\nevents = "{length}"'

    if length == "10m":
        assert load_text(tmp_path, text).settings.retention.events == timedelta(minutes=10)
    else:
        assert config_error(tmp_path, text).startswith("config.toml:2: retention.events: ")


def test_each_value_has_its_source(tmp_path: Path) -> None:
    text = '[kling]\ntimeout = "5s"\nslots = { image = 3 }\n[[routes]]\nname = "a"\nwebhook = { url = "http://h/x" }\n'

    loaded = load_text(
        tmp_path, text, {"KLING_RECEIVER__POLL__AFTER": "1s", "KLING_RECEIVER__ROUTES__0__CONCURRENCY": "2"}
    )

    origins = {key: origin.removeprefix(f"{tmp_path}/") for key, origin in loaded.origins.items()}
    assert origins["kling.timeout"] == "config.toml:2"
    assert origins["kling.slots.image"] == "config.toml:3"
    assert origins["kling.slots.video"] == "default"
    assert origins["poll.after"] == "environment"
    assert origins["routes.0.webhook.url"] == "config.toml:6"
    assert origins["routes.0.concurrency"] == "environment"
    assert origins["routes.0.retry"] == "default"


def test_a_file_in_the_working_folder_is_shown_by_its_short_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    loaded = load_text(tmp_path, "[poll]\nafter = '1s'")

    assert loaded.origins["poll.after"] == "config.toml:2"


def test_the_effective_settings_have_every_key_and_no_secret(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, WITH_CANARIES, {"ROTATED": CANARY})

    values = {each.key: each.value for each in effective_settings(loaded)}

    assert CANARY not in repr(values)
    assert CANARY not in repr(loaded)
    assert values["admin.token"] == "***"
    assert values["kling.api_key"] == ""
    assert values["callbacks.signing_secrets"] == ["***"]
    assert values["routes.0.webhook.url"] == "https://chat.example.com/***"
    assert values["routes.0.webhook.secret"] == ["***", "***"]
    assert values["routes.0.webhook.headers.authorization"] == "***"
    assert values["routes.0.retry"] == ["5s", "30s", "2m", "10m", "30m", "1h"]
    assert values["routes.1.script.env.PASSWORD"] == "***"
    assert values["callbacks.max_body"] == "1MiB"
    assert "routes.0.script" not in values


def test_the_schema_has_every_key_with_its_default() -> None:
    described = schema()

    definitions = described["$defs"]
    undescribed = [
        f"{name}.{key}"
        for name, section in definitions.items()
        for key, each in section["properties"].items()
        if "$ref" not in each and not each.get("description")
    ]
    assert undescribed == []
    assert definitions["KlingSettings"]["properties"]["timeout"]["default"] == "30s"
    assert definitions["PublicSettings"]["properties"]["listen"]["default"] == "127.0.0.1:8700"
    assert definitions["CallbackSettings"]["properties"]["verify"]["enum"] == ["never", "terminal", "always"]
    assert definitions["CallbackSettings"]["properties"]["max_body"]["default"] == "1MiB"
    assert definitions["RouteSettings"]["required"] == ["name"]
    assert "path" not in definitions["StoreSettings"]["properties"]
    assert described["additionalProperties"] is False


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ('[admin]\nlisten = "0.0.0.0:8701"', "config.toml:2: admin.listen: is open to other machines"),
        ('[admin]\ntoken = "short"', "config.toml:2: admin.token: is easy to guess"),
        ('[admin]\nread_token = "short"', "config.toml:2: admin.read_token: is easy to guess"),
        ('[public]\nurl = "http://hooks.example.com"', "config.toml:2: public.url: is plain http"),
        ('[kling]\nbase_url = "http://gateway.example.com"', "config.toml:2: kling.base_url: is plain http"),
        ('[gateway]\nsecret = "whsec_dGVzdA=="', "config.toml:2: gateway.secret: is a short key"),
        ('[callbacks]\nsigning_secrets = ["whsec_dGVzdA=="]', "config.toml:2: callbacks.signing_secrets.0: is a short"),
        ('[kling]\napi_key = ""', "config.toml:2: kling.api_key: no key is configured"),
        (
            '[archive]\ndir = "/srv/my résults"',
            "config.toml:2: archive.dir: contains ' é', so scripts get no KLING_ASSET_DIR",
        ),
        (
            '[poll]\nstuck_after = "60h"',
            "config.toml:2: poll.stuck_after: (60h) is not shorter than give_up_after (48h)",
        ),
        (
            '[callbacks]\nexpire_after = "1h"',
            "config.toml:2: callbacks.expire_after: (1h) is shorter than poll.give_up_after (48h)",
        ),
        ('[retention]\nbodies = "100d"', "config.toml:2: retention.bodies: (100d) is longer than events (90d)"),
    ],
)
def test_a_probable_mistake_in_a_valid_setting_is_a_warning(text: str, warning: str, tmp_path: Path) -> None:
    loaded = load_text(tmp_path, text, KEYED)

    (found,) = loaded.warnings
    assert found.removeprefix(f"{tmp_path}/").startswith(warning)


@pytest.mark.parametrize(
    ("key", "warning"),
    [
        ("...", "is a placeholder"),
        ("your-api-key", "is a placeholder"),
        ("<your key>", "is a placeholder"),
        ("Bearer sk-canary", 'begins with "Bearer"'),
    ],
)
def test_a_key_that_kling_would_refuse_is_a_warning_without_the_key(tmp_path: Path, key: str, warning: str) -> None:
    (text,) = load_text(tmp_path, f'[kling]\napi_key = "{key}"\n').warnings

    assert f"config.toml:2: kling.api_key: {warning}" in text
    assert key not in text


@pytest.mark.parametrize("key", ["sk-0123456789", "your.key.0123", "a", "xx-0123"])
def test_a_key_that_may_be_real_causes_no_warning(tmp_path: Path, key: str) -> None:
    assert load_text(tmp_path, f'[kling]\napi_key = "{key}"\n').warnings == ()


@pytest.mark.parametrize("path", ["/callbacks", "/callbacks/", "/kling/callbacks"])
def test_a_public_url_with_the_callbacks_path_is_a_warning(tmp_path: Path, path: str) -> None:
    (warning,) = load_text(tmp_path, f'[public]\nurl = "https://hooks.example.com{path}"\n', KEYED).warnings

    assert "config.toml:2: public.url: ends in /callbacks" in warning
