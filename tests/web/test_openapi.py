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
    "OpenApiDocument.webhooks",
    "EstimateRequest.body",
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

    assert references(DOCUMENT) == named | set(DOCUMENT["components"]["responses"])


def test_only_klings_objects_allow_more_members() -> None:
    open_objects = {
        f"{name}.{member}"
        for name, schema in DOCUMENT["components"]["schemas"].items()
        for member, described in schema.get("properties", {}).items()
        if not is_closed(described)
    }

    assert open_objects == OPEN_OBJECTS
    schemas = DOCUMENT["components"]["schemas"].values()
    assert all(is_closed(schema) for schema in schemas)
    assert all(schema["additionalProperties"] is False for schema in schemas if "properties" in schema)


def is_closed(schema: dict[str, Any]) -> bool:
    """Return whether a schema limits what its values may be, at every depth."""
    inner = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    inner += [schema[name] for name in ("items", "additionalProperties") if schema.get(name, False) is not False]
    inner += schema.get("patternProperties", {}).values()
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
    priority = DOCUMENT["components"]["schemas"]["SubmitRequest"]["properties"]["priority"]["anyOf"][0]
    assert (priority["minimum"], priority["maximum"]) == (-1000, 1000)


def test_every_operation_has_a_stable_name_a_subject_and_its_errors() -> None:
    operations = [operation for methods in DOCUMENT["paths"].values() for operation in methods.values()]
    names = [operation["operationId"] for operation in operations]
    webhooks = [each["post"] for each in DOCUMENT["webhooks"].values()]

    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z]+[A-Z][A-Za-z]+", name) for name in names)
    assert {"listTasks", "submitTask", "getTask", "acknowledgeAlert", "sumCosts", "followEvents"} <= set(names)
    assert {tag for each in [*operations, *webhooks] for tag in each["tags"]} == {t["name"] for t in DOCUMENT["tags"]}
    for operation in operations:
        is_public = operation.get("security") == []
        assert "default" not in operation["responses"]
        assert {"401", "421"} <= set(operation["responses"]) or is_public, operation["operationId"]


def test_the_document_describes_what_destinations_receive() -> None:
    described = {
        name: each["post"]["requestBody"]["content"]["application/json"]["schema"]
        for name, each in DOCUMENT["webhooks"].items()
    }
    alerts = DOCUMENT["components"]["schemas"]["AlertEvent"]["discriminator"]["mapping"]
    events = DOCUMENT["components"]["schemas"]["Event"]["discriminator"]["mapping"]

    assert described.pop("reply")["additionalProperties"] is True  # Kling's own body
    names = {"taskEvent": "TaskEvent", "batchFinished": "BatchEvent", "dailyReport": "ReportEvent"}
    refs = {name: {"$ref": f"#/components/schemas/{schema}"} for name, schema in names.items()}
    assert described == refs | {"alert": {"$ref": "#/components/schemas/AlertEvent"}}
    assert set(alerts) == {type_ for type_ in events if type_.startswith("alert.")}


def test_the_document_describes_formats_of_times_urls_and_amounts() -> None:
    members = {name: schema.get("properties") for name, schema in DOCUMENT["components"]["schemas"].items()}

    assert members["Task"]["created_at"]["format"] == "date-time"
    assert members["CallbackUrl"]["callback_url"]["format"] == "uri"
    amounts = members["CostTotal"]["charges"]["additionalProperties"]
    assert re.fullmatch(amounts["pattern"], "12.50")
    assert not re.fullmatch(amounts["pattern"], "1e3")
