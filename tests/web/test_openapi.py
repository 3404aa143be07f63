"""``/openapi.json`` describes every operation, and every schema restricts its values."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from harness.web_app import WebApp
from starlette.routing import Route

import receiver
from receiver.web.api_requests import MAX_LIMIT
from receiver.web.openapi.document import openapi_document

DOCUMENT: dict[str, Any] = openapi_document().to_json()
OPERATIONS = [(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods]

# Kling defines these objects, or they contain an OpenAPI document.
OPEN_OBJECTS = {
    "OpenApiDocument.paths",
    "OpenApiDocument.components",
    "SubmitRequest.body",
    "TaskCost.said",
    "TaskData.kling",
    "TaskData.result",
    "TaskDetails.result",
    "TaskExplanation.intent",
    "FinishedTask.result",
}


async def test_every_path_and_method_is_described(web: WebApp) -> None:
    described = (await web.client.get("/openapi.json")).json()["paths"]

    for path, operations in described.items():
        at = path.format(ref="x", id="x", name="x", task="x", file="x")
        refused = await web.client.request("TRACE", at)
        allowed = {method.strip().lower() for method in refused.headers["allow"].split(",")} - {"head"}
        assert allowed == set(operations), path


async def test_the_document_contains_every_route(web: WebApp) -> None:
    routes = [route for route in web.app.routes if isinstance(route, Route)]
    paths = {route.path.replace(":path}", "}") for route in routes}

    paths = {path for path in paths if not path.startswith("/console")}  # the console's pages are for people
    assert paths - {"/kling/{path}"} == set(DOCUMENT["paths"])


def test_every_reference_of_the_document_exists() -> None:
    named = set(DOCUMENT["components"]["schemas"])

    def references(value: object) -> set[str]:
        match value:
            case {"$ref": str(ref)}:
                return {ref.rpartition("/")[2]}
            case dict():
                return {name for each in value.values() for name in references(each)}
            case list():
                return {name for each in value for name in references(each)}
        return set()

    assert references(DOCUMENT) == named


def test_only_klings_objects_allow_more_members() -> None:
    open_objects = {
        f"{name}.{member}"
        for name, schema in DOCUMENT["components"]["schemas"].items()
        for member, described in schema.get("properties", {}).items()
        if not is_closed(described)
    }

    assert open_objects == OPEN_OBJECTS
    assert all(is_closed(schema) for schema in DOCUMENT["components"]["schemas"].values())


def is_closed(schema: dict[str, Any]) -> bool:
    """Return whether a schema limits what its values may be, at every depth."""
    inner = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    inner += [schema[name] for name in ("items", "additionalProperties") if schema.get(name, False) is not False]
    if "$ref" in schema:
        return True
    if schema.get("type") == "object" and "properties" not in schema and "additionalProperties" not in schema:
        return "description" in schema  # an object without members
    return ("type" in schema or bool(inner)) and all(isinstance(each, dict) and is_closed(each) for each in inner)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
async def test_an_operation_expects_exactly_the_described_parameters(web: WebApp, method: str, path: str) -> None:
    operation = DOCUMENT["paths"][path][method.lower()]
    described = sorted(each["name"] for each in operation["parameters"] if each["in"] == "query")

    answer = await web.client.request(
        method, path.format(ref="x", id="x", name="x", task="x", file="x"), params={"unknown": "1"}
    )

    if operation.get("security") == [] or path == "/openapi.json":
        assert described == []
        return
    assert answer.status_code == 400
    expected = ", ".join(described) or "nothing"
    assert answer.json()["detail"] == f"Unknown query parameter 'unknown'. Expected: {expected}."


@pytest.mark.parametrize(("method", "path"), [each for each in OPERATIONS if each[0] == "POST"])
async def test_an_operation_expects_exactly_the_described_members(web: WebApp, method: str, path: str) -> None:
    body = DOCUMENT["paths"][path][method.lower()].get("requestBody", {}).get("content", {})
    name = body["application/json"]["schema"]["$ref"].rpartition("/")[2] if body else None
    described = sorted(DOCUMENT["components"]["schemas"][name]["properties"]) if name else []

    answer = await web.client.request(method, path.format(ref="x", id="x", name="publish"), json={"unknown": 1})

    if path == "/api/callback-urls/{ref}/revoke":  # it reads no body
        return
    assert answer.status_code == 400
    expected = ", ".join(described) or "nothing"
    assert answer.json()["detail"] == f"Unknown member 'unknown'. Expected: {expected}."


def test_every_alert_of_the_manual_is_described() -> None:
    manual = (Path(receiver.__file__).parent / "docs" / "alerts.md").read_text("utf-8")
    types = DOCUMENT["components"]["schemas"]["Event"]["discriminator"]["mapping"]

    assert {type_ for type_ in types if type_.startswith("alert.")} == set(re.findall(r"`(alert\.\w+)`", manual))


def test_descriptions_are_markdown() -> None:
    assert "``" not in json.dumps(DOCUMENT)


def test_limits_are_described() -> None:
    parameters = {each["name"]: each["schema"] for each in DOCUMENT["paths"]["/api/tasks"]["get"]["parameters"]}

    assert parameters["limit"] == {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": 50}
    priority = DOCUMENT["components"]["schemas"]["SubmitRequest"]["properties"]["priority"]
    assert (priority["minimum"], priority["maximum"]) == (-1000, 1000)
