"""Bodies that no one should send: broken, hostile, and merely strange; made from a seed."""

import gzip
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from harness.running_service import a_push_body


@dataclass(frozen=True, slots=True, kw_only=True)
class BadBody:
    """A body and the headers it comes with; ``kind`` is what is wrong with it."""

    kind: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


VALID_BODY = a_push_body("succeed")
GZIP_BOMB = gzip.compress(b"0" * (4 << 20))
_STATUSES = ["submitted", "processing", "succeed", "failed"]


def a_bad_body(rng: Random) -> BadBody:
    """Make the next one."""
    kind = rng.choice(list(_KINDS))
    made = _KINDS[kind](rng)
    return made if isinstance(made, BadBody) else BadBody(kind=kind, body=made)


def _bytes(rng: Random) -> bytes:
    return rng.randbytes(rng.randrange(200))


def _invalid_utf8(rng: Random) -> bytes:
    at = rng.randrange(1, len(VALID_BODY))
    bad = rng.choice([b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x80", b"\xe2\x82"])
    return VALID_BODY[:at] + bad + VALID_BODY[at:]


def _deep(rng: Random) -> bytes:
    depth = rng.choice([150, 199, 200, 201, 1_000, 20_000])
    opened, closed = rng.choice([(b"[", b"]"), (b'{"a":', b"}")])
    inner = opened * depth + b"0" + closed * (depth if rng.random() < 0.7 else 0)
    return b'{"task_id":"1","task_status":"succeed","deep":' + inner + b"}"


def _numbers(rng: Random) -> bytes:
    digits = rng.choice([20, 4_299, 4_301, 50_000])
    huge = rng.choice(
        [
            "9" * digits,
            f"-{'9' * digits}",
            f"1e{digits}",
            f"1e-{digits}",
            f"0.{'1' * digits}",
            "1E400",
            "-0",
            "00",
            "1.",
        ]
    )
    key = rng.choice(["task_id", "created_at", "task_status", "other"])
    return f'{{"task_status":"succeed","{key}":{huge}}}'.encode()


def _not_a_number(rng: Random) -> bytes:
    value = rng.choice(["NaN", "Infinity", "-Infinity", "nan", "undefined", "0x1F", "+1", ".5"])
    return f'{{"task_id":"1","task_status":"succeed","n":{value}}}'.encode()


def _duplicate_keys(rng: Random) -> bytes:
    one, other = rng.sample(_STATUSES, 2)
    return f'{{"task_id":"1","task_id":"2","task_status":"{one}","task_status":"{other}"}}'.encode()


def _surrogates(rng: Random) -> bytes:
    lone = rng.choice(["\\ud800", "\\udfff", "\\udc00\\ud800", "\\ud83d", "\\u0000"])
    key = rng.choice(["task_id", "task_status", "task_status_msg", "external_task_id", lone])
    return f'{{"{key}":"{lone}","x":"{lone}"}}'.encode()


def _strange_types(rng: Random) -> bytes:
    values: Sequence[object] = [None, True, 0, -1, 1.5, "", " ", [], {}, [[]], ["x"], {"url": 7}, "x" * 5000, 2**70]
    keys = ["task_id", "task_status", "task_status_msg", "task_info", "task_result", "data", "code", "id", "status",
            "outputs", "message", "external_task_id", "created_at", "url", "error"]  # fmt: skip
    return json.dumps({key: rng.choice(values) for key in rng.sample(keys, rng.randrange(1, 8))}).encode()


def _strange_result(rng: Random) -> bytes:
    odd = rng.choice(["[null]", "[[]]", '{"images":{"url":[]}}', '{"images":[{"url":null}]}', '{"\\ud800":[1]}', "7"])
    return f'{{"task_id":"1","task_status":"{rng.choice(_STATUSES)}","task_result":{odd}}}'.encode()


def _no_object(rng: Random) -> bytes:
    return rng.choice(
        [b"", b" ", b"null", b"[]", b'"succeed"', b"7", b"[{}]", b"true", b"{}{}", b"{},", b"\xef\xbb\xbf"]
    )


def _truncated(rng: Random) -> bytes:
    return VALID_BODY[: rng.randrange(len(VALID_BODY))]


def _overwritten_bytes(rng: Random) -> bytes:
    bitten = bytearray(VALID_BODY)
    for _ in range(rng.randrange(1, 6)):
        bitten[rng.randrange(len(bitten))] = rng.randrange(256)
    return bytes(bitten)


def _other_encodings(rng: Random) -> bytes:
    return VALID_BODY.decode().encode(rng.choice(["utf-16", "utf-16-le", "utf-32", "utf-32-le"]))


def _form(_: Random) -> BadBody:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    return BadBody(kind="a form", body=b"task_id=1&task_status=succeed", headers=headers)


def _compressed(rng: Random) -> BadBody:
    squeezed, encoding = rng.choice(
        [(GZIP_BOMB, "gzip"), (gzip.compress(VALID_BODY), "gzip"), (zlib.compress(VALID_BODY), "deflate")]
    )
    declared = {"content-encoding": rng.choice([encoding, "br", "gzip, gzip", encoding.upper()])}
    return BadBody(kind="compressed", body=squeezed, headers=declared if rng.random() < 0.5 else {})


def _nested_wrappers(rng: Random) -> bytes:
    body = VALID_BODY
    for _ in range(rng.randrange(1, 60)):
        body = rng.choice([b'{"code":0,"data":%b}', b'{"data":[%b]}', b'{"code":"success","data":[{},%b]}']) % body
    return body


_KINDS: Mapping[str, Callable[[Random], bytes | BadBody]] = {
    "bytes": _bytes,
    "invalid UTF-8": _invalid_utf8,
    "deep": _deep,
    "huge numbers": _numbers,
    "not a number": _not_a_number,
    "doubled keys": _duplicate_keys,
    "lone surrogates": _surrogates,
    "strange types": _strange_types,
    "strange result": _strange_result,
    "no object": _no_object,
    "cut": _truncated,
    "bitten": _overwritten_bytes,
    "other encodings": _other_encodings,
    "a form": _form,
    "compressed": _compressed,
    "wrapped again and again": _nested_wrappers,
}
