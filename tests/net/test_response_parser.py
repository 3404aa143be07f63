"""A response is read as HTTP says, within limits on everything that is not a body."""

from random import Random

import pytest
from harness.http_peers import response

from receiver.net.response_parser import MAX_HEAD, InvalidResponse, ResponseParser

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"


def parse(*pieces: bytes, to_head_request: bool = False) -> ResponseParser:
    parser = ResponseParser()
    parser.expect_response(to_head_request=to_head_request)
    for piece in pieces:
        parser.feed(piece)
    return parser


@pytest.mark.parametrize(
    "start",
    [
        b"HTTP/1.1 200 ",
        OK + b"x: ",
        OK + b"x",
        CHUNKED + b"1;",
        CHUNKED + b"1;name=",
        CHUNKED + b"3\r\nabc\r\n0\r\nx: ",
        CHUNKED + b"3\r\nabc\r\n0\r\nx",
    ],
)
def test_the_head_and_trailers_of_a_response_are_limited(start: bytes) -> None:
    with pytest.raises(InvalidResponse):
        parse(start, *[b"a" * 1000] * (MAX_HEAD // 1000 + 2))


def test_many_informational_responses_are_limited() -> None:
    with pytest.raises(InvalidResponse):
        parse(*[b"HTTP/1.1 100 Continue\r\n\r\n"] * (MAX_HEAD // 25 + 1))


def test_the_parser_does_not_limit_the_body() -> None:
    parser = parse(CHUNKED)

    for _ in range(10):
        parser.feed(b"%x\r\n%b\r\n" % (MAX_HEAD, b"a" * MAX_HEAD))
    parser.feed(b"0\r\n\r\n")

    assert parser.response.is_complete
    assert parser.response.buffered == 10 * MAX_HEAD


@pytest.mark.parametrize(
    ("data", "body", "keeps_alive"),
    [
        (OK + b"content-length: 2\r\n\r\nok", b"ok", True),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", b"ok", False),
        (OK + b"content-length: 2\r\nconnection: close\r\n\r\nok", b"ok", False),
        (OK + b"content-length: 9\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"ok", False),
        (OK + b"content-length: 2\r\n\r\nok" + response(), b"ok", False),
        (OK + b"content-length: 2\r\n\r\nok junk", b"ok", False),
        (OK + b"content-length: 2\n\nok", b"ok", True),
        (b"HTTP/1.1 100 Continue\r\nx: y\r\n\r\n" + OK + b"content-length: 2\r\n\r\nok", b"ok", True),
        (b"HTTP/1.1 304 Same\r\ncontent-length: 9\r\n\r\n", b"", True),
        (b"HTTP/1.1 204 None\r\n\r\n", b"", True),
        (b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nother", b"", False),
        (b"HTTP/1.1 101 Switching\r\n\r\nother", b"", False),
        (CHUNKED + b"2;x=y\r\nok\r\n0\r\ncontent-length: 5\r\nx: trailer\r\n\r\n", b"ok", True),
    ],
)
@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_a_response_ends_at_its_declared_length_or_last_chunk(
    data: bytes, body: bytes, step: int, *, keeps_alive: bool
) -> None:
    parser = parse(*(data[at : at + step] for at in range(0, len(data), step)))

    assert parser.response.is_complete
    assert parser.response.keeps_alive is keeps_alive
    assert b"".join(parser.response.chunks) == body
    assert "x" not in parser.response.headers


def test_a_body_without_a_length_ends_only_with_the_connection() -> None:
    parser = parse(OK + b"\r\nuntil the end")
    assert not parser.response.is_complete

    parser.feed_eof()

    assert parser.response.is_complete


def test_a_response_to_head_has_no_body() -> None:
    assert parse(OK + b"content-length: 9\r\n\r\n", to_head_request=True).response.is_complete


def test_repeated_headers_are_joined() -> None:
    assert parse(OK + b"A: 1\r\na: 2 \r\n\r\n").response.headers == {"a": "1, 2"}


def test_any_bytes_are_parsed_or_refused() -> None:
    rng = Random(5)
    seeds = [CHUNKED + b"3\r\nabc\r\n0\r\nt: x\r\n\r\n", response(200, b"hello"), OK + b"\r\nbody"]
    for _ in range(3000):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(0, 5)):
            at = rng.randrange(len(data) + 1)
            data[at : at + rng.randint(0, 9)] = rng.choice([rng.randbytes(3), b"\r\n", b"0\r\n\r\n", b": ", b""])
        parser = ResponseParser()
        try:
            for at in range(0, len(data), 11):
                parser.feed(bytes(data[at : at + 11]))
        except InvalidResponse:
            continue
        parser.feed_eof()
        assert not parser.response.keeps_alive or parser.response.is_complete
