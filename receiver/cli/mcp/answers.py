"""What a tool answers: the service's JSON, bounded, and a link to each result. An agent reads every character."""

import json
from collections.abc import Iterator, Sequence
from mimetypes import guess_type
from pathlib import Path
from urllib.parse import urlsplit

from mcp.types import CallToolResult, ContentBlock, ResourceLink, TextContent

from receiver.client import Task
from receiver.domain.model import Json
from receiver.events.payload import result_urls

MAX_STRING = 2000
"""Characters of one string that are shown: Kling's bodies may have megabytes of an image."""

MAX_ANSWER = 48_000
"""Characters of one answer."""

_MAX_LINKS = 50


def answer(value: Json, *, note: str = "", links: Sequence[ResourceLink] = ()) -> CallToolResult:
    """Return a tool's answer: *note* for the agent, the JSON, and the links."""
    shown = _shorten(value)
    text = json.dumps(shown, ensure_ascii=False, indent=1)
    is_whole = len(text) <= MAX_ANSWER
    if not is_whole:
        text = f"{text[:MAX_ANSWER]}\n(cut after {MAX_ANSWER} of {len(text)} characters: ask for less, or by ID)"
    parts = [TextContent(type="text", text=part) for part in (note, text) if part]
    content: list[ContentBlock] = [*parts, *links]
    return CallToolResult(content=content, structured_content=shown if is_whole else None)


def result_links(task: Task) -> Sequence[ResourceLink]:
    """Return a link to each result of a task: its archived file on the service's machine, or Kling's URL."""
    paths = {asset["url"]: asset["path"] for asset in task.assets if asset.get("path")}
    urls = [url for url in result_urls(task.result) if _names_host(url)][:_MAX_LINKS]
    return [_link(number, url, paths.get(url)) for number, url in enumerate(urls)]


def _names_host(url: str) -> bool:
    try:
        return bool(urlsplit(url).hostname)
    except ValueError:  # such as https://[x
        return False


def _link(number: int, url: str, path: str | None) -> ResourceLink:
    uri = Path(path).as_uri() if path else url
    return ResourceLink(
        type="resource_link",
        uri=uri,
        name=f"result-{number}",
        mime_type=guess_type(urlsplit(uri).path)[0],
        description="The archived file, on the service's machine." if path else "Kling's URL. It expires.",
    )


def _shorten(value: Json) -> Json:
    return {_without_surrogates(key): _shorten_value(inner) for key, inner in value.items()}


def _shorten_value(value: object) -> object:
    match value:
        case str() if len(value) > MAX_STRING:
            return f"{_without_surrogates(value[:MAX_STRING])}... ({len(value)} characters)"
        case str():
            return _without_surrogates(value)
        case dict():
            return _shorten(value)
        case list():
            return list(_shorten_items(value))
    return value


def _without_surrogates(text: str) -> str:
    """Replace halves of surrogate pairs, which a body of Kling's may contain: the protocol is UTF-8."""
    return text.encode(errors="replace").decode()


def _shorten_items(values: Sequence[object]) -> Iterator[object]:
    for value in values:
        yield _shorten_value(value)
