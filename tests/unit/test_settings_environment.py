"""The environment outweighs the file, by key and by route."""

from datetime import timedelta
from pathlib import Path

import pytest
from harness.settings_files import config_error, config_errors, load_text, route_text
from hypothesis import given
from hypothesis import strategies as st

from receiver.domain.secret import Secret
from receiver.settings import Address, Loaded, Settings, Verify
from receiver.settings.environment import apply_environment

PREFIX = "KLING_RECEIVER__"


def load_with_environment(folder: Path, text: str = "", /, **variables: str) -> Loaded:
    """Load *text* in an environment of our variables, named without their prefix."""
    return load_text(folder, text, {f"{PREFIX}{name}": value for name, value in variables.items()})


def test_a_variable_outweighs_the_file(tmp_path: Path) -> None:
    loaded = load_with_environment(
        tmp_path, '[public]\nlisten = "127.0.0.1:1"', PUBLIC__LISTEN="127.0.0.1:2", CALLBACKS__VERIFY="never"
    )

    assert loaded.settings.public.listen == Address("127.0.0.1", 2)
    assert loaded.settings.callbacks.verify is Verify.NEVER


def test_a_variable_is_text_or_a_number_by_its_setting(tmp_path: Path) -> None:
    loaded = load_with_environment(
        tmp_path,
        ADMIN__TOKEN="12345678901234567890",
        KLING__API_KEY="true",
        KLING__TIMEOUT="5s",
        KLING__SLOTS__VIDEO="3",
        CALLBACKS__MAX_BODY="2MiB",
        STORE__URL="sqlite:other.db",
    )

    assert loaded.settings.admin.token == Secret("12345678901234567890")
    assert loaded.settings.kling.api_key == Secret("true")
    assert loaded.settings.kling.timeout == timedelta(seconds=5)
    assert loaded.settings.kling.slots.video == 3
    assert loaded.settings.callbacks.max_body == 2 << 20
    assert loaded.settings.store.path == tmp_path / "other.db"


@pytest.mark.parametrize("value", ['["10.0.0.0/8", "fd00::/8"]', "['10.0.0.0/8', 'fd00::/8']"])
def test_a_list_in_a_variable_is_json_or_toml(value: str, tmp_path: Path) -> None:
    assert [str(each) for each in load_with_environment(tmp_path, NETWORK__ALLOW=value).settings.network.allow] == [
        "10.0.0.0/8",
        "fd00::/8",
    ]


@pytest.mark.parametrize("value", ['{"video": 2}', "{ video = 2 }"])
def test_a_table_in_a_variable_replaces_the_files_table(value: str, tmp_path: Path) -> None:
    slots = load_with_environment(tmp_path, "[kling.slots]\nimage = 5", KLING__SLOTS=value).settings.kling.slots

    assert (slots.video, slots.image) == (2, 0)


def test_a_text_is_a_list_with_one_entry(tmp_path: Path) -> None:
    loaded = load_with_environment(tmp_path, NETWORK__ALLOW="10.0.0.0/8", CALLBACKS__SIGNING_SECRETS="1234567890123456")

    assert [str(each) for each in loaded.settings.network.allow] == ["10.0.0.0/8"]
    assert loaded.settings.callbacks.signing_secrets == (Secret("1234567890123456"),)


def test_a_variable_changes_a_route_by_its_number(tmp_path: Path) -> None:
    environ = {
        f"{PREFIX}ROUTES__0__CONCURRENCY": "2",
        f"{PREFIX}ROUTES__0__UNVERIFIED": "true",
        f"{PREFIX}ROUTES__0__RETRY": '["1s"]',
        f"{PREFIX}ROUTES__0__WEBHOOK__SECRET": '["1234567890123456", "env:OLD"]',
        f"{PREFIX}ROUTES__0__WEBHOOK__HEADERS__X_Tenant": "7",
        "OLD": "6543210987654321",
    }

    loaded = load_text(tmp_path, route_text('on = ["failed"]'), environ)

    (route,) = loaded.settings.routes
    assert route.on == {"failed"}
    assert (route.concurrency, route.unverified, route.retry) == (2, True, (timedelta(seconds=1),))
    assert route.webhook is not None
    assert route.webhook.secret == (Secret("1234567890123456"), Secret("6543210987654321"))
    assert route.webhook.headers == {"X_Tenant": "7"}


def test_the_next_number_adds_a_route(tmp_path: Path) -> None:
    loaded = load_with_environment(
        tmp_path,
        ROUTES__0__NAME="first",
        ROUTES__0__WEBHOOK__URL="https://a.example.com",
        ROUTES__1__NAME="second",
        ROUTES__1__SCRIPT__COMMAND='["/bin/true"]',
        ROUTES__1__SCRIPT__ENV__BUCKET="b",
        ROUTES__1__ON="alert",
    )

    first, second = loaded.settings.routes
    assert (first.name, second.name) == ("first", "second")
    assert second.script is not None
    assert second.script.env == {"BUCKET": "b"}
    assert second.on == {"alert"}


def test_routes_beyond_nine_keep_their_order(tmp_path: Path) -> None:
    variables = {f"ROUTES__{number}__NAME": f"r{number}" for number in range(12)}
    variables |= {f"ROUTES__{number}__WEBHOOK": '{"url": "https://h"}' for number in range(12)}

    assert [route.name for route in load_with_environment(tmp_path, **variables).settings.routes] == [
        f"r{number}" for number in range(12)
    ]


def test_one_variable_sets_all_routes(tmp_path: Path) -> None:
    whole = '[{"name": "b", "webhook": {"url": "https://b.example.com"}}]'

    (route,) = load_with_environment(tmp_path, route_text(""), ROUTES=whole, ROUTES__0__CONCURRENCY="3").settings.routes

    assert (route.name, route.concurrency) == ("b", 3)


def test_an_empty_variable_is_an_empty_value(tmp_path: Path) -> None:
    assert (
        load_with_environment(tmp_path, '[public]\nurl = "https://a.example.com"', PUBLIC__URL="").settings.public.url
        == ""
    )


def test_other_variables_are_ignored(tmp_path: Path) -> None:
    load_text(tmp_path, "", {"KLING_RECEIVER_X": "1", "kling_receiver__poll__after": "x", "POLL__AFTER": "x"})


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("KLING__TIMEUOT", "3s", ": unknown key; did you mean KLING_RECEIVER__KLING__TIMEOUT?"),
        ("KLNG__TIMEOUT", "3s", ": unknown key; did you mean KLING_RECEIVER__KLING__TIMEOUT?"),
        ("ROUTES__0__WEBHOK__URL", "x", ": unknown key; did you mean KLING_RECEIVER__ROUTES__0__WEBHOOK__URL?"),
        ("ZZZ", "x", ": unknown key; expected: PUBLIC, ADMIN, STORE"),
        ("", "x", ": unknown key; expected: PUBLIC, ADMIN, STORE"),
        ("KLING__", "x", ": unknown key; expected: BASE_URL, API_KEY"),
        (
            "POLL__AFTER__X",
            "x",
            ": unknown key; KLING_RECEIVER__POLL__AFTER has no members, so set it as a whole",
        ),
        ("NETWORK__ALLOW__0", "x", ": unknown key; KLING_RECEIVER__NETWORK__ALLOW has no members"),
        ("ROUTES__first__NAME", "x", ': is not a route: "first" must be a number'),
        ("ROUTES__99999__NAME", "x", ': is not a route: "99999" must be a number'),
        ("ROUTES__7__NAME", "x", ": route 7 does not exist; the next new route is 1"),
        ("NETWORK__ALLOW", "[10.0.0.0", ": is neither JSON nor a TOML value; check its brackets and quotes"),
        ("NETWORK__ALLOW", "[" * 9000, ": is neither JSON nor a TOML value; check its brackets and quotes"),
        ("NETWORK__ALLOW", "{}", ": network.allow: must be a list"),
        ("KLING__SLOTS", "3", ": kling.slots: must be a table"),
        ("KLING__SLOTS__VIDEO", "many", ": kling.slots.video: must be a whole number"),
        ("KLING__SLOTS__VIDEO", "", ": kling.slots.video: must be a whole number"),
        ("KLING", '{"timeuot": "3s"}', ': kling.timeuot: unknown key; did you mean "timeout"?'),
        ("ROUTES__0__UNVERIFIED", "yes", ": routes.0.unverified: must be true or false"),
        ("ROUTES__0__CONCURRENCY", "0", ": routes.0.concurrency: must be 1 to 1000"),
        ("POLL__AFTER", "5", ': poll.after: "5" is not a duration'),
        ("PUBLIC__LISTEN", "8700", ": public.listen: "),
    ],
)
def test_an_error_in_a_variable_names_the_variable(name: str, value: str, fault: str, tmp_path: Path) -> None:
    assert config_error(tmp_path, route_text(""), {f"{PREFIX}{name}": value}).startswith(f"{PREFIX}{name}{fault}")


def test_an_error_in_the_file_names_the_file(tmp_path: Path) -> None:
    found = config_errors(tmp_path, "kling = 3\n", {f"{PREFIX}KLING__TIMEOUT": "3s"})

    assert found == ["config.toml:1: kling: must be one section; start it with [kling]"]


def test_the_files_own_values_are_not_changed() -> None:
    values = {"kling": {"timeout": "1s"}}

    changed = apply_environment(values, {f"{PREFIX}KLING__TIMEOUT": "2s"}, Settings)

    assert values == {"kling": {"timeout": "1s"}}
    assert changed.values == {"kling": {"timeout": "2s"}}


PARTS = st.sampled_from(
    ["ROUTES", "KLING", "WEBHOOK", "HEADERS", "0", "1", "9", "", "SLOTS", "NAME", "SECRET", "ENV", "SCRIPT"]
)


@given(st.dictionaries(st.lists(PARTS, max_size=5).map("__".join), st.text('[]{}",:1atrue=', max_size=8), max_size=5))
def test_every_variable_is_applied_or_an_error(variables: dict[str, str]) -> None:
    environ = {f"{PREFIX}{name}": value for name, value in variables.items()}

    changed = apply_environment({"routes": [{"name": "a"}], "kling": 3}, environ, Settings)

    named = {fault.partition(":")[0] for fault in changed.errors}
    assert named | set(changed.variables.values()) == set(environ)
