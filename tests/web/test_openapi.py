"""The description for machines says what is there, and nothing else."""

from harness.web_app import WebApp
from starlette.routing import Route

from receiver.web.openapi.document import OPENAPI_DOCUMENT


async def test_every_address_and_method_is_described(web: WebApp) -> None:
    described = (await web.client.get("/openapi.json")).json()["paths"]

    for path, operations in described.items():
        at = path.format(ref="x", id="x", name="x")
        refused = await web.client.request("TRACE", at)
        allowed = {method.strip().lower() for method in refused.headers["allow"].split(",")} - {"head"}
        assert allowed == set(operations), path


async def test_every_route_is_in_it(web: WebApp) -> None:
    routes = [route for route in web.app.routes if isinstance(route, Route)]
    paths = {route.path.replace(":path}", "}") for route in routes}

    assert paths - {"/kling/{path}"} == set(OPENAPI_DOCUMENT["paths"])


def test_every_name_it_refers_to_is_there() -> None:
    named = set(OPENAPI_DOCUMENT["components"]["schemas"])

    def references(value: object) -> set[str]:
        match value:
            case {"$ref": str(ref)}:
                return {ref.rpartition("/")[2]}
            case dict():
                return {name for each in value.values() for name in references(each)}
            case list():
                return {name for each in value for name in references(each)}
        return set()

    assert references(OPENAPI_DOCUMENT) <= named
