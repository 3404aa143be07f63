import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from data.kling_bodies import CASES, case_bytes
from hypothesis import given
from hypothesis import strategies as st

from receiver.domain.errors import InvalidRequest, MalformedBody
from receiver.domain.model import Generation, Json, TaskState
from receiver.kling import create_body, protocol

OURS = "https://hooks.example.com/callbacks/tok"

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
names = st.sampled_from(
    [
        "task_id",
        "task_status",
        "task_status_msg",
        "task_info",
        "task_result",
        "external_task_id",
        "id",
        "status",
        "message",
        "outputs",
        "data",
        "code",
        "external_id",
        "request_id",
        "error",
        "url",
        "type",
        "images",
        "callback_url",
        "options",
    ]
)
words = st.sampled_from(["succeed", "succeeded", "FAILED", "processing", "image", "", "https://a.example/x"])
like_kling = st.recursive(
    words | st.none() | st.integers() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=6),
    max_leaves=25,
)
objects = st.dictionaries(st.text(), anything) | st.dictionaries(names, like_kling | anything)


def encode(value: object) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize("case", CASES, ids=[case["rule"] for case in CASES])
def test_a_body_is_parsed_as_the_table_states(case: dict[str, Any]) -> None:
    reading = protocol.parse_status(case_bytes(case), task_id=case.get("asked_for"))

    made = {name: getattr(reading, name) for name in case if name not in ("rule", "body", "text", "asked_for")}
    if "result" in made:
        made["result"] = {kind: list(entries) for kind, entries in made["result"].items()}
    assert made == {name: case[name] for name in made}


@pytest.mark.parametrize("case", CASES, ids=[case["rule"] for case in CASES])
def test_an_unwrapped_body_reports_the_same_task(case: dict[str, Any]) -> None:
    body, task_id = case_bytes(case), case.get("asked_for")

    unwrapped = protocol.unwrap_task(body, task_id=task_id)

    assert protocol.parse_status(unwrapped).kling_id == protocol.parse_status(body, task_id=task_id).kling_id


@pytest.mark.parametrize(
    ("words_for_it", "state"),
    [
        ("submitted pending queued waiting", TaskState.SUBMITTED),
        ("processing in_progress running generating", TaskState.PROCESSING),
        ("succeed succeeded success completed", TaskState.SUCCEED),
        ("failed fail failure error timeout cancelled canceled", TaskState.FAILED),
    ],
)
@pytest.mark.parametrize("spelt", [str.lower, str.upper, str.title])
@pytest.mark.parametrize("key", ["task_status", "status"])
def test_every_state_word_is_recognized_in_any_case(
    words_for_it: str, state: TaskState, spelt: Callable[[str], str], key: str
) -> None:
    for word in words_for_it.split():
        assert protocol.parse_status(encode({"task_id": "1", key: spelt(word)})).state is state


@given(objects)
def test_any_json_object_can_be_parsed_and_unwrapped(document: Json) -> None:
    body = encode(document)

    reading = protocol.parse_status(body)
    inner = protocol.unwrap_task(body)

    assert reading.raw_status.isprintable() or reading.raw_status.encode()
    assert protocol.parse_status(inner).kling_id == reading.kling_id


@given(objects)
def test_parsed_text_can_be_stored_in_any_database(document: Json) -> None:
    reading = protocol.parse_status(encode(document))

    for text in (reading.raw_status, reading.message, reading.kling_id or "", reading.external_task_id or ""):
        assert "\0" not in text
        assert text.encode().decode() == text


@given(st.binary())
def test_any_bytes_are_parsed_or_malformed(body: bytes) -> None:
    with contextlib.suppress(MalformedBody):
        protocol.parse_status(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"x"',
        b"1",
        b"{",
        b'{"a": 1} x',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b"{'a': 1}",
        b'{"a": 1,}',
        b'{"a": "\n"}',
        b'\xef\xbb\xbf\xef\xbb\xbf{"a": 1}',
        '{"a": 1}'.encode("utf-16"),
        '{"a": 1}'.encode("utf-32-le"),
        b'{"a": "\xff"}',
        b'{"a": "\xed\xa0\x80"}',
        b'{"a": "\xc0\x80"}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a":' * 100_000,
        b'{"a":' + b"[" * 100_000,
        b'{"a":' * 300 + b"1" + b"}" * 300,
        b'{"a":' + b"[" * 300 + b"]" * 300 + b"}",
    ],
    ids=lambda body: repr(body[:24]),
)
def test_an_invalid_json_object_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedBody):
        protocol.parse_object(body)
    with pytest.raises(MalformedBody):
        protocol.parse_status(body)


def test_a_byte_order_mark_is_ignored() -> None:
    mark, task = b"\xef\xbb\xbf", b'{"task_id": "1", "task_status": "succeed"}'

    assert protocol.parse_object(mark + task) == {"task_id": "1", "task_status": "succeed"}
    assert protocol.parse_status(mark + task).kling_id == "1"
    assert protocol.unwrap_task(mark + b'{"code": 0, "data": ' + task + b"}") == task
    assert protocol.split_tasks(mark + b'{"data": [' + task + b"]}") == [task]
    composed = create_body.compose(
        mark + b'{"n": 1}', generation=Generation.LEGACY, callback_url=None, external_task_id=None
    )
    assert composed.content == b'{"n": 1}'


def test_an_error_does_not_quote_the_body() -> None:
    with pytest.raises(MalformedBody) as caught:
        protocol.parse_object(b'{"key": "hush-hush", oops}')

    assert "hush" not in str(caught.value)
    assert "line 1 column 22" in caught.value.message


def test_many_brackets_are_accepted_if_they_are_not_deep() -> None:
    body = encode({"a": [{"b": []} for _ in range(1000)]})

    assert len(protocol.parse_object(body)["a"]) == 1000


def test_an_unwrapped_body_is_returned_byte_for_byte() -> None:
    body = b'{ "task_id" : "1" ,\n "task_status":"succeed", "x": 1.50, "y": "\\u00e9" }\n'

    assert protocol.unwrap_task(body) is body


@pytest.mark.parametrize(
    "body", [b'{"code":1303,"message":"full"}', b'{"code":0,"data":null}', b'{"code":0,"data":[]}']
)
def test_an_answer_without_a_task_is_returned_unchanged(body: bytes) -> None:
    assert protocol.unwrap_task(body) is body


def test_the_task_of_an_answer_is_returned_byte_for_byte() -> None:
    inner = (
        '{"task_id": "1", "task_status":"succeed", "x": 1.50e3, "big": 123456789012345678901234567890, "y":"\\ud800é"}'
    )
    body = f'{{"code":0, "data": {{"task_id": "0"}}, "message": "}}]", "data" : {inner} , "z": [1]}}'.encode()

    assert protocol.unwrap_task(body) == inner.encode()


def test_the_task_in_a_list_is_returned_byte_for_byte() -> None:
    body = b'{"data": [ {"id": "1", "status": "failed"} , {"id": "2", "status": "succeeded"} ]}'

    assert protocol.unwrap_task(body, task_id="2") == b'{"id": "2", "status": "succeeded"}'
    assert protocol.unwrap_task(body) is body


SEEDS = (
    b'{"model_name": "kling-v2", "prompt": "\xe4\xbd\xa0\xe5\xa5\xbd \\ud83d\\ude42", "subject_image_list": '
    b'["http://dummyimage.com/400x400"], "scence_image": "", "n": 4, "aspect_ratio": " 2:3", '
    b'"seed": 123456789012345678901234567890, "cfg": 0.10, "callback_url": "http://gxdf.an/mgjptue"}'
)


def test_our_callback_url_replaces_the_clients_and_nothing_else() -> None:
    composed = create_body.compose(SEEDS, generation=Generation.LEGACY, callback_url=OURS, external_task_id="tsk_1")

    assert composed.reply_to == "http://gxdf.an/mgjptue"
    assert composed.external_task_id == "tsk_1"
    kept = SEEDS[1 : SEEDS.index(b', "callback_url"')].replace(b', "', b',"')
    ours = f',"callback_url":"{OURS}","external_task_id":"tsk_1"}}'.encode()
    assert composed.content == b"{" + kept + ours


def test_a_clients_own_id_is_kept() -> None:
    composed = create_body.compose(
        b'{"external_task_id": "mine"}', generation=Generation.LEGACY, callback_url=OURS, external_task_id="tsk_1"
    )

    assert composed.external_task_id == "mine"
    assert json.loads(composed.content) == {"callback_url": OURS, "external_task_id": "mine"}


@pytest.mark.parametrize("empty", ['""', "null"])
def test_an_empty_callback_url_or_id_counts_as_missing(empty: str) -> None:
    body = f'{{"callback_url": {empty}, "external_task_id": {empty}}}'.encode()

    composed = create_body.compose(body, generation=Generation.LEGACY, callback_url=OURS, external_task_id="tsk_1")

    assert composed.reply_to is None
    assert json.loads(composed.content) == {"callback_url": OURS, "external_task_id": "tsk_1"}


def test_without_a_public_url_the_clients_callback_is_still_removed() -> None:
    composed = create_body.compose(SEEDS, generation=Generation.LEGACY, callback_url=None, external_task_id=None)

    assert composed.reply_to == "http://gxdf.an/mgjptue"
    assert composed.external_task_id == ""
    assert not {"callback_url", "external_task_id"} & json.loads(composed.content).keys()


def test_the_new_generation_has_callback_url_and_external_id_in_its_options() -> None:
    body = b'{"options": {"watermark": {"enabled": true}, "callback_url": "https://me.example/cb"}, "callback_url": 1}'

    composed = create_body.compose(body, generation=Generation.NEW, callback_url=OURS, external_task_id="tsk_1")

    assert composed.reply_to == "https://me.example/cb"
    assert json.loads(composed.content) == {
        "options": {"watermark": {"enabled": True}, "callback_url": OURS, "external_task_id": "tsk_1"},
    }


@pytest.mark.parametrize("body", [b"{}", b'{"options": null}', b'{ "options" : { } }'])
def test_the_new_generation_gets_options_if_it_has_none(body: bytes) -> None:
    composed = create_body.compose(body, generation=Generation.NEW, callback_url=OURS, external_task_id="tsk_1")

    assert json.loads(composed.content) == {"options": {"callback_url": OURS, "external_task_id": "tsk_1"}}


def test_a_repeated_callback_url_is_removed_everywhere() -> None:
    body = b'{"callback_url": "https://a.example/", "call\\u0062ack_url": "https://b.example/", "n": 1}'

    composed = create_body.compose(body, generation=Generation.LEGACY, callback_url=OURS, external_task_id="t")

    assert composed.reply_to == "https://b.example/"
    assert composed.content.count(b"callback_url") == 1


@pytest.mark.parametrize(
    "value",
    [
        1,
        True,
        {},
        ["https://a.example"],
        "ftp://a.example",
        "a.example/cb",
        "https://",
        "http:///x",
        "https://a b/c",
        "https://a.example:99999/",
        "https://[::1",
        "https://a.example/\n",
        " ",
        "javascript:alert(1)",
        "https://\ud800",
    ],
)
def test_an_invalid_callback_url_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequest, match="callback_url"):
        create_body.compose(
            encode({"callback_url": value}), generation=Generation.LEGACY, callback_url=OURS, external_task_id="t"
        )


@pytest.mark.parametrize("value", [1, True, {}, ["a"], "a\0b", "\ud800", "x" * 513])
def test_an_invalid_external_task_id_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequest, match="external_task_id"):
        create_body.compose(
            encode({"external_task_id": value}), generation=Generation.LEGACY, callback_url=OURS, external_task_id="t"
        )


def test_options_must_be_an_object() -> None:
    with pytest.raises(InvalidRequest, match="options"):
        create_body.compose(b'{"options": []}', generation=Generation.NEW, callback_url=OURS, external_task_id="t")


@given(st.dictionaries(st.text(), anything), st.sampled_from(Generation))
def test_all_other_members_pass_unchanged(document: Json, generation: Generation) -> None:
    for ours in ("callback_url", "external_task_id", "options"):
        document.pop(ours, None)

    composed = create_body.compose(encode(document), generation=generation, callback_url=OURS, external_task_id="tsk_1")

    put_in = {"callback_url": OURS, "external_task_id": "tsk_1"}
    expected = document | (put_in if generation is Generation.LEGACY else {"options": put_in})
    assert json.loads(composed.content) == expected


def test_an_unknown_status_is_kept_only_up_to_100_characters() -> None:
    report = protocol.parse_status(b'{"task_id":"1","task_status":"%b"}' % (b"x" * 900_000))

    assert (report.state, report.raw_status) == (None, "x" * 100)
