"""A real proxy accepts the output of `expose`. It passes callbacks, nothing else, and logs no token."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from harness.http_client import plain_http
from harness.ports import free_port
from harness.raw_http import http_request
from harness.running_service import (
    Receiver,
    a_config,
    a_kling,
    a_push_body,
    a_receiver,
    create_callback_url,
    submit_task,
    wait_for_state,
)
from harness.waiting import wait_until

PROXIES = [
    pytest.param(kind, marks=pytest.mark.skipif(shutil.which(kind) is None, reason=f"{kind} is not installed here"))
    for kind in ("nginx", "caddy")
]

# The usual default: logs that contain request paths.
NGINX = """
daemon off;
pid @FOLDER@/nginx.pid;
error_log @FOLDER@/error.log info;
events {}
http {
    access_log @FOLDER@/access.log;
    client_body_temp_path @FOLDER@/body;
    proxy_temp_path @FOLDER@/proxy;
    fastcgi_temp_path @FOLDER@/fastcgi;
    uwsgi_temp_path @FOLDER@/uwsgi;
    scgi_temp_path @FOLDER@/scgi;
    include @FOLDER@/exposed.conf;
}
"""


def an_nginx(folder: Path, exposed: str, port: int) -> list[str]:
    """Write nginx's files. Return the command that runs it."""
    (folder / "exposed.conf").write_text(exposed.replace(f"listen {port}", f"listen 127.0.0.1:{port}"))
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(user + NGINX.replace("@FOLDER@", str(folder)))
    return ["nginx", "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]


def a_caddy(folder: Path, exposed: str, port: int) -> list[str]:  # noqa: ARG001 -- the settings contain the port
    """Write Caddy's file. Return the command that runs it."""
    (folder / "Caddyfile").write_text(exposed.replace("{\n", "{\n\tadmin off\n\tdefault_bind 127.0.0.1\n", 1))
    return ["caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


COMMANDS: dict[str, Callable[[Path, str, int], list[str]]] = {"nginx": an_nginx, "caddy": a_caddy}


@asynccontextmanager
async def a_proxy(kind: str, folder: Path, receiver: Receiver, port: int) -> AsyncIterator[Path]:
    """Run the proxy with the output of `expose`. Yield the folder of its logs."""
    ended = await receiver.run_cli_async("expose", kind)
    assert ended.returncode == 0, ended.stderr
    with (folder / "output.log").open("wb") as log:
        process = subprocess.Popen(
            COMMANDS[kind](folder, ended.stdout, port),
            env={"PATH": os.environ["PATH"] + ":/usr/sbin", "HOME": str(folder), "XDG_DATA_HOME": str(folder)},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )

    async def is_there() -> bool:
        assert process.poll() is None, (folder / "output.log").read_text()
        try:
            return (await http_request("GET", f"http://127.0.0.1:{port}/healthz")).status == 200
        except (OSError, asyncio.IncompleteReadError):
            return False

    try:
        await wait_until(is_there)
        yield folder
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait)


def all_logs(folder: Path) -> str:
    return "\n".join(path.read_text(errors="replace") for path in folder.iterdir() if path.suffix == ".log")


@pytest.mark.parametrize("kind", PROXIES)
async def test_a_proxy_passes_only_callbacks_and_logs_no_token(kind: str, tmp_path: Path) -> None:
    (tmp_path / "proxy").mkdir()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    more = '[callbacks]\nmax_body = "64KiB"\n[poll]\nafter = "1h"\nevery = "1h"'
    config = a_config("@KLING@", more=more, public_url=url).replace("[public]", '[public]\nproxies = ["127.0.0.1"]')
    async with (
        a_kling() as kling,
        a_receiver(tmp_path, config.replace("@KLING@", kling.url)) as receiver,
        receiver.client() as admin,
        a_proxy(kind, tmp_path / "proxy", receiver, port) as folder,
        plain_http(timeout=20, headers={"x-forwarded-for": "198.51.100.7"}) as caller,
    ):
        task = await submit_task(admin)
        await wait_for_state(admin, task["id"], "succeed")
        made, callback = await create_callback_url(admin)
        token = callback.rpartition("/")[2]

        answers = {
            "callback": await caller.post(callback, content=a_push_body("processing")),
            "get": await caller.get(callback),
            "large": await caller.post(callback, content=b" " * 66_000 + a_push_body("succeed")),
            "unknown": await caller.post(f"{url}/callbacks/{token[:-1]}", content=a_push_body("succeed")),
            "health": await caller.get(f"{url}/healthz"),
            "api": await caller.get(f"{url}/api/tasks"),
            "root": await caller.get(f"{url}/"),
            "around": await caller.get(f"{url}/callbacks/../readyz"),
        }
        async with caller.stream("POST", callback, content=b"[" * 80_000) as huge:
            answers["huge"] = huge  # the server may close the connection before the whole body is sent
        seen = [line for line in receiver.log().splitlines() if '"peer"' in line]
        receiver.kill()
        without = await caller.post(callback, content=a_push_body("succeed"))

    assert callback.startswith(f"{url}/callbacks/")
    assert {name: answer.status_code for name, answer in answers.items()} == {
        "callback": 200,
        "get": 403 if kind == "nginx" else 404,
        "large": 413,
        "huge": 413,
        "unknown": 404,
        "health": 200,
        "api": 404,
        "root": 404,
        "around": 404,
    }
    assert without.status_code == 502
    assert made["id"]
    assert seen
    assert not [line for line in seen if "198.51.100.7" in line]
    logs = all_logs(folder)
    assert token[:-1] not in logs
    assert "/callbacks/" not in logs.replace("/callbacks/***", "")


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed here")
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl, which makes the certificate, is not installed")
def test_nginx_accepts_the_https_settings(tmp_path: Path) -> None:
    receiver = Receiver(tmp_path, a_config("http://127.0.0.1:9", public_url=""))
    files = [str(tmp_path / "chain.pem"), str(tmp_path / "key.pem")]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=hooks.example.com"]
    subprocess.run([*made, "-out", files[0], "-keyout", files[1]], check=True, capture_output=True)

    ended = receiver.run_cli(
        "expose", "--host", "hooks.example.com/kling", "--certificate", files[0], "--certificate-key", files[1]
    )
    command = an_nginx(tmp_path, ended.stdout.replace("listen 443", f"listen 127.0.0.1:{free_port()}"), 443)
    tested = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)

    assert tested.returncode == 0, tested.stderr
    assert "warn" not in tested.stderr
    assert 'url = "https://hooks.example.com/kling"' in ended.stderr
    assert 'proxies = ["127.0.0.1"]' in ended.stderr
    assert "location ^~ /kling/callbacks/" in ended.stdout
    assert f"proxy_pass {receiver.public}/callbacks/;" in ended.stdout
