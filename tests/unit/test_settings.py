"""Loading the configuration: where it is found, what holds, who said so, and every fault at once."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from harness.settings_files import config_error, config_errors, load_text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from receiver.domain.errors import ConfigurationError
from receiver.domain.model import Secret
from receiver.settings import Address, Dialect, Settings, Verify, effective_settings, find, load, schema

SHIPPED = Path(__file__).parents[2] / "config.toml"
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


def test_the_file_named_on_the_command_line_goes_before_all_others(paths: dict[str, Path], tmp_path: Path) -> None:
    environ = {"KLING_RECEIVER_CONFIG": str(paths["xdg"])}

    assert find(paths["named"], environ, tmp_path / "here") == paths["named"]


def test_then_the_file_that_the_environment_names(paths: dict[str, Path], tmp_path: Path) -> None:
    environ = {"KLING_RECEIVER_CONFIG": "../named.toml"}

    found = find(None, environ, tmp_path / "here")

    assert found is not None
    assert found.resolve() == paths["named"]


def test_then_the_working_folder_then_the_users_then_the_systems(paths: dict[str, Path], tmp_path: Path) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "xdg"), "HOME": str(tmp_path / "home")}
    here = tmp_path / "here"

    first = find(None, environ, here)
    paths["here"].unlink()
    second = find(None, environ, here)
    third = find(None, {"HOME": environ["HOME"]}, here)

    assert [first, second, third] == [paths["here"], paths["xdg"], paths["home"]]
    assert find(None, {}, here) in (None, Path("/etc/kling-receiver/config.toml"))


@pytest.mark.parametrize("named_by", ["command line", "environment"])
def test_a_named_file_that_is_not_there_is_a_fault(named_by: str, tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    by_hand = named_by == "command line"

    with pytest.raises(ConfigurationError, match=r"missing\.toml: the file does not exist"):
        load(missing if by_hand else None, {} if by_hand else {"KLING_RECEIVER_CONFIG": str(missing)})


@pytest.mark.parametrize("content", ["folder", "bytes"])
def test_a_file_that_cannot_be_read_is_a_fault(content: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    if content == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"[kling]\n# \xff\n")

    with pytest.raises(ConfigurationError, match=r"cannot be read: Is a directory|config\.toml:2: is not UTF-8"):
        load(path, {})


def test_without_a_file_the_defaults_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    loaded = load(None, KEYED)

    assert loaded.path is None
    assert loaded.settings.public.listen == Address("127.0.0.1", 8700)
    assert loaded.settings.store.path == tmp_path / "var" / "receiver.db"
    assert loaded.settings.data_dir == tmp_path / "var"
    assert loaded.settings.kling.api_key == Secret(KEYED["KLING_API_KEY"])
    assert set(loaded.origins.values()) == {"default"}
    assert loaded.warnings == ()


def test_the_shipped_file_starts_without_a_key_and_says_what_is_missing() -> None:
    loaded = load(SHIPPED, {})

    (warning,) = loaded.warnings
    assert loaded.settings.kling.api_key is None
    assert "config.toml:" in warning
    assert "the environment variable KLING_API_KEY is not set" in warning


def test_values_made_in_code_are_values_too() -> None:
    made = Settings()

    assert made.callbacks.verify is Verify.TERMINAL
    assert made.kling.dialect is Dialect.OFFICIAL
    assert made.poll.give_up_after == timedelta(hours=48)
    assert made.kling.api_key is None


def test_settings_are_frozen() -> None:
    kling = Settings().kling

    with pytest.raises(ValueError, match="frozen"):
        setattr(kling, "timeout", timedelta(1))  # noqa: B010 -- what the type checker forbids must also fail


def test_every_fault_is_named_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """
[public]
listen = "8700"
[poll]
after = 30
[kling]
timeuot = "30s"
[[routes]]
name = "No Good"
webhook = { url = "https://app.example.com" }
[[routes]]
name = "same"
webhook = { url = "gopher://app.example.com" }
[[routes]]
name = "same"
script = { command = [] }
"""

    found = config_errors(tmp_path, text, {"KLING_RECEIVER__CALLBACKS__VERIFY": "sometimes"})

    assert [fault.split(": ")[0:2] for fault in found] == [
        ["config.toml:3", "public.listen"],
        ["config.toml:5", "poll.after"],
        ["config.toml:7", "kling.timeuot"],
        ["config.toml:9", "routes.0.name"],
        ["config.toml:13", "routes.1.webhook.url"],
        ["config.toml:15", "routes.2.name"],
        ["config.toml:16", "routes.2.script.command"],
        ["KLING_RECEIVER__CALLBACKS__VERIFY", "callbacks.verify"],
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('[kling]\ntimeuot = "30s"', 'config.toml:2: kling.timeuot: unknown key; did you mean "timeout"?'),
        ("[klng]\n", 'config.toml:1: klng: unknown key; did you mean "kling"?'),
        ("[kling]\nslots = { vdeo = 1 }", 'config.toml:2: kling.slots.vdeo: unknown key; did you mean "video"?'),
        ('max_body = "1MiB"\n', "config.toml:1: max_body: unknown key; it belongs in [callbacks]"),
        ('[poll]\nmax_body = "1MiB"\n', "config.toml:2: poll.max_body: unknown key; it belongs in [callbacks]"),
        ('listen = "x"\n', "config.toml:1: listen: unknown key; it belongs in [public] or [admin]"),
        ("[archive]\nzzz = 1\n", 'config.toml:2: archive.zzz: unknown key; expected: "dir", "storage"'),
        ("[store]\npath = 'x'", 'config.toml:2: store.path: unknown key; expected: "url"'),
        ("kling = 3", "config.toml:1: kling: must be one section; start it with [kling]"),
        ("[[poll]]\n", "config.toml:1: poll: must be one section; start it with [poll]"),
        ("[kling]\nslots = 3\n", "config.toml:2: kling.slots: must be a table, such as { key = ... }"),
        (
            "[routes]\nname='x'",
            "config.toml:1: routes: must be a list of tables; start each route with [[routes]], in dou",
        ),
        ("routes = 'x'", "config.toml:1: routes: must be a list of tables; start each route with [[routes]]"),
    ],
)
def test_a_key_in_the_wrong_place_is_named_with_the_right_one(text: str, fault: str, tmp_path: Path) -> None:
    assert config_error(tmp_path, text).startswith(fault)


def test_a_key_of_a_webhook_that_stands_in_the_route_is_sent_to_its_table(tmp_path: Path) -> None:
    text = '[[routes]]\nname = "a"\nurl = "https://x.example.com"\n'

    assert "config.toml:3: routes.0.url: unknown key; it belongs in [routes.webhook]" in config_errors(tmp_path, text)


def test_both_listeners_want_an_address_of_their_own(tmp_path: Path) -> None:
    found = config_error(tmp_path, '[public]\nlisten = "0.0.0.0:8701"\n[admin]\n')

    assert found.startswith("config.toml:3: admin.listen: is also the public listener's address")


@pytest.mark.parametrize(
    ("public", "admin"),
    [("127.0.0.1:8701", "127.0.0.2:8701"), ("127.0.0.1:0", "127.0.0.1:0"), ("0.0.0.0:1", "[::1]:2")],
)
def test_listeners_that_do_not_meet_are_fine(public: str, admin: str, tmp_path: Path) -> None:
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
def test_kling_is_given_one_kind_of_key_and_the_whole_of_it(text: str, fault: str, tmp_path: Path) -> None:
    assert config_error(tmp_path, f"[kling]\n{text}").startswith(fault)


@pytest.mark.parametrize(("environ", "api_key"), [(KEYED, ""), ({}, 'api_key = "env:KLING_API_KEY"\n')])
def test_a_pair_of_keys_goes_before_the_usual_variable(
    environ: Mapping[str, str], api_key: str, tmp_path: Path
) -> None:
    loaded = load_text(tmp_path, f'[kling]\n{api_key}access_key = "b"\nsecret_key = "c"', environ)

    assert loaded.settings.kling.api_key is None
    assert loaded.settings.kling.access_key == Secret("b")
    assert loaded.warnings == ()


@pytest.mark.parametrize("never", ["", "0", "0s", "0h"])
def test_that_a_task_takes_long_need_not_be_told(never: str, tmp_path: Path) -> None:
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
def test_polling_starts_before_it_slows_and_slows_before_it_ends(text: str, fault: str, tmp_path: Path) -> None:
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
def test_the_store_is_a_file_named_from_the_configurations_folder(url: str, path: str, tmp_path: Path) -> None:
    loaded = load_text(tmp_path, f'[store]\nurl = "{url}"', {"HOME": "/home/one"})

    assert str(loaded.settings.store.path) == path.format(folder=tmp_path)
    assert loaded.settings.data_dir == loaded.settings.store.path.parent


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql://one:hunter2@db/receiver", "this version supports only SQLite"),
        ("postgres://db/receiver", "this version supports only SQLite"),
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
def test_another_store_than_a_file_of_sqlite_is_refused(url: str, reason: str, tmp_path: Path) -> None:
    found = config_error(tmp_path, f'[store]\nurl = "{url}"')

    assert found.startswith("config.toml:2: store.url: ")
    assert reason in found
    assert "hunter2" not in found


def test_the_archive_is_a_folder_from_the_configurations_or_none(tmp_path: Path) -> None:
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
def test_a_path_that_nobody_can_look_at_is_named_wherever_it_stands(text: str, tmp_path: Path) -> None:
    text = text.replace("@", "x" * 300)

    if "[store]" in text:
        said = config_error(tmp_path, text, KEYED)
    else:
        (said,) = load_text(tmp_path, text, KEYED).warnings

    assert said.removeprefix(f"{tmp_path}/").startswith("config.toml:2: ")
    assert said.endswith("x cannot be inspected: File name too long; name another path")


@pytest.mark.parametrize("length", ["10m", "0s", "11y", "4000d", "999999999999999d"])
def test_lengths_of_time_keep_within_reason(length: str, tmp_path: Path) -> None:
    text = f'[retention]\nevents = "{length}"'

    if length == "10m":
        assert load_text(tmp_path, text).settings.retention.events == timedelta(minutes=10)
    else:
        assert config_error(tmp_path, text).startswith("config.toml:2: retention.events: ")


def test_each_value_tells_who_said_it(tmp_path: Path) -> None:
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


def test_a_file_in_the_working_folder_is_called_by_its_short_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    loaded = load_text(tmp_path, "[poll]\nafter = '1s'")

    assert loaded.origins["poll.after"] == "config.toml:2"


CANARY = "canary-0123456789-canary"
WITH_CANARIES = f"""
[admin]
token = "{CANARY}"
[kling]
access_key = "{CANARY}"
secret_key = "{CANARY}"
[callbacks]
signing_secrets = ["{CANARY}"]
[gateway]
secret = "{CANARY}"
[[routes]]
name = "a"
[routes.webhook]
url = "https://chat.example.com/hooks/{CANARY}"
secret = ["{CANARY}", "env:ROTATED"]
headers = {{ authorization = "Bearer {CANARY}" }}
[[routes]]
name = "b"
[routes.script]
command = ["/bin/true"]
env = {{ PASSWORD = "{CANARY}" }}
"""


def test_what_is_shown_holds_every_key_and_no_secret(tmp_path: Path) -> None:
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


def test_no_fault_repeats_a_secret(tmp_path: Path) -> None:
    text = WITH_CANARIES.replace(CANARY, f"{CANARY}\\n") + f'\n[store]\nurl = "postgresql://a:{CANARY}@h"\n'

    found = config_errors(tmp_path, text)

    assert len(found) >= 8
    assert CANARY not in "".join(found)


def test_the_schema_describes_every_key_with_its_default_as_the_file_writes_it() -> None:
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
        ('[public]\nurl = "http://hooks.example.com"', "config.toml:2: public.url: is plain http"),
        ('[kling]\nbase_url = "http://gateway.example.com"', "config.toml:2: kling.base_url: is plain http"),
        ('[gateway]\nsecret = "whsec_dGVzdA=="', "config.toml:2: gateway.secret: is a short key"),
        ('[callbacks]\nsigning_secrets = ["whsec_dGVzdA=="]', "config.toml:2: callbacks.signing_secrets.0: is a short"),
        ('[kling]\napi_key = ""', "config.toml:2: kling.api_key: no key is configured"),
        (
            '[archive]\ndir = "/srv/my résults"',
            "config.toml:2: archive.dir: contains ' é', so KLING_ASSET_DIR stays empty",
        ),
    ],
)
def test_what_is_allowed_and_hardly_meant_is_a_warning(text: str, warning: str, tmp_path: Path) -> None:
    loaded = load_text(tmp_path, text, KEYED)

    (said,) = loaded.warnings
    assert said.removeprefix(f"{tmp_path}/").startswith(warning)


SCRAPS = st.sampled_from(
    [
        *["[", "]", "{", "}", '"', "'", '"""', "=", ".", ",", "#", "\n", "\\u0000", "0x", "inf"],
        *["name", "kling", "routes", "webhook", "on", "1979-05-27 07:32:00"],
        *[' = "30s"\n', " = 1\n", "[kling]\n", "[[routes]]\n", "where = 'a.b'\n"],
    ]
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.one_of(st.text(), st.lists(SCRAPS).map("".join)))
def test_any_text_is_a_configuration_or_a_configuration_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))

    with_faults = _faults(path, {})

    assert all(fault.startswith(f"{path}") for fault in with_faults)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_a_configuration_or_a_configuration_error(data: st.DataObject, tmp_path: Path) -> None:
    text = WITH_CANARIES
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 20)))
    path = tmp_path / "config.toml"
    path.write_text(text[:start] + data.draw(st.one_of(st.just(""), SCRAPS)) + text[end:])

    _faults(path, {})


LEAVES = sorted(each.key for each in effective_settings(load(SHIPPED, {})))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(LEAVES), value=st.one_of(st.text(), st.lists(SCRAPS).map("".join), st.integers().map(str)))
def test_any_value_of_any_variable_is_a_value_or_a_configuration_error(key: str, value: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.touch()
    variable = f"KLING_RECEIVER__{key.upper().replace('.', '__')}"

    _faults(path, {variable: value})


def _faults(path: Path, environ: Mapping[str, str]) -> tuple[str, ...]:
    try:
        load(path, environ)
    except ConfigurationError as exc:
        faults = exc.faults
    else:
        return ()
    assert faults
    assert all(len(fault.splitlines()) == 1 for fault in faults)
    return faults
