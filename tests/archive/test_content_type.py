"""What a downloaded file is, by its content type and its first bytes."""

import time

import pytest
from harness.archive_system import JPG, PNG

from receiver.archive.content_type import document_in, document_of_type, normalize, sniff

PAGE, XML, JSON = "a web page", "a document in XML", "a document in JSON"


@pytest.mark.parametrize(
    ("content_type", "document"),
    [
        ("text/html", PAGE),
        ("application/xhtml+xml", PAGE),
        ("application/xml", XML),
        ("text/xml", XML),
        ("application/soap+xml", XML),
        ("application/json", JSON),
        ("application/problem+json", JSON),
        ("text/json", JSON),
        ("image/png", None),
        ("image/svg+xml", None),
        ("application/octet-stream", None),
        ("text/plain", None),
        ("", None),
    ],
)
def test_json_xml_and_html_are_documents_by_their_type(content_type: str, document: str | None) -> None:
    assert document_of_type(content_type) == document


@pytest.mark.parametrize(
    ("content", "document"),
    [
        (b'{"code":404,"message":"expired"}', JSON),
        (b"{ }", JSON),
        (b'\xef\xbb\xbf \r\n{\n  "code": 404', JSON),
        (b'[{"code": 404}]', JSON),
        (b'<?xml version="1.0"?><Error/>', XML),
        (b"<Error><Code>AccessDenied</Code></Error>", XML),
        ("\ufeff<Error/>".encode("utf-16-le"), XML),
        ('<?xml version="1.0" encoding="latin-1"?><Fehler>ungültig</Fehler>'.encode("latin-1"), XML),
        (b"\n\n<!DOCTYPE html><html>", PAGE),
        (b"<!-- a proxy --><HTML><BODY>log in</BODY>", PAGE),
        (PNG, None),
        (JPG, None),
        (b"\0\0\0\x20ftypisom", None),
        (b"{\x00\x01 a binary file", None),
        (b"<a\x00", None),
        (b"[Script Info]\nTitle: subtitles", None),
        (b"WEBVTT\n\n00:01.000 --> 00:04.000\n{a}", None),
        (b"", None),
    ],
)
def test_json_xml_and_html_are_documents_by_their_first_bytes(content: bytes, document: str | None) -> None:
    assert document_in(content, "application/octet-stream") == document
    assert document_in(content, "image/png") == document


@pytest.mark.parametrize(("ending", "document"), [(b"<html>", PAGE), (b"<a>", XML), (b"<!--", XML)])
def test_a_document_of_many_comments_is_recognized_quickly(ending: bytes, document: str) -> None:
    begun = time.thread_time()

    assert document_in(b"<!---->" * 25 + ending, "image/png") == document  # seconds, if each comment doubles the time
    assert time.thread_time() - begun < 0.5


def test_an_svg_image_is_not_an_error_document() -> None:
    assert document_in(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml") is None


@pytest.mark.parametrize(
    ("head", "content_type"),
    [
        (PNG, "image/png"),
        (JPG, "image/jpeg"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        (b"RIFF\0\0\0\0WAVEfmt ", "audio/wav"),
        (b"RIFF\0\0\0\0AVI LIST", "application/octet-stream"),
        (b"\0\0\0\x20ftypisom", "video/mp4"),
        (b"a file", "application/octet-stream"),
    ],
)
def test_a_file_of_unknown_type_is_recognized_by_its_first_bytes(head: bytes, content_type: str) -> None:
    assert sniff(head) == content_type


def test_content_types_are_normalized() -> None:
    assert normalize("image/jpg") == "image/jpeg"
    assert normalize("video/x-none") == "application/octet-stream"
