"""What cannot work is said by `config check` and before the start, not by the first event."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.run_cli import run_cli


def check(folder: Path, text: str, **env: str) -> str:
    """Return what `config check` says about a configuration."""
    path = folder / "config.toml"
    path.write_text(text)
    return run_cli("config", "check", "--config", path, env=env).stderr


@pytest.mark.parametrize(
    ("glob", "message"),
    [
        ("image/*", 'did you mean "images/*"?'),
        ("text-to-vidoe/kling-*", 'did you mean "text-to-video/*"?'),
        ("zzz/*", "`kling-receiver endpoints` lists them"),
    ],
)
def test_a_glob_that_matches_no_known_endpoint_is_reported(tmp_path: Path, glob: str, message: str) -> None:
    route = f'[[routes]]\nname = "a"\nwebhook = {{ url = "http://127.0.0.1:1/" }}\nendpoints = ["{glob}"]\n'

    printed = check(tmp_path, route)

    assert f"config.toml:4: routes.0.endpoints: '{glob}' matches no known endpoint of Kling; {message}" in printed


@pytest.mark.parametrize("glob", ["images/*", "*", "text-to-video/kling-v3*", "videos/text2video", "image-to-*/*"])
def test_a_glob_that_matches_is_not_mentioned(tmp_path: Path, glob: str) -> None:
    route = f'[[routes]]\nname = "a"\nwebhook = {{ url = "http://127.0.0.1:1/" }}\nendpoints = ["{glob}"]\n'

    assert "matches no known endpoint" not in check(tmp_path, route)


def test_an_archive_folder_that_cannot_be_created_is_reported_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "results").touch()

    printed = check(tmp_path, '[archive]\ndir = "results/here"\n')

    assert f"{tmp_path}/results/here cannot be created: {tmp_path}/results is a file" in printed


def test_an_archive_folder_that_is_a_broken_link_is_reported(tmp_path: Path) -> None:
    (tmp_path / "results").symlink_to(tmp_path / "unmounted")

    printed = check(tmp_path, '[archive]\ndir = "results"\n')

    assert f"{tmp_path}/results cannot be created: {tmp_path}/results is a link to nothing" in printed


def read_only_folders() -> Iterator[Path]:
    """Yield the mounted folders that nothing can be written to."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, _, options, *_ = line.split(" ")
        if "ro" in options.split(",") and Path(place).is_dir():
            yield Path(place)


def test_an_archive_folder_on_a_read_only_disk_is_reported_with_the_reason(tmp_path: Path) -> None:
    folder = next(read_only_folders(), None)
    if folder is None:
        pytest.skip("nothing is mounted read-only")

    printed = check(tmp_path, f'[archive]\ndir = "{folder}/results"\n')

    assert f"{folder}/results cannot be created in {folder}: the file system is read-only" in printed


@pytest.mark.parametrize(
    ("route", "message"),
    [
        (
            'script = { command = ["/bin/true"], timeout = "10m" }\nretry = ["1m"]\ngive_up_after = "10m"\n',
            "routes.0.script.timeout: (10m) is not shorter than give_up_after (10m), so an attempt that times out is",
        ),
        (
            'webhook = { url = "http://127.0.0.1:1/" }\nretry = ["2h"]\ngive_up_after = "1h"\n',
            "routes.0.retry: begins with 2h, which is not shorter than give_up_after (1h), so there is only one",
        ),
    ],
)
def test_contradicting_times_of_a_route_are_reported(tmp_path: Path, route: str, message: str) -> None:
    printed = check(tmp_path, f'[[routes]]\nname = "a"\n{route}', KLING_API_KEY="k")

    assert message in printed
    assert len(printed.splitlines()) == 1


def test_a_placeholder_key_is_reported(tmp_path: Path) -> None:
    printed = check(tmp_path, '[kling]\napi_key = "env:KLING_API_KEY"\n', KLING_API_KEY="...")

    assert "kling.api_key: is a placeholder, not a key; write the key from Kling's console" in printed
