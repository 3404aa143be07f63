"""Bodies of any size in which one part has grown, at each place where a body is read."""

from collections.abc import Callable, Mapping

_HEAD = b'{"id":"1","status":"succeeded",'
_LEGACY = b'{"task_id":"1","task_status":"succeed","task_result":{'


def _many(before: bytes, unit: bytes, after: bytes = b"]}") -> Callable[[int], bytes]:
    """Return a body of about this size with many copies of *unit*."""
    return lambda size: before + b",".join([unit] * max(1, (size - len(before)) // (len(unit) + 1))) + after


def _text(unit: bytes, after: bytes = b'"}', before: bytes = _HEAD + b'"message":"') -> Callable[[int], bytes]:
    return lambda size: before + unit * (size // len(unit)) + after


def _numbered(before: bytes, unit: bytes, after: bytes) -> Callable[[int], bytes]:
    return lambda size: before + b",".join(unit % number for number in range(size // (len(unit) + 4))) + after


GROWN: Mapping[str, Callable[[int], bytes]] = {
    "outputs": _many(_HEAD + b'"outputs":[', b'{"type":"a"}'),
    "outputs of many kinds": _numbered(_HEAD + b'"outputs":[', b'{"type":"%d"}', b"]}"),
    "bare URLs": _many(_HEAD + b'"outputs":[', b'"http://a"'),
    "kinds of results": _numbered(_LEGACY, b'"%d":["http://a"]', b"}}"),
    "one kind again and again": _many(_LEGACY, b'"images":[]', b"}}"),
    "a gateway's works": _many(_HEAD + b'"output":{"works":[', b'{"video":{}}', b"]}}"),
    "nested lists": _many(_HEAD + b'"a":[', b"[" * 190 + b"]" * 190),
    "nested objects": _many(_HEAD + b'"a":[', b'{"a":' * 190 + b"1" + b"}" * 190),
    "nested results": _many(_HEAD + b'"result":[', b"[" * 190 + b"]" * 190),
    "an endless nest": lambda size: _HEAD + b'"a":' + b"[" * size,
    "bills": _many(_HEAD + b'"billing":[', b'{"charge_type":"a","amount":0.5}'),
    "fractions in a bill": _many(_HEAD + b'"billing":[', b"0.5"),
    "fractions deep in a bill": _many(_HEAD + b'"billing":' + b"[" * 180, b"0.1", b"]" * 180 + b"}"),
    "tasks": _many(b'{"data":[', b"{}"),
    "tasks with ids": _numbered(b'{"code":0,"data":[', b'{"task_id":"%d","task_status":"processing"}', b"]}"),
    "the same key": _many(b"{", b'"id":1', b"}"),
    "other keys": _numbered(b"{", b'"%d":1', b"}"),
    "numbers": _many(_HEAD + b'"a":[', b"1"),
    "large numbers": _many(_HEAD + b'"a":[', b"9" * 4200),
    "a long number": _text(b"9", b"}", _HEAD + b'"a":'),
    "a long fraction": _text(b"9", b"}", _HEAD + b'"billing":0.'),
    "a long text": _text(b"a"),
    "a long id": _text("é".encode(), b'"}', b'{"task_id":"'),
    "escapes": _text(b"\\n"),
    "escaped quotes": _text(b'\\"'),
    "escaped quotes without an end": _text(b'\\"', b""),
    "surrogates": _text(b"\\ud800"),
    "brackets in a text": _text(b"[{,:"),
    "empty texts": _many(_HEAD + b'"a":[', b'""'),
    "quotes": _text(b'"', b"", b"{"),
    "blanks": _text(b" ", b"1]}", _HEAD + b'"a":[' + b"[]," * 300),
    "wrappers": lambda size: b'{"data":' * 180 + b'{"task_id":"%b"}' % (b"a" * size) + b"}" * 180,
    "tasks inside tasks": lambda size: (
        b'{"id":"1","status":"succeed","data":' * 150 + b'{"task_id":"%b"}' % (b"a" * size) + b"}" * 150
    ),
}
"""What has grown, and a function that makes such a body of about a size."""
