"""What errors of gateways that resell Kling mean, by their words, if they have no code of Kling's. Pure data.

To teach the receiver another gateway's word, add it to its line in ``_WORDS``, in lower case. The words were collected
from these gateways and their users:

- new-api (``types/error.go``, ``relay/relay_task.go``) and one-api, the base of most resellers; some resellers put
  ``local:`` in front of a word;
- the OpenAI and Anthropic error codes, which gateways copy;
- the error pages of Novita and Jiekou, and users' reports about yunwu, 302.ai and one-hub.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Final

from receiver.domain.model import Json


class Meaning(StrEnum):
    """What an error of a gateway means for the task."""

    BALANCE = "balance"  # the gateway's user has no money left
    KEY = "key"  # the gateway does not know the key, or it has expired
    MODEL = "model"  # the gateway has no channel for the model now, or the key may not use it
    RATE = "rate"  # too many calls, or the gateway is overloaded
    SLOTS = "slots"  # too many tasks at once
    PARAMETERS = "parameters"
    CONTENT = "content"
    NOT_FOUND = "not_found"  # no such task
    UNAVAILABLE = "unavailable"  # the gateway cannot serve now, and created nothing
    UNCERTAIN = "uncertain"  # the gateway lost Kling's answer: the task may exist


REMEDIES: Final[Mapping[Meaning, str]] = {
    Meaning.BALANCE: "The balance at the gateway is used up: top it up, or raise the key's limit, in its console.",
    Meaning.KEY: "The gateway does not accept the key: check [kling] api_key in the gateway's console.",
    Meaning.MODEL: "The gateway does not offer this model to the key now: check the model's name and the key's group.",
}

_WORDS: Final[Mapping[Meaning, str]] = {
    Meaning.BALANCE: """
        insufficient_user_quota insufficient_quota pre_consume_token_quota_failed quota_not_enough quota_exhausted
        token_quota_not_enough user_quota_not_enough insufficient_balance insufficient_credits insufficient_credit
        insufficient_funds not_enough_balance not_enough_credits balance_not_enough billing_not_active billing_error
        billing_hard_limit_reached payment_required free_model_blocked_no_quota credit_balance_too_low
        entitlement_required entitlement_inactive entitlement_daily_limit_exceeded entitlement_total_limit_exceeded
        insufficient_balance_error account_overdue arrearage
    """,
    Meaning.KEY: """
        invalid_api_key invalid_token invalid_key incorrect_api_key token_expired expired_token token_invalid
        token_disabled token_not_found token_exhausted api_key_expired api_key_disabled api_key_not_found
        missing_api_key failed_to_auth authentication_error unauthorized account_deactivated user_disabled user_banned
    """,
    Meaning.MODEL: """
        model_not_found model_not_available model_not_allowed no_available_channel get_channel_failed
        channel:no_available_key channel:invalid_key channel:model_mapped_error model_price_error
        channel_not_found channel_disabled task_channel_disable model_not_support model_not_supported
    """,
    Meaning.RATE: """
        rate_limit_exceeded rate_limit_error rate_limit_reached too_many_requests rate_limited requests_limit_exceeded
        tokens_limit_exceeded token_limit_exceeded system_cpu_overloaded system_memory_overloaded
        system_disk_overloaded overloaded_error
    """,
    Meaning.SLOTS: "token_concurrency_limit_reached concurrency_limit_reached concurrent_limit_exceeded",
    Meaning.PARAMETERS: "bad_request_body invalid_request_body read_request_body_failed convert_request_failed",
    Meaning.CONTENT: "sensitive_words_detected prompt_blocked content_policy_violation content_filter",
    Meaning.NOT_FOUND: "task_not_exist task_not_found task_not_exists",
    Meaning.UNAVAILABLE: "service_not_available service_unavailable token_concurrency_unavailable auth_unavailable",
    Meaning.UNCERTAIN: """
        do_request_failed do_response_failed bad_response bad_response_body empty_response read_response_body_failed
        read_response_failed unmarshal_response_body_failed copy_response_body_failed channel:response_time_exceeded
        upstream_timeout gateway_timeout timeout internal_server_error server_error
    """,
}
_MEANING_BY_WORD: Final[Mapping[str, Meaning]] = {
    word: meaning for meaning, words in _WORDS.items() for word in words.split()
}
_PHRASES: Final[Sequence[tuple[Meaning, re.Pattern[str]]]] = [
    (Meaning.RATE, re.compile(r"负载已饱和|load is saturated|请求过于频繁|too many requests|rate limit")),
    (
        Meaning.BALANCE,
        re.compile(r"(quota|balance|credits?|funds) (is |are )?(not enough|insufficient|used up|exhausted)"),
    ),
    (Meaning.BALANCE, re.compile(r"(insufficient|not enough)( \w+)? (quota|balance|credits?|funds)")),
    (Meaning.BALANCE, re.compile(r"balance is too low|exceeded your current quota")),
    (Meaning.BALANCE, re.compile(r"(额度|余额|配额|积分)(不足|已用尽|不够)|预扣费额度失败")),
    (Meaning.KEY, re.compile(r"(invalid|incorrect|expired|unknown) (api[ -]?key|token|access token)")),
    (Meaning.KEY, re.compile(r"(api[ -]?key|token) (is |has )?(been )?(invalid|expired|disabled|not found)")),
    (Meaning.KEY, re.compile(r"无效的令牌|令牌已过期|令牌已禁用|令牌不存在|令牌状态不可用")),
    (Meaning.MODEL, re.compile(r"无可用渠道|no available channel|no access to model|无权(访问|使用)该?模型")),
]
_PREFIX: Final = re.compile(r"^local:")
_SEPARATORS: Final = re.compile(r"[ -]+")
_MAX_WORD: Final = 64


def words_in(document: Json) -> Iterable[str]:
    """Yield the words in an error body that may say what it means, the most precise first."""
    error = document.get("error")
    nested = error if isinstance(error, dict) else {}
    for value in (document.get("code"), nested.get("code"), error, nested.get("type"), document.get("type")):
        if isinstance(value, str) and 0 < len(value) <= _MAX_WORD:
            yield _PREFIX.sub("", _SEPARATORS.sub("_", value.strip().lower()))


def is_known(word: str) -> bool:
    """Return whether a word is in the table."""
    return word in _MEANING_BY_WORD


def meaning_of(words: Iterable[str], message: str) -> Meaning | None:
    """Return what a gateway's error means by its *words* or else by its *message*, or None."""
    by_word = next((_MEANING_BY_WORD[word] for word in words if word in _MEANING_BY_WORD), None)
    if by_word not in (None, Meaning.BALANCE, Meaning.UNCERTAIN):
        return by_word
    lowered = message.lower()
    by_phrase = next((meaning for meaning, phrase in _PHRASES if phrase.search(lowered)), None)
    if by_word is Meaning.BALANCE and by_phrase is not Meaning.RATE:  # some resellers call an overload a lack of quota
        return by_word
    return by_phrase or by_word
