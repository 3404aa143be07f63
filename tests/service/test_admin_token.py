"""The admin token that the service creates: stored atomically, readable only by its owner, never empty."""

import stat
from pathlib import Path

import pytest
from harness.settings_files import load_text

from receiver.client.discovery import discover
from receiver.domain.errors import ConfigurationError, StoreUnavailable
from receiver.domain.secret import Secret
from receiver.service.admin_token import admin_token
from receiver.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_text(tmp_path, '[store]\nurl = "sqlite:receiver.db"').settings


def test_the_first_start_creates_a_token_and_later_starts_keep_it(settings: Settings) -> None:
    made = admin_token(settings)

    kept = settings.data_dir / "admin-token"
    assert len(made.reveal()) >= 43
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert admin_token(settings) == made
    assert [path.name for path in settings.data_dir.glob("admin-token*")] == ["admin-token"]


def test_a_byte_order_mark_is_not_part_of_the_token(settings: Settings) -> None:
    (settings.data_dir / "admin-token").write_text("a-token\r\n", encoding="utf-8-sig")

    assert admin_token(settings) == Secret("a-token")
    assert discover(None, None, settings.data_dir / "config.toml")[1] == "a-token"


@pytest.mark.parametrize("left", ["", "\n"])
def test_an_empty_token_file_is_replaced(settings: Settings, left: str) -> None:
    (settings.data_dir / "admin-token").write_text(left)

    made = admin_token(settings)

    assert made
    assert admin_token(settings) == made


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_an_unreadable_token_file_is_a_configuration_error(settings: Settings, content: bytes | None) -> None:
    put(kept := settings.data_dir / "admin-token", content)

    with pytest.raises(ConfigurationError) as caught:
        admin_token(settings)

    (fault,) = caught.value.faults
    reason = "it is not UTF-8 text" if content else "Is a directory"
    assert fault == (
        f"admin.token: cannot read the token file {kept}: {reason}; let the service's user read it, "
        "or move it away to get a new one, or set [admin] token"
    )


def test_a_configured_token_needs_no_file(tmp_path: Path) -> None:
    text = '[store]\nurl = "sqlite:receiver.db"\n[admin]\ntoken = "a-token-of-the-configuration"'
    (tmp_path / "admin-token").mkdir()

    assert admin_token(load_text(tmp_path, text).settings) == Secret("a-token-of-the-configuration")


def test_an_error_names_what_prevents_storing_the_token(settings: Settings) -> None:
    (draft := settings.data_dir / "admin-token.part").mkdir()

    with pytest.raises(StoreUnavailable) as caught:
        admin_token(settings)

    assert f"{draft} cannot be written: Is a directory. Let the service's user write there" in str(caught.value)
    assert not (settings.data_dir / "admin-token").exists()


def put(path: Path, content: bytes | None) -> None:
    """Create a file, or a folder if there is no content."""
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)


def test_a_partial_token_file_of_a_killed_start_is_ignored(settings: Settings) -> None:
    (settings.data_dir / "admin-token.part").write_text("hal")

    assert len(admin_token(settings).reveal()) >= 43
