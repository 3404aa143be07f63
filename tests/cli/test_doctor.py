"""`kling-receiver doctor` names each broken set-up and its remedy, while the service is stopped."""

import asyncio
import json
import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from email.utils import format_datetime
from pathlib import Path
from sqlite3 import connect

import pytest
from harness.doctor import EXPIRED, OTHER_NAME, Report, run_doctor, trusting
from harness.http_peers import http_peer, response
from harness.ports import free_port
from harness.run_cli import run_in_terminal

from receiver.cli import main
from receiver.domain.clock import SystemClock
from receiver.service.doctor import store
from receiver.store.sqlite.database import suspect_marker

KEY = "a-key-that-is-shown-nowhere"
LISTED = b'{"code":0,"message":"SUCCEED","request_id":"r","data":[]}'


def write_config(folder: Path, more: str = "", *, public: str = "", kling: str = "http://127.0.0.1:9") -> Path:
    path = folder / "config.toml"
    path.write_text(
        f'[public]\nlisten = "127.0.0.1:{free_port()}"\nurl = "{public}"\n'
        f'[admin]\nlisten = "127.0.0.1:{free_port()}"\n[store]\nurl = "sqlite:receiver.db"\n'
        f'[kling]\nbase_url = "{kling}"\napi_key = "{KEY}"\n{more}'
    )
    return path


@asynccontextmanager
async def a_kling(body: bytes = LISTED, status: int = 200, *, ahead: timedelta = timedelta()) -> AsyncIterator[str]:
    """Run a Kling with one answer. Its clock is *ahead* of ours, also if the answer comes late."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        date = format_datetime(SystemClock().now() + ahead, usegmt=True)
        writer.write(response(status, body, date=date, content_type="application/json"))

    async with http_peer(answer) as peer:
        yield peer.url


async def examine_kling(folder: Path, body: bytes, status: int = 200, *, ahead: timedelta = timedelta()) -> Report:
    async with a_kling(body, status, ahead=ahead) as url:
        return await asyncio.to_thread(run_doctor, write_config(folder, kling=url))


def refusal(code: int) -> bytes:
    return json.dumps({"code": code, "message": "no", "request_id": "r"}).encode()


async def test_before_the_first_start_no_check_fails(tmp_path: Path) -> None:
    report = await examine_kling(tmp_path, LISTED)

    assert report.failed == set()
    assert report.code == 0
    assert report.says("service")[0] == "warning"
    assert "kling-receiver serve" in report.says("service")[2]
    assert "no store" in report.says("store.size")[1]
    assert report.says("kling.key")[0] == report.says("clock")[0] == report.says("configuration")[0] == "ok"
    assert KEY not in report.text


def test_each_error_of_the_configuration_has_file_line_key_and_fix(tmp_path: Path) -> None:
    config = write_config(tmp_path, "tiemout = 3\n[callbacks]\nverify = 'sometimes'\n")

    report = run_doctor(config)

    typo, choice = report.all("configuration")
    assert (typo["status"], typo["details"]["file"], typo["details"]["line"]) == ("failed", "config.toml", 11)
    assert typo["details"]["key"] == "kling.tiemout"
    assert typo["remedy"].startswith('Did you mean "timeout"?')
    assert choice["details"]["key"] == "callbacks.verify"
    assert report.code == 1


def test_a_warning_of_the_configuration_is_a_warning(tmp_path: Path) -> None:
    report = run_doctor(write_config(tmp_path, '[[routes]]\nname = "a"\nscript = { command = ["/no/such"] }\n'))

    finding = report.one("configuration")
    assert (finding["status"], finding["details"]["key"]) == ("warning", "routes.0.script.command")


def test_every_missing_secret_is_named_and_the_other_checks_run(tmp_path: Path) -> None:
    config = write_config(
        tmp_path,
        '[callbacks]\nsigning_secrets = ["env:NOT_SET_ONE"]\n'
        '[[routes]]\nname = "chat"\nwebhook = { url = "env:NOT_SET_TWO", secret = "file:none.txt" }\n'
        '[[routes]]\nname = "run"\nscript = { command = ["/bin/true"] }\n',
    )

    report = run_doctor(config)

    named = " ".join(finding["message"] for finding in report.all("configuration"))
    assert all(name in named for name in ("NOT_SET_ONE", "NOT_SET_TWO", "none.txt"))
    assert report.one("routes.run")["status"] == report.one("store.disk")["status"] == "ok"
    assert report.says("routes.chat")[:2] == ("warning", "Its URL could not be looked up here, so it was not tried.")


def test_a_secret_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    config = write_config(tmp_path, '[gateway]\nsecret = "file:missing-secret"\n')

    finding = run_doctor(config).one("configuration")

    assert finding["status"] == "failed"
    assert "missing-secret" in finding["message"]
    assert finding["details"]["key"] == "gateway.secret"


def test_a_full_disk_fails_and_a_nearly_full_one_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path)
    found = {}
    for mib in (10, 100):
        monkeypatch.setattr(store, "free_bytes", lambda _, free=mib << 20: free)
        main(["doctor", "--json", "--config", str(config)])
        findings = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
        found[mib] = findings["store.disk"]

    assert found[10]["status"] == "failed"
    assert "10 MiB" in found[10]["message"]
    assert "Make room" in found[10]["remedy"]
    assert found[100]["status"] == "warning"


def test_a_damaged_store_fails_the_check(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    assert main(["db", "migrate", "--config", str(config)]) == 0
    sound = run_doctor(config).says("store.integrity")
    path = tmp_path / "receiver.db"
    content = bytearray(path.read_bytes())
    content[4096 * 3 : 4096 * 6] = b"\xff" * 4096 * 3
    path.write_bytes(content)

    status, _, remedy = run_doctor(config).says("store.integrity")

    assert sound[:2] == ("ok", "SQLite's quick check finds no damage.")
    assert status == "failed"
    assert "restore a backup" in remedy


def test_a_log_without_its_store_and_a_foreign_store_fail_the_check(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    (tmp_path / "receiver.db-wal").write_bytes(b"acknowledged data")
    orphan = run_doctor(config).says("store.size")
    (tmp_path / "receiver.db-wal").unlink()
    with closing(connect(tmp_path / "receiver.db")) as theirs:
        theirs.execute("CREATE TABLE theirs (x)")

    foreign = run_doctor(config).says("store.integrity")

    assert (orphan[0], "contains acknowledged data" in orphan[1]) == ("failed", True)
    assert (foreign[0], "another program" in foreign[1]) == ("failed", True)


def test_a_store_marked_as_damaged_fails_until_it_is_checked(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    assert main(["db", "migrate", "--config", str(config)]) == 0
    suspect_marker(tmp_path / "receiver.db").touch()

    status, message, remedy = run_doctor(config).says("store.integrity")

    assert (status, "broke" in message) == ("failed", True)
    assert "kling-receiver db check" in remedy


@pytest.mark.parametrize(
    ("behind", "status"),
    [(timedelta(seconds=20), "ok"), (timedelta(minutes=2), "warning"), (timedelta(hours=1), "failed")],
    ids=str,
)
async def test_a_clock_behind_klings_is_reported(tmp_path: Path, behind: timedelta, status: str) -> None:
    report = await examine_kling(tmp_path, LISTED, ahead=behind)

    found, message, remedy = report.says("clock")
    assert found == status
    assert "behind" in message
    assert -report.one("clock")["details"]["ahead_seconds"] == pytest.approx(behind.total_seconds(), abs=15)
    assert ("timedatectl set-ntp true" in remedy) == (status != "ok")


@pytest.mark.parametrize("code", [1000, 1001, 1002])
async def test_a_refused_key_fails_with_the_meaning_of_the_error_code(tmp_path: Path, code: int) -> None:
    report = await examine_kling(tmp_path, refusal(code), 401)

    status, message, remedy = report.says("kling.key")
    assert status == "failed"
    assert "key" in message
    assert str(code) in message
    assert "[kling] api_key" in remedy
    assert report.one("kling.key")["details"]["kling_code"] == code
    assert report.code == 1


@pytest.mark.parametrize(("code", "expected"), [(1003, "ahead"), (1004, "behind")])
async def test_a_token_refused_because_of_a_wrong_clock_names_the_clock(
    tmp_path: Path, code: int, expected: str
) -> None:
    status, message, remedy = (await examine_kling(tmp_path, refusal(code), 401)).says("kling.key")

    assert status == "failed"
    assert expected in message
    assert "timedatectl" in remedy


async def test_a_key_that_the_server_quotes_is_hidden(tmp_path: Path) -> None:
    body = json.dumps({"code": 1002, "message": f"unknown key {KEY}"}).encode()

    report = await examine_kling(tmp_path, body, 401)

    assert report.says("kling.key")[0] == "failed"
    assert KEY not in report.text


@pytest.mark.parametrize("date", ["", "yesterday", "Mon, 99 Xyz 99999 99:99:99 GMT", "Sun, 22 Nov 2026 10:00:00 -9999"])
async def test_a_date_that_cannot_be_read_leaves_the_clock_unknown(tmp_path: Path, date: str) -> None:
    async with http_peer(response(200, LISTED, date=date)) as peer:
        report = await asyncio.to_thread(run_doctor, write_config(tmp_path, kling=peer.url))

    assert report.says("clock")[0] == "warning"
    assert report.says("kling.key")[0] == "ok"


async def test_a_gateway_without_a_list_leaves_the_key_unknown(tmp_path: Path) -> None:
    status, message, _ = (await examine_kling(tmp_path, b"not found", 404)).says("kling.key")

    assert (status, "Not known" in message) == ("warning", True)


def a_script(folder: Path, first_line: str, *, mode: int = 0o755) -> str:
    path = folder / "publish"
    path.write_text(f"{first_line}\nexit 0\n")
    path.chmod(mode)
    return f'[[routes]]\nname = "publish"\nscript = {{ command = ["{path}"] }}\n'


@pytest.mark.parametrize(
    ("first_line", "mode", "message", "remedy"),
    [
        ("#!/bin/sh", 0o644, "not executable", "chmod +x"),
        ("#!/no/such/python", 0o755, "interpreter /no/such/python does not exist", "Correct its first line"),
        ("#!/bin/sh\r", 0o755, "carriage return", "Correct its first line"),
        ("#!/usr/bin/env no-such-program", 0o755, "no-such-program is not in", "Install it"),
    ],
    ids=["mode", "interpreter", "carriage return", "env"],
)
def test_a_script_that_cannot_start_says_why(
    tmp_path: Path, first_line: str, mode: int, message: str, remedy: str
) -> None:
    report = run_doctor(write_config(tmp_path, a_script(tmp_path, first_line, mode=mode)))

    status, text, advice = report.says("routes.publish")
    assert status == "failed"
    assert message in text
    assert remedy in advice
    assert "kling-receiver routes test publish" in advice


def test_a_missing_script_fails_and_a_good_one_is_not_run(tmp_path: Path) -> None:
    missing = '[[routes]]\nname = "gone"\nscript = { command = ["/no/such"] }\n'
    good = a_script(tmp_path, "#!/bin/sh").replace("exit 0", "touch ran")

    report = run_doctor(write_config(tmp_path, missing + good))

    assert report.says("routes.gone")[0] == "failed"
    assert "program not found" in report.says("routes.gone")[1]
    assert report.says("routes.publish")[0] == "ok"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://no-such-name.invalid/hook", "no-such-name.invalid could not be resolved"),
        ("http://127.0.0.1:9/secret-path", "refused the connection"),
    ],
)
def test_a_webhook_that_cannot_be_reached_says_why(tmp_path: Path, url: str, message: str) -> None:
    report = run_doctor(write_config(tmp_path, f'[[routes]]\nname = "app"\nwebhook = {{ url = "{url}" }}\n'))

    status, text, remedy = report.says("routes.app")
    assert status == "failed"
    assert message in text
    assert "kling-receiver routes test app" in remedy
    assert "secret-path" not in report.text


@pytest.mark.parametrize(
    ("served", "message"),
    [(EXPIRED, "certificate has expired"), (OTHER_NAME, "Hostname mismatch")],
    ids=["expired", "other name"],
)
async def test_a_bad_certificate_of_the_public_url_is_named(tmp_path: Path, served: Path, message: str) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(served)
    async with http_peer(response(200), tls=tls) as peer:
        config = write_config(tmp_path, public=f"https://localhost:{peer.port}")
        report = await asyncio.to_thread(run_doctor, config, environ=trusting(served))

    status, text, remedy = report.says("public.certificate")
    assert status == "failed"
    assert message in text
    assert "Renew the certificate" in remedy
    assert report.says("public.probe")[0] == "warning"


def test_a_public_url_whose_host_does_not_resolve_fails(tmp_path: Path) -> None:
    report = run_doctor(write_config(tmp_path, public="https://no-such-name.invalid"))

    status, message, remedy = report.says("public.address")
    assert (status, "could not be resolved" in message) == ("failed", True)
    assert "DNS" in remedy
    assert report.says("public.certificate")[0] == "warning"


def test_a_low_limit_of_open_files_is_reported_with_the_connections_it_permits(tmp_path: Path) -> None:
    config = write_config(tmp_path)

    low, lower = (run_doctor(config, files=limit).says("limits.files") for limit in (512, 128))

    assert (low[0], lower[0]) == ("warning", "failed")
    assert "195 connections" in low[1]
    assert "LimitNOFILE=65536" in low[2]


def test_a_service_that_does_not_answer_is_not_reported_as_stopped(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    (tmp_path / "admin-token").write_text("the-admin-token\n")
    port = int(config.read_text().split("[admin]")[1].split(":")[1].split('"')[0])

    with socket.create_server(("127.0.0.1", port)):
        report = run_doctor(config)

    status, message, _ = report.says("service")
    assert status == "failed"
    assert "does not answer within" in message
    taken = report.one("listeners")
    assert (taken["status"], taken["details"]) == ("warning", {"listener": "admin"})
    assert f"ss -ltnp sport = :{port}" in taken["remedy"]


def test_without_json_each_finding_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--config", str(write_config(tmp_path))]) == 1

    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert {len(line) for line in lines} == {4}
    assert ["kling.key", "failed"] in [line[:2] for line in lines]


def test_on_a_terminal_the_remedy_follows_the_message(tmp_path: Path) -> None:
    shown = run_in_terminal(["doctor", "--config", str(write_config(tmp_path))], code=1, COLUMNS="250")

    assert "refused the connection: check that a server is listening there. Check [kling] base_url" in shown
    assert re.search(r"\d+ checks: \d+ ok, \d+ warnings, 1 failed", shown)


def test_a_notify_url_that_apprise_does_not_understand_is_named_without_its_token(tmp_path: Path) -> None:
    routes = (
        '[[routes]]\nname = "good"\nnotify = { urls = ["json://127.0.0.1:9/x"] }\n'
        '[[routes]]\nname = "bad"\nnotify = { urls = ["json://127.0.0.1:9/x", "tgram://token-canary-0123456789"] }\n'
    )

    report = run_doctor(write_config(tmp_path, routes))

    assert report.says("routes.good") == ("ok", "Apprise understands each URL: json. Nothing was sent.", "")
    status, message, remedy = report.says("routes.bad")
    assert status == "failed"
    assert message.startswith("URL 2 (tgram) is not usable. ")
    assert "notify.urls" in remedy
    assert "token-canary" not in report.text


def test_alerts_without_a_route_are_a_warning(tmp_path: Path) -> None:
    route = '[[routes]]\nname = "on-call"\non = ["alert"]\nscript = { command = ["/bin/true"] }\n'

    without, received = (run_doctor(write_config(tmp_path, more)) for more in ("", route))

    assert without.says("alerts")[0] == "warning"
    assert 'on = ["alert"]' in without.says("alerts")[2]
    assert received.says("alerts") == ("ok", "Alerts go to: on-call.", "")


def test_an_unreachable_heartbeat_fails_without_showing_its_url(tmp_path: Path) -> None:
    report = run_doctor(write_config(tmp_path, '[alerts]\nheartbeat = "http://127.0.0.1:9/heartbeat-canary"\n'))

    status, message, remedy = report.says("alerts.heartbeat")
    assert status == "failed"
    assert "refused the connection" in message
    assert "[alerts] heartbeat" in remedy
    assert "heartbeat-canary" not in report.text
