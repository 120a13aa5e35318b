"""Parsing the addresses of receivers."""

from __future__ import annotations

import base64
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import ConfigError
from replicator.receivers import Format, parse_event_receivers, parse_receivers
from replicator.settings import load_settings

DINGTALK = "https://oapi.dingtalk.com/robot/send?access_token=t0ken"


@pytest.mark.parametrize(
    ("address", "form"),
    [
        (DINGTALK, Format.DINGTALK),
        ("https://open.feishu.cn/open-apis/bot/v2/hook/t0ken", Format.FEISHU),
        ("https://open.larksuite.com/open-apis/bot/v2/hook/t0ken", Format.FEISHU),
        ("https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=t0ken", Format.WECOM),
        ("https://hooks.slack.com/services/T0/B0/t0ken", Format.SLACK),
        ("https://alerts.example.com/t0ken", Format.JSON),
        ("http://10.0.0.7:9000/t0ken", Format.JSON),
        ("slack+https://chat.example.com/hooks/t0ken", Format.SLACK),
        ("DingTalk+http://relay.example.com/t0ken", Format.DINGTALK),
        ("json+https://hooks.slack.com/services/t0ken", Format.JSON),
        ("https://alerts.example.com/a+b://t0ken", Format.JSON),
    ],
)
def test_the_format_follows_from_the_host_or_the_prefix(address: str, form: Format) -> None:
    (receiver,) = parse_receivers(address)
    assert receiver.format is form
    assert "t0ken" not in repr(receiver) + receiver.host + receiver.key


def test_the_fragment_is_the_secret_and_no_part_of_the_address() -> None:
    (receiver,) = parse_receivers(f"{DINGTALK}#SEC0123")
    assert (receiver.secret, str(receiver.url)) == ("SEC0123", DINGTALK)
    assert "SEC0123" not in repr(receiver)


def test_addresses_are_separated_by_spaces_or_newlines() -> None:
    found = parse_receivers(f" {DINGTALK}\n\nhttps://a.example.com/x  https://b.example.com:8443/y\n")
    assert [receiver.host for receiver in found] == ["oapi.dingtalk.com", "a.example.com", "b.example.com:8443"]


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("oapi.dingtalk.com/t0ken", "https://host/path"),
        ("ftp://alerts.example.com/t0ken", "https://host/path"),
        ("https:///t0ken", "https://host/path"),
        ("https://[::1/t0ken", "https://host/path"),
        ("https://a.example.com:99999/t0ken", "https://host/path"),
        ("teams+https://alerts.example.com/t0ken", "json, dingtalk, feishu, wecom, slack"),
        ("http://oapi.dingtalk.com/robot/send?access_token=t0ken", "use https"),
        ("https://oapi.dingtalk.com/robot/send?token=t0ken", "access_token"),
        ("https://qyapi.weixin.qq.com/cgi-bin/webhook/send?t0ken", "key"),
        ("https://hooks.slack.com/services/t0ken#secret", "does not support a secret"),
        ("https://alerts.example.com/#t0ken%0Ax", "characters"),
        ("https://user:t0ken@alerts.example.com/#t0ken", "not both"),
        (f"{DINGTALK} {DINGTALK}", "given twice"),
        (" ".join(f"https://a.example.com/t0ken{number}" for number in range(11)), "more than 10"),
        (f"{DINGTALK} x", "address 2"),
    ],
)
def test_an_error_does_not_quote_the_address(address: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        parse_receivers(address)
    assert "t0ken" not in str(refused.value)


@given(st.text(max_size=80) | st.from_regex(r"(slack\+)?https?://[^ ]{0,40}", fullmatch=True))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        found = parse_receivers(text)
    except ValueError:
        return
    assert all(receiver.host and receiver.url.scheme in ("http", "https") for receiver in found)


def test_an_invalid_setting_is_refused_without_being_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICATOR_NOTIFY_URL", "ftp://alerts.example.com/t0ken")
    with pytest.raises(ConfigError, match="REPLICATOR_NOTIFY_URL") as refused:
        load_settings()
    assert "t0ken" not in str(refused.value)


def test_the_settings_do_not_show_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICATOR_NOTIFY_URL", f"{DINGTALK}#SEC0123")
    settings = load_settings()
    assert [receiver.secret for receiver in settings.receivers] == ["SEC0123"]
    assert "t0ken" not in repr(settings)
    assert "SEC0123" not in repr(settings)


KEY = "b" * 32
WHSEC = f"whsec_{base64.b64encode(KEY.encode()).decode()}"


def test_a_receiver_of_cloudevents_has_a_secret_and_may_want_more_events() -> None:
    some, more = parse_event_receivers(f"https://a.example/t0ken#{WHSEC}\nup_to_date+http://b.example:8080/x#{WHSEC}")
    assert (some.secret, some.up_to_date, some.host) == (KEY.encode(), False, "a.example")
    assert (more.secret, more.up_to_date, str(more.url)) == (KEY.encode(), True, "http://b.example:8080/x")
    assert "t0ken" not in repr(some) + some.key
    assert KEY not in repr(some)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("https://a.example/t0ken", "openssl rand"),
        ("https://a.example/t0ken#c2VjcmV0", "whsec_ and 24 to 64"),
        ("https://a.example/t0ken#whsec_c2VjcmV0", "24 to 64 random bytes"),
        ("https://a.example/t0ken#whsec_" + "!" * 44, "in Base64"),
        ("https://a.example/t0ken#whsec_" + "A" * 88, "24 to 64"),
        (f"json+https://a.example/t0ken#{WHSEC}", "up_to_date+"),
        (f"a.example/t0ken#{WHSEC}", "https://host/path#whsec_"),
        (f"https://a.example/t0ken#{WHSEC} https://a.example/t0ken#{WHSEC}", "twice"),
    ],
)
def test_a_receiver_of_cloudevents_that_can_not_work_is_refused_without_a_word_of_its_address(
    address: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        load_settings(events_url=address)
    assert "t0ken" not in str(caught.value)
