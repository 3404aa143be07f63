"""What `expose` prints beside the settings, and what it refuses."""

import re
from pathlib import Path

import pytest

from receiver.cli import main
from receiver.domain.clock import Ids

CLOUDFLARED = """\
tunnel: kling-receiver
credentials-file: /etc/cloudflared/kling-receiver.json
loglevel: fatal
transport-loglevel: fatal

ingress:
  - hostname: "hooks.example.com"
    path: "^/callbacks/[A-Za-z0-9_-]+$"
    service: "http://127.0.0.1:9700"
    originRequest:
      connectTimeout: 5s
  - hostname: "hooks.example.com"
    path: "^/healthz$"
    service: "http://127.0.0.1:9700"
    originRequest:
      connectTimeout: 5s
  - service: http_status:404
"""


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text('[public]\nlisten = "0.0.0.0:9700"\n[callbacks]\nmax_body = "2MiB"\n')
    return path


def test_exposed_paths_are_callbacks_and_health_only(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["expose", "cloudflared", "--host", "hooks.example.com", "--config", str(config_file)]) == 0

    captured = capsys.readouterr()
    assert captured.out.endswith(CLOUDFLARED)
    (callback, health) = re.findall(r'path: "(.+)"', captured.out)
    assert re.search(callback, f"/callbacks/{Ids.token()}")
    assert re.search(health, "/healthz")
    assert "route dns kling-receiver hooks.example.com" in captured.err


def test_expose_asks_only_for_missing_settings(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["expose", "nginx", "--host", "hooks.example.com", "--config", str(config_file)]) == 0
    captured = capsys.readouterr()
    assert 'url = "https://hooks.example.com"' in captured.err
    assert 'proxies = ["127.0.0.1"]' in captured.err
    assert "proxy_pass http://127.0.0.1:9700;" in captured.out
    assert "client_max_body_size 2101248;" in captured.out

    config_file.write_text(
        '[public]\nlisten = "127.0.0.1:9700"\nurl = "https://hooks.example.com"\nproxies = ["127.0.0.1"]\n'
    )
    assert main(["expose", "caddy", "--config", str(config_file)]) == 0
    captured = capsys.readouterr()
    assert "[public]" not in captured.err
    assert "https://hooks.example.com {\n" in captured.out


@pytest.mark.parametrize(
    ("argv", "public", "code", "words"),
    [
        ([], 'listen = "127.0.0.1:9700"', 2, "--host"),
        (["--host", "hooks.example.com; include x"], 'listen = "127.0.0.1:9700"', 2, "--host"),
        (["--host", "hooks.example.com;x"], 'listen = "127.0.0.1:9700"', 2, "characters"),
        (["--host", "hooks.example.com"], 'listen = "127.0.0.1:0"', 1, "no fixed port"),
        (["traefik"], 'url = "https://hooks.example.com"', 2, "traefik"),
        (["cloudflared"], 'url = "https://hooks.example.com:8443"', 2, "without a port"),
    ],
)
def test_expose_reports_why_it_cannot_and_the_remedy(
    config_file: Path, capsys: pytest.CaptureFixture[str], argv: list[str], public: str, *, code: int, words: str
) -> None:
    config_file.write_text(f"[public]\n{public}\n")

    assert main(["expose", *argv, "--config", str(config_file)]) == code

    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err
