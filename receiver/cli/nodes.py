"""`kling-receiver nodes`: the processes that use the database, and their duties."""

from receiver.cli import OK, render
from receiver.cli.options import CLIENT, ClientOptions

_COLUMNS = (
    render.id_column("name", "name"),
    render.column("version"),
    render.state_column("state"),
    render.time_column("started_at", "started"),
    render.time_column("seen_at", "seen"),
    render.Column(title="duties", value=lambda node: ", ".join(node.get("duties") or ())),
)


def nodes(*, output: ClientOptions = CLIENT) -> int:
    """List the processes that use the database: since when, when last seen, and which duties each does for all."""
    with output.connect() as client:
        answer = client.get("/api/nodes")
    render.page(_COLUMNS, answer, as_json=output.json, empty="No nodes.")
    return OK
