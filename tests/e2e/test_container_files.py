"""The container's files, as far as they can be checked without a builder: no image is built here."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # it has no types

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "systemd" / "package"


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", (FOLDER / "Containerfile").read_text())
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def last(name: str) -> str:
    return [rest for word, rest in instructions() if word == name][-1]


def compose_service() -> Any:
    return yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]["kling-receiver"]


def test_every_copied_source_exists_and_the_wheel_can_be_built_from_them() -> None:
    sources = [
        name for word, rest in instructions() if word == "COPY" and "--from=" not in rest for name in rest.split()[:-1]
    ]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {"pyproject.toml", "requirements.lock", project["project"]["readme"], *project["project"]["license-files"]}
    forced = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]

    assert all((ROOT / name).exists() for name in sources)
    assert needed <= set(sources)
    assert {name.partition("/")[0] for name in forced} <= set(sources)


def test_the_container_runs_as_an_account_of_its_own_under_an_init() -> None:
    user = last("USER")

    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user)
    assert f"--uid {user.partition(':')[0]} " in last("RUN")
    assert json.loads(last("ENTRYPOINT")) == ["/usr/bin/tini", "--", "kling-receiver"]
    assert json.loads(last("CMD")) == ["serve"]
    assert "/readyz" in last("HEALTHCHECK")


def test_the_containers_root_is_read_only_except_for_its_state() -> None:
    service = compose_service()

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert f"state:{last('VOLUME')}" in service["volumes"]
    assert f"KLING_RECEIVER__STORE__URL=sqlite:{last('VOLUME')}/" in last("ENV")
    assert (FOLDER / service["build"]["context"] / service["build"]["dockerfile"]).resolve() == FOLDER / "Containerfile"


def test_the_admin_listener_is_published_to_this_machine_only() -> None:
    ports = compose_service()["ports"]

    assert [port for port in ports if port.endswith(":8701")] == ["127.0.0.1:8701:8701"]


def test_no_secret_is_in_the_environment() -> None:
    values = compose_service()["environment"]

    assert values["KLING_RECEIVER__KLING__API_KEY"].startswith("file:/run/secrets/")
