"""Single values of the configuration: durations, sizes, rates, addresses, networks, URLs and conditions."""

from contextlib import suppress
from datetime import timedelta
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.settings import Address, Rate, Size
from receiver.settings.addresses import (
    check_url,
    is_loopback,
    read_address,
    read_host_name,
    read_kling_url,
    read_network,
    read_optional_url,
    read_proxies,
)
from receiver.settings.conditions import compares_with_quoted_key, read_condition
from receiver.settings.values import (
    MAX_DURATION,
    InvalidValue,
    did_you_mean,
    read_bool,
    read_duration,
    read_int,
    read_rate,
    read_size,
    read_text,
    write_duration,
)


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("250ms", timedelta(milliseconds=250)),
        ("5s", timedelta(seconds=5)),
        ("10m", timedelta(minutes=10)),
        ("24h", timedelta(hours=24)),
        ("30d", timedelta(days=30)),
        ("1h30m", timedelta(minutes=90)),
        ("2592000000ms", timedelta(days=30)),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text: str, length: timedelta) -> None:
    assert read_duration(text) == length


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("5", '"5" is not a duration; write it like "250ms", "5s"'),
        ("5 s", "is not a duration"),
        ("0.5s", "is not a duration"),
        ("-5s", "is not a duration"),
        ("5S", "is not a duration"),
        ("", "is not a duration"),
        ("٥s", "is not a duration"),
        (30, 'has no unit; write it like "30s"'),
        (-(10**30), 'has no unit; write it like "30s"'),
        (True, "must be a duration in quotes"),
        (1.5, "must be a duration in quotes"),
        (None, "must be a duration in quotes"),
        ("0s", 'must be "1ms" to "3650d"'),
        ("9999d", 'must be "1ms" to "3650d"'),
        ("999999999999999d", 'must be at most "3650d"'),
    ],
)
def test_an_invalid_duration_is_an_error_with_the_form(raw: object, reason: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        read_duration(raw)

    assert reason in str(caught.value)


@given(st.timedeltas(min_value=timedelta(milliseconds=1), max_value=MAX_DURATION))
def test_a_duration_survives_writing_and_reading(length: timedelta) -> None:
    length = timedelta(milliseconds=length // timedelta(milliseconds=1))

    assert read_duration(write_duration(length)) == length


@pytest.mark.parametrize("text", ["250ms", "30s", "90s", "5m", "48h", "96h", "7d", "30d"])
def test_a_duration_is_written_in_common_units(text: str) -> None:
    assert write_duration(read_duration(text)) == text


@pytest.mark.parametrize(
    ("text", "size"), [("512B", 512), ("64KiB", 65536), ("1MiB", 1 << 20), ("2GiB", 2 << 30), (9, 9)]
)
def test_a_size_is_a_number_and_a_unit(text: object, size: int) -> None:
    assert read_size(text, least=0, most=4 << 30) == size


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("1MB", '"1MB" is not a size; write "1MiB"'),
        ("64k", '"64k" is not a size; write "64KiB"'),
        ("1.5MiB", "is not a size; write it like"),
        ("lots", "is not a size; write it like"),
        (True, "must be a size in quotes"),
        (None, "must be a size in quotes"),
        ("1B", 'must be "1KiB" to "1MiB"'),
        (1 << 40, 'must be "1KiB" to "1MiB"'),
    ],
)
def test_an_invalid_size_is_an_error_with_the_form(raw: object, reason: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        read_size(raw, least=1024, most=1 << 20)

    assert reason in str(caught.value)


@given(st.integers(0, 1 << 40))
def test_a_size_survives_writing_and_reading(count: int) -> None:
    assert read_size(str(Size(count)), least=0, most=1 << 40) == count


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("10/s", Rate(10, timedelta(seconds=1))),
        ("100/m", Rate(100, timedelta(minutes=1))),
        ("5/10s", Rate(5, timedelta(seconds=10))),
        ("", None),
        (None, None),
    ],
)
def test_a_rate_is_a_count_per_time(text: object, rate: Rate | None) -> None:
    assert read_rate(text) == rate
    assert rate is None or str(rate) == text


@pytest.mark.parametrize("raw", ["10", "10/", "/s", "0/s", "10/0s", "10/2d", "often", 10, "10 / s", "1.5/s"])
def test_an_invalid_rate_is_refused(raw: object) -> None:
    with pytest.raises(InvalidValue):
        read_rate(raw)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8700", Address("127.0.0.1", 8700)),
        ("[::1]:8700", Address("::1", 8700)),
        ("localhost:0", Address("localhost", 0)),
    ],
)
def test_an_address_is_a_host_and_a_port(text: str, address: Address) -> None:
    assert read_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("8700", 'must be an address and a port, such as "127.0.0.1:8700"'),
        (":8700", "must be an address and a port"),
        (8700, "must be text in quotes"),
        ("127.0.0.1:", "must end in a port"),
        ("127.0.0.1:65536", "must end in a port"),
        ("127.0.0.1:٨", "must end in a port"),
        ("::1:8700", "an IPv6 address must be in brackets"),
        ("[::g]:8700", "is not an IPv6 address"),
        ("127.0.0.256:8700", "is not an IPv4 address"),
        ("http://localhost:8700", "an IPv6 address must be in brackets"),
        ("a b:1", "is neither an address nor a host name"),
    ],
)
def test_an_invalid_address_is_an_error_with_the_form(raw: object, reason: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        read_address(raw)

    assert reason in str(caught.value)


@pytest.mark.parametrize("text", ["10.0.0.0/8", "10.1.2.3", "fd00::/8", "::1"])
def test_a_network_is_a_range_or_one_address(text: str) -> None:
    assert read_network(text) == ip_network(text)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("10.0.0.1/8", 'did you mean "10.0.0.0/8"?'),
        ("10.0.0.0/33", "is not a network"),
        ("example.com", "is not a network"),
        (10, "must be text in quotes"),
        ("0.0.0.0/0", "would allow every private address"),
        ("::/0", "would allow every private address"),
        ("169.254.0.0/16", "never dialled"),
        ("169.254.169.254", "never dialled"),
        ("fe80::/64", "never dialled"),
        ("168.63.129.16", "never dialled"),
        ("fd00:ec2::23", "never dialled"),
        ("fd00:42::42", "never dialled"),
    ],
)
def test_a_forbidden_network_is_refused(raw: object, reason: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        read_network(raw)

    assert reason in str(caught.value)


@pytest.mark.parametrize("text", ["10.0.0.0/8", "127.0.0.1", "fe80::/10"])
def test_a_proxy_may_be_anywhere(text: str) -> None:
    assert read_proxies(text) == ip_network(text)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("::/0", "would trust X-Forwarded-For from every client"),
        ("nginx", "is not a network"),
        ("10.0.0.1/8", "did you mean"),
    ],
)
def test_an_invalid_proxy_network_is_refused(raw: object, reason: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        read_proxies(raw)

    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("text", "name"),
    [("Tasks.example.com", "tasks.example.com"), ("192.0.2.7", "192.0.2.7"), ("[2001:DB8::1]", "2001:db8::1")],
)
def test_a_host_name_is_a_name_or_an_address(text: str, name: str) -> None:
    assert read_host_name(text) == name


@pytest.mark.parametrize("raw", ["https://a.example.com", "a.example.com:443", "a.example.com/x", "", "*", "a..b"])
def test_a_host_name_has_no_scheme_port_or_path(raw: str) -> None:
    with pytest.raises(InvalidValue, match=r"host name|empty"):
        read_host_name(raw)


@pytest.mark.parametrize(
    "url",
    [
        "https://a.example.com/x?y=1",
        "http://127.0.0.1:9/x",
        "http://10.0.0.1",
        "http://[::1]:80/",
        "http://localhost/x",
    ],
)
def test_an_operators_url_may_be_local(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://h/x", 'must begin with "https://"'),
        ("app.example.com/x", 'must begin with "https://"'),
        ("", 'must begin with "https://"'),
        ("https:///x", "has no host"),
        ("https://h:port/x", "is not a URL: its host or port is invalid"),
        ("https://h:70000/x", "is not a URL: its host or port is invalid"),
        ("https://h:0/x", "port 0"),
        ("https://[::1/x", "its host or port is invalid"),
        ("https://h/a b", "spaces"),
        ("https://h/a\nb", "spaces"),
        ("https://one:hunter2@h/x", "a user and a password"),
        ("https://h/x#y", "a fragment"),
        ("http://169.254.169.254/latest/meta-data", "never dialled"),
        ("http://[fe80::1]/x", "never dialled"),
        ("http://[::ffff:169.254.169.254]/x", "never dialled"),
        ("http://[fd00:ec2::254]/x", "never dialled"),
        ("http://[fd00:ec2::23]/x", "never dialled"),
        ("http://[fd00:42::42]/x", "never dialled"),
        ("http://100.100.100.200/x", "never dialled"),
        ("http://metadata.google.internal./x", "never dialled"),
        ("http://224.0.0.1/x", "never dialled"),
    ],
)
def test_an_invalid_url_is_refused_and_not_quoted(url: str, reason: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        check_url(url)

    assert reason in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_base_url_has_no_trailing_slash_and_no_query() -> None:
    assert read_optional_url("https://hooks.example.com/kling/") == "https://hooks.example.com/kling"
    assert read_optional_url("") == ""
    assert read_kling_url("https://gateway.example/kling/") == "https://gateway.example/kling"
    with pytest.raises(InvalidValue, match="must not have a query"):
        read_optional_url("https://hooks.example.com/?a=1")
    with pytest.raises(InvalidValue, match="must not end in /v1"):
        read_kling_url("https://api-singapore.klingai.com/v1/")


@pytest.mark.parametrize(
    ("host", "here"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("a.b", False)]
)
def test_loopback_is_recognized_by_the_spelling_of_the_host(host: str, here: bool) -> None:
    assert is_loopback(host) is here


@pytest.mark.parametrize("raw", [1, True, None, [], {}, 1.5])
def test_text_needs_quotes(raw: object) -> None:
    with pytest.raises(InvalidValue, match="must be text in quotes"):
        read_text(raw)


@pytest.mark.parametrize("raw", ["true", 1, None])
def test_a_flag_is_true_or_false(raw: object) -> None:
    with pytest.raises(InvalidValue, match="must be true or false"):
        read_bool(raw)


@pytest.mark.parametrize("raw", ["8", 8.0, True, 0, 1001, 10**50])
def test_a_count_is_a_whole_number_within_bounds(raw: object) -> None:
    with pytest.raises(InvalidValue, match="must be"):
        read_int(raw, least=1, most=1000)


def test_a_suggestion_is_the_nearest_word_or_all_words() -> None:
    assert did_you_mean("Timeuot", ["timeout", "slots"]) == 'did you mean "timeout"?'
    assert did_you_mean("zzz", ["timeout", "slots"]) == 'expected: "timeout", "slots"'


@pytest.mark.parametrize(
    "text", ["task.tags.project == 'ads'", "length(result.images) > `1`", "contains(keys(@), 'a') && !message"]
)
def test_a_condition_is_a_jmespath_expression(text: str) -> None:
    assert read_condition(text) == text
    assert read_condition("") is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a = 'b'", "equality is written =="),
        ("a ==", "incomplete expression"),
        ("a == 'b", "unclosed"),
        ("a == `b`", "write text in 'single quotes'"),
        ("(" * 900, "is nested too deeply|incomplete"),
        ("lenght(a) > `1`", 'calls "lenght", which is not a JMESPath function; did you mean "length"?'),
        ("a[?lenght(b) > `1`]", 'calls "lenght"'),
    ],
)
def test_an_invalid_condition_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidValue, match=reason):
        read_condition(text)


@pytest.mark.parametrize(
    ("text", "doubtful"), [('a == "ads"', True), ('"ads" != a', True), ("a == 'ads'", False), ('"a-b" || c', False)]
)
def test_a_double_quoted_word_in_a_comparison_is_reported(text: str, doubtful: bool) -> None:
    assert compares_with_quoted_key(text) is doubtful


@given(st.one_of(st.text(), st.lists(st.sampled_from([*"[](){}?@*.|&!`'\"<>=,:\\ab-1", "length("])).map("".join)))
def test_any_condition_is_valid_or_an_error(text: str) -> None:
    with suppress(InvalidValue):
        assert read_condition(text) == (text or None)
