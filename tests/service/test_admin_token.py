"""The admin token that the service makes for itself: kept whole, for its owner alone, and never empty."""

import stat
from pathlib import Path

import pytest
from configuring import load_text

from receiver.service import admin_token
from receiver.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_text(tmp_path, '[store]\nurl = "sqlite:receiver.db"').settings


def test_the_first_start_makes_a_token_and_the_next_ones_keep_it(settings: Settings) -> None:
    made = admin_token(settings)

    kept = settings.data_dir / "admin-token"
    assert len(made.reveal()) >= 43
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert admin_token(settings) == made
    assert [path.name for path in settings.data_dir.glob("admin-token*")] == ["admin-token"]


@pytest.mark.parametrize("left", ["", "\n"])
def test_an_empty_file_is_no_token(settings: Settings, left: str) -> None:
    (settings.data_dir / "admin-token").write_text(left)

    made = admin_token(settings)

    assert made
    assert admin_token(settings) == made


def test_what_a_start_that_was_killed_left_is_in_nobodys_way(settings: Settings) -> None:
    (settings.data_dir / "admin-token.part").write_text("hal")

    assert len(admin_token(settings).reveal()) >= 43
