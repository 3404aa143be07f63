"""The object store of the archive: valid, or every error with its remedy."""

from pathlib import Path

import pytest
from harness.settings_files import config_error, load_text

from receiver.settings import effective_settings

KEYS = 'access_key = "AKIA"\nsecret_key = "hunter2"\n'


def a_text(text: str) -> str:
    return f"[archive.storage]\n{text}"


def test_a_storage_has_bucket_prefix_and_keys(tmp_path: Path) -> None:
    text = 'url = "s3://my-bucket/kling/results/"\nendpoint = "https://s3.example.com/base/"\nregion = "auto"\n'
    storage = load_text(tmp_path, a_text(text + KEYS)).settings.archive.storage

    assert (storage.url, storage.bucket, storage.prefix) == (
        "s3://my-bucket/kling/results",
        "my-bucket",
        "kling/results",
    )
    assert (storage.endpoint, storage.region) == ("https://s3.example.com/base", "auto")
    assert storage.access_key is not None
    assert storage.access_key.reveal() == "AKIA"


def test_a_bucket_alone_has_no_prefix(tmp_path: Path) -> None:
    storage = load_text(tmp_path, a_text('url = "s3://my-bucket"\n' + KEYS)).settings.archive.storage

    assert (storage.bucket, storage.prefix, storage.endpoint, storage.region) == ("my-bucket", "", "", "us-east-1")


@pytest.mark.parametrize(
    ("text", "is_on"),
    [("", False), ('[archive]\ndir = "kept"', True), (a_text('url = "s3://my-bucket"\n' + KEYS), True)],
)
def test_results_are_archived_to_a_folder_a_storage_or_both(tmp_path: Path, text: str, *, is_on: bool) -> None:
    assert load_text(tmp_path, text).settings.archive.is_on is is_on


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f'url = "https://s3.example.com/b"\n{KEYS}', 'config.toml:2: archive.storage.url: must begin with "s3://"'),
        (f'url = "s3://"\n{KEYS}', "config.toml:2: archive.storage.url: "),
        (f'url = "s3://No_Bucket/x"\n{KEYS}', "config.toml:2: archive.storage.url: has no valid bucket name"),
        (f'url = "s3://b"\n{KEYS}', "config.toml:2: archive.storage.url: has no valid bucket name"),
        (f'url = "s3://key:hunter2@bucket"\n{KEYS}', "config.toml:2: archive.storage.url: has no valid bucket name"),
        (f'url = "s3://bucket/../x"\n{KEYS}', "config.toml:2: archive.storage.url: has an invalid prefix"),
        (f'url = "s3://bucket/a//b"\n{KEYS}', "config.toml:2: archive.storage.url: has an invalid prefix"),
        (f'url = "s3://bucket/a?b"\n{KEYS}', "config.toml:2: archive.storage.url: has an invalid prefix"),
        (f"url = 3\n{KEYS}", "config.toml:2: archive.storage.url: must be text"),
        (f'url = "s3://bucket"\nendpoint = "s3.example.com"\n{KEYS}', "config.toml:3: archive.storage.endpoint: must"),
        (
            f'url = "s3://bucket"\nendpoint = "http://169.254.169.254"\n{KEYS}',
            "config.toml:3: archive.storage.endpoint",
        ),
        (f'url = "s3://bucket"\nregion = "Mars 1"\n{KEYS}', "config.toml:3: archive.storage.region: must be the name"),
        ('url = "s3://bucket"\naccess_key = "a"', "archive.storage.secret_key: is missing; s3://bucket needs"),
        ('url = "s3://bucket"\nsecret_key = "a"', "archive.storage.access_key: is missing; s3://bucket needs"),
        ('access_key = "hunter2"', "config.toml:2: archive.storage.access_key: is given without url"),
        ('secret_key = "hunter2"', "config.toml:2: archive.storage.secret_key: is given without url"),
        (f'url = "s3://bucket"\nbucket = "x"\n{KEYS}', "config.toml:3: archive.storage.bucket: unknown key"),
    ],
)
def test_an_error_of_the_storage_has_its_line_and_no_secret(tmp_path: Path, text: str, message: str) -> None:
    found = config_error(tmp_path, a_text(text))

    assert message in found
    assert "hunter2" not in found


def test_an_unencrypted_storage_on_another_machine_is_a_warning(tmp_path: Path) -> None:
    text = f'url = "s3://bucket"\nendpoint = "http://10.0.0.7:9000"\n{KEYS}'

    assert any(
        "archive.storage.endpoint: is plain http to another machine" in each
        for each in load_text(tmp_path, a_text(text)).warnings
    )


def test_the_keys_are_not_shown(tmp_path: Path) -> None:
    error = str(
        [
            (each.key, each.value)
            for each in effective_settings(load_text(tmp_path, a_text('url = "s3://bucket"\n' + KEYS)))
        ]
    )

    assert "s3://bucket" in error
    assert "hunter2" not in error
    assert "AKIA" not in error
