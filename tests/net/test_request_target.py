"""A URL's query is sent byte for byte: resume URLs carry a signature there."""

import pytest
from harness.http_peers import http_peer, response
from harness.http_requests import post

from receiver.net.http_client import HttpClient
from receiver.net.request_head import parse_target


@pytest.mark.parametrize(
    "target",
    [
        "/webhook-waiting/712?signature=a%2Fb%2bc%3D%3d&x=1+2",
        "/p?",
        "/p?&&a=&=b&a=1&a=2;c",
        "/p?a=%zz%&b=%",
        "/p??a=b?c=/d//../e",
        "/p?q=\"'<>`{}|^[]\\:@!$()*,",
        "/api/w/demo/jobs_u/resume/01%2F9/3/5f?approver=a%40b.c",
        "/a%2e%2e%2Fb;v=1//c?x",
    ],
)
async def test_the_request_line_has_the_path_and_the_query_as_written(http_client: HttpClient, target: str) -> None:
    async with http_peer(response()) as peer:
        await post(http_client, peer.url.rstrip("/") + target)

    assert peer.requests[0].line == f"POST {target} HTTP/1.1"


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://h.example/p?a=1#b?c", "/p?a=1"),
        ("https://h.example/p#?a=1", "/p"),
        ("https://h.example?a=/b", "/?a=/b"),
        ("https://h.example/p?q=ü&u=日本", "/p?q=%C3%BC&u=%E6%97%A5%E6%9C%AC"),
        ("https://user:pw%3F@h.example/p?a=user:pw@x", "/p?a=user:pw@x"),
    ],
)
def test_a_fragment_is_not_sent_and_other_letters_are_encoded(url: str, target: str) -> None:
    assert parse_target(url).path == target
