"""The description for machines says what is there, and nothing else."""

from harness.web_app import House
from starlette.routing import Route

from receiver.web.openapi.document import DESCRIPTION


async def test_every_address_and_method_is_described(house: House) -> None:
    described = (await house.client.get("/openapi.json")).json()["paths"]

    for path, operations in described.items():
        at = path.format(ref="x", id="x", name="x")
        refused = await house.client.request("TRACE", at)
        allowed = {method.strip().lower() for method in refused.headers["allow"].split(",")} - {"head"}
        assert allowed == set(operations), path


async def test_every_route_is_in_it(house: House) -> None:
    routes = [route for route in house.app.routes if isinstance(route, Route)]
    paths = {route.path.replace(":path}", "}") for route in routes}

    assert paths - {"/kling/{path}"} == set(DESCRIPTION["paths"])


def test_every_name_it_refers_to_is_there() -> None:
    named = set(DESCRIPTION["components"]["schemas"])

    def references(value: object) -> set[str]:
        match value:
            case {"$ref": str(ref)}:
                return {ref.rpartition("/")[2]}
            case dict():
                return {name for each in value.values() for name in references(each)}
            case list():
                return {name for each in value for name in references(each)}
        return set()

    assert references(DESCRIPTION) <= named
