"""Signatures follow Standard Webhooks, and no request can make the verification raise."""

import base64
import json
from datetime import timedelta

import pytest
from harness.clock import START
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from receiver.domain import signing
from receiver.domain.clock import SystemClock, from_micros
from receiver.domain.secret import Secret
from receiver.domain.signing import SignatureStatus

PLAIN = Secret("not base64 at all")
PREFIXED = Secret("whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode())
BODY = b'{"task_id":"1"}'

VENDOR_SECRET = Secret("whsec_dGVzdHNlY3JldHRlc3RzZWNyZXR0ZXN0c2VjcmV0MTI=")
VENDOR_BODY = (
    b'{"id":"1234567890","status":"succeeded","message":"","create_time":1781080778802,"update_time":1781080794151}'
)
VENDOR_HEADERS = {
    "webhook-id": "9876543210",
    "webhook-timestamp": "1781080794",
    "webhook-signature": "v1,UsKlJP00XoQyOn410NM9xv34sP+Gl0jnOO9Lcpr7NJ4=",
}
VENDOR_TIME = from_micros(1781080794 * 1_000_000)


def signed(*secrets: Secret, body: bytes = BODY) -> dict[str, str]:
    return {
        "webhook-id": "evt_1",
        "webhook-timestamp": signing.timestamp(START),
        "webhook-signature": signing.sign(secrets, message_id="evt_1", at=START, body=body),
    }


def test_the_vendors_example_verifies() -> None:
    assert signing.verify([VENDOR_SECRET], VENDOR_HEADERS, VENDOR_BODY, now=VENDOR_TIME) is SignatureStatus.GOOD


def test_signing_reproduces_the_vendors_example() -> None:
    signature = signing.sign([VENDOR_SECRET], message_id="9876543210", at=VENDOR_TIME, body=VENDOR_BODY)

    assert signature == VENDOR_HEADERS["webhook-signature"]


ADVISED = Secret(base64.b64encode(bytes(range(200, 232))).decode())  # as `openssl rand -base64 32` makes it
HEX = Secret("0123456789abcdef" * 4)


@pytest.mark.parametrize("secret", [PREFIXED, VENDOR_SECRET, ADVISED, HEX])
def test_signing_equals_the_reference_implementation(secret: Secret) -> None:
    reference = Webhook(secret.reveal()).sign("evt_1", START, BODY.decode())

    assert signing.sign([secret], message_id="evt_1", at=START, body=BODY) == reference


def test_the_reference_accepts_either_signature_of_a_rotation() -> None:
    now = SystemClock().now()  # the reference reads the system clock
    headers = {
        "webhook-id": "evt_1",
        "webhook-timestamp": signing.timestamp(now),
        "webhook-signature": signing.sign([PREFIXED, VENDOR_SECRET], message_id="evt_1", at=now, body=BODY),
    }

    for secret in (PREFIXED, VENDOR_SECRET):
        assert Webhook(secret.reveal()).verify(BODY, headers) == json.loads(BODY)


def test_each_secret_of_a_rotation_signs_and_is_accepted() -> None:
    headers = signed(PREFIXED, PLAIN)

    assert len(headers["webhook-signature"].split(" ")) == 2
    assert signing.verify([PLAIN], headers, BODY, now=START) is SignatureStatus.GOOD
    assert signing.verify([VENDOR_SECRET, PREFIXED], headers, BODY, now=START) is SignatureStatus.GOOD


@pytest.mark.parametrize("text", ["not base64 at all", "a-url-safe_text", "unpadded-", "abcde", "=abcdefgh"])
def test_a_secret_without_prefix_or_base64_is_used_as_the_key_itself(text: str) -> None:
    assert signing.decode_key(Secret(text)) == text.encode()


@pytest.mark.parametrize("text", ["whsec_AAECAwQ=", "whsec_AAECAwQ", " whsec_AAECAwQ= "])
def test_a_secrets_padding_is_optional(text: str) -> None:
    assert signing.decode_key(Secret(text)) == bytes([0, 1, 2, 3, 4])


@pytest.mark.parametrize(
    ("drift", "expected"),
    [
        (timedelta(minutes=5), SignatureStatus.GOOD),
        (timedelta(minutes=-5), SignatureStatus.GOOD),
        (timedelta(minutes=5, seconds=1), SignatureStatus.BAD),
        (timedelta(minutes=-5, seconds=-1), SignatureStatus.BAD),
    ],
)
def test_a_signature_is_good_for_five_minutes_either_way(drift: timedelta, expected: SignatureStatus) -> None:
    assert signing.verify([PLAIN], signed(PLAIN), BODY, now=START + drift) is expected


def test_missing_signature_headers_count_as_unsigned() -> None:
    assert signing.verify([PLAIN], {"content-type": "application/json"}, BODY, now=START) is SignatureStatus.ABSENT


@pytest.mark.parametrize("missing", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_an_incomplete_signature_is_bad(missing: str) -> None:
    headers = signed(PLAIN)
    del headers[missing]

    assert signing.verify([PLAIN], headers, BODY, now=START) is SignatureStatus.BAD


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-id": "evt_2"},
        {"webhook-id": ""},
        {"webhook-timestamp": str(int(signing.timestamp(START)) + 1)},
        {"webhook-timestamp": "now"},
        {"webhook-timestamp": "-1"},
        {"webhook-timestamp": "1e9"},
        {"webhook-timestamp": "9" * 5000},
        {"webhook-timestamp": "٤٢"},
        {"webhook-signature": ""},
        {"webhook-signature": "v1"},
        {"webhook-signature": "v1,"},
        {"webhook-signature": "v1,not base64"},
        {"webhook-signature": "v1,ü"},
        {"webhook-signature": "v1," + "A" * 1_000_000},
        {"webhook-signature": ","},
        {"webhook-signature": "v2," + signed(PLAIN)["webhook-signature"].partition(",")[2]},
        {"webhook-signature": "\ud800"},
    ],
)
def test_malformed_or_altered_headers_are_bad(change: dict[str, str]) -> None:
    assert signing.verify([PLAIN], signed(PLAIN) | change, BODY, now=START) is SignatureStatus.BAD


def test_an_altered_body_is_bad() -> None:
    assert signing.verify([PLAIN], signed(PLAIN), BODY + b" ", now=START) is SignatureStatus.BAD


def test_no_secret_or_an_empty_one_verifies_nothing() -> None:
    assert signing.verify([], signed(PLAIN), BODY, now=START) is SignatureStatus.BAD
    assert signing.verify([Secret("")], signed(Secret("")), BODY, now=START) is SignatureStatus.BAD
    assert signing.verify([Secret("whsec_")], signed(Secret("whsec_")), BODY, now=START) is SignatureStatus.BAD


def test_invalid_signatures_beside_a_good_one_are_ignored() -> None:
    headers = signed(PLAIN)
    headers["webhook-signature"] = f"v1a,xxx v1,%%% v1,AAAA {headers['webhook-signature']}"

    assert signing.verify([PLAIN], headers, BODY, now=START) is SignatureStatus.GOOD


@given(message_id=st.text(), sent_at=st.text(), offered=st.text(), body=st.binary())
def test_no_header_makes_verification_raise(message_id: str, sent_at: str, offered: str, body: bytes) -> None:
    headers = {"webhook-id": message_id, "webhook-timestamp": sent_at, "webhook-signature": offered}

    assert signing.verify([PLAIN, PREFIXED], headers, body, now=START) is SignatureStatus.BAD
