"""What a tool of the MCP server answers: a link to each result that has a valid URL."""

from receiver.cli.mcp.answers import result_links
from receiver.client import Task


def test_a_result_with_an_invalid_url_has_no_link_and_breaks_no_answer() -> None:
    urls = ["https://[x", "https:///no-host", "https://cdn.example.com/0.png"]
    task = Task.from_json({"id": "tsk_1", "state": "succeed", "result": {"images": [{"url": url} for url in urls]}})

    assert [link.uri for link in result_links(task)] == ["https://cdn.example.com/0.png"]
