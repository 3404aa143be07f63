"""Tests which errors a wrong configuration gives."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from harness.settings_files import CANARY, SHIPPED, WITH_CANARIES, config_error, config_errors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from receiver.domain.errors import ConfigurationError
from receiver.settings import effective_settings, load


@pytest.mark.parametrize("named_by", ["command line", "environment"])
def test_a_missing_file_is_an_error(named_by: str, tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    by_hand = named_by == "command line"

    with pytest.raises(ConfigurationError, match=r"missing\.toml: the file does not exist"):
        load(missing if by_hand else None, {} if by_hand else {"KLING_RECEIVER_CONFIG": str(missing)})


@pytest.mark.parametrize("content", ["folder", "bytes"])
def test_an_unreadable_file_is_an_error(content: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    if content == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"[kling]\n# \xff\n")

    with pytest.raises(ConfigurationError, match=r"cannot be read: Is a directory|config\.toml:2: is not UTF-8"):
        load(path, {})


def test_all_errors_are_reported_at_once_in_file_order(tmp_path: Path) -> None:
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
        ("[archive]\nzzz = 1\n", 'config.toml:2: archive.zzz: unknown key; expected: "dir", "storage", "shared"'),
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
def test_a_misplaced_key_is_reported_with_its_right_section(text: str, fault: str, tmp_path: Path) -> None:
    assert config_error(tmp_path, text).startswith(fault)


def test_a_webhooks_key_in_the_route_is_reported_with_its_table(tmp_path: Path) -> None:
    text = '[[routes]]\nname = "a"\nurl = "https://x.example.com"\n'

    assert "config.toml:3: routes.0.url: unknown key; it belongs in [routes.webhook]" in config_errors(tmp_path, text)


def test_no_error_quotes_a_secret(tmp_path: Path) -> None:
    text = WITH_CANARIES.replace(CANARY, f"{CANARY}\\n") + f'\n[store]\nurl = "postgresql://a:{CANARY}@h"\n'

    found = config_errors(tmp_path, text)

    assert len(found) >= 8
    assert CANARY not in "".join(found)


SCRAPS = st.sampled_from(
    [
        *["[", "]", "{", "}", '"', "'", '"""', "=", ".", ",", "#", "\n", "\\u0000", "0x", "inf"],
        *["name", "kling", "routes", "webhook", "on", "1979-05-27 07:32:00"],
        *[' = "30s"\n', " = 1\n", "[kling]\n", "[[routes]]\n", "where = 'a.b'\n"],
    ]
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.one_of(st.text(), st.lists(SCRAPS).map("".join)))
def test_any_text_is_a_configuration_or_a_configuration_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))

    with_faults = _faults(path, {})

    assert all(fault.startswith(f"{path}") for fault in with_faults)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_a_configuration_or_a_configuration_error(data: st.DataObject, tmp_path: Path) -> None:
    text = WITH_CANARIES
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 20)))
    path = tmp_path / "config.toml"
    path.write_text(text[:start] + data.draw(st.one_of(st.just(""), SCRAPS)) + text[end:])

    _faults(path, {})


LEAVES = sorted(each.key for each in effective_settings(load(SHIPPED, {})))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
