"""What cannot work is said by `config check` and before the start, not by the first event."""

from pathlib import Path

import pytest
from harness.run_cli import run_cli


def check(folder: Path, text: str, **env: str) -> str:
    """Return what `config check` says about a configuration."""
    path = folder / "config.toml"
    path.write_text(text)
    return run_cli("config", "check", "--config", path, env=env).stderr


@pytest.mark.parametrize(
    ("glob", "said"),
    [
        ("image/*", 'did you mean "images/*"?'),
        ("text-to-vidoe/kling-*", 'did you mean "text-to-video/*"?'),
        ("zzz/*", "`kling-receiver endpoints` lists them"),
    ],
)
def test_a_glob_that_matches_no_known_endpoint_is_said(tmp_path: Path, glob: str, said: str) -> None:
    route = f'[[routes]]\nname = "a"\nwebhook = {{ url = "http://127.0.0.1:1/" }}\nendpoints = ["{glob}"]\n'

    told = check(tmp_path, route)

    assert f"config.toml:4: routes.0.endpoints: '{glob}' matches no known endpoint of Kling; {said}" in told


@pytest.mark.parametrize("glob", ["images/*", "*", "text-to-video/kling-v3*", "videos/text2video", "image-to-*/*"])
def test_a_glob_that_matches_is_not_mentioned(tmp_path: Path, glob: str) -> None:
    route = f'[[routes]]\nname = "a"\nwebhook = {{ url = "http://127.0.0.1:1/" }}\nendpoints = ["{glob}"]\n'

    assert "matches no known endpoint" not in check(tmp_path, route)


def test_an_archive_folder_that_cannot_be_made_is_said_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "results").touch()

    told = check(tmp_path, '[archive]\ndir = "results/here"\n')

    assert f"{tmp_path}/results/here cannot be created: {tmp_path}/results is a file" in told
