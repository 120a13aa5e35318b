"""How proxies are named: by variables as Go programs read them, and by an entry of the rules."""

from __future__ import annotations

import pytest
from yarl import URL

from replicator.errors import ConfigError
from replicator.registry import Access
from replicator.registry.addresses import names_internal
from replicator.registry.proxies import Proxies, Proxy

PASSWORD = "p@ss/w:rd"
LOGIN = "http://us%C3%A9r:p%40ss%2Fw%3Ard@"


def environment(**variables: str) -> Proxies:
    return Proxies.from_environ(variables)


def test_each_scheme_has_its_variable_and_neither_stands_in_for_the_other() -> None:
    both = environment(HTTPS_PROXY="s.corp:1", HTTP_PROXY="p.corp:2")
    assert str(both.find(URL("https://a.example.com"))) == "s.corp:1"
    assert str(both.find(URL("http://a.example.com"))) == "p.corp:2"
    assert environment(HTTP_PROXY="p.corp:2").find(URL("https://a.example.com")) is None
    assert environment(ALL_PROXY="p.corp:2").find(URL("https://a.example.com")) is None


def test_capitals_come_before_small_letters_and_an_empty_value_is_none() -> None:
    assert str(environment(https_proxy="small:1").find(URL("https://a.b"))) == "small:1"
    assert str(environment(https_proxy="small:1", HTTPS_PROXY="large:1").find(URL("https://a.b"))) == "large:1"
    assert str(environment(https_proxy="small:1", HTTPS_PROXY="").find(URL("https://a.b"))) == "small:1"


def test_quotation_marks_around_a_value_do_not_count() -> None:
    found = environment(HTTPS_PROXY='"http://p.corp:2"', NO_PROXY="'harbor.example.com,a.example.com'")
    assert found.find(URL("https://registry.example.com")) is not None
    assert found.find(URL("https://harbor.example.com")) is None
    assert found.find(URL("https://a.example.com")) is None


def test_in_a_cgi_process_http_proxy_does_not_count() -> None:
    found = environment(HTTP_PROXY="p:1", http_proxy="p:1", HTTPS_PROXY="s:1", REQUEST_METHOD="GET")
    assert found.find(URL("http://a.b")) is None
    assert found.find(URL("https://a.b")) is not None


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("proxy.corp", "http://proxy.corp"),
        ("proxy.corp:3128", "http://proxy.corp:3128"),
        ("http://proxy.corp:3128/", "http://proxy.corp:3128"),
        ("https://proxy.corp", "https://proxy.corp"),
        ("[fd00::1]:3128", "http://[fd00::1]:3128"),
        ("u:p@proxy.corp:3128", "http://proxy.corp:3128"),
    ],
)
def test_a_proxy_is_a_url_or_host_and_port(text: str, url: str) -> None:
    assert Proxy.parse(text, "HTTPS_PROXY").url == URL(url)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("socks5://user:s3cret@proxy.corp:1080", "SOCKS"),
        ("socks5h://user:s3cret@proxy.corp:1080", "SOCKS"),
        ("ftp://user:s3cret@proxy.corp", "http://"),
        ("http://user:s3cret/x@proxy.corp:3128", "%2F"),
        ("http://user:1#s3cret@proxy.corp:3128", "%2F"),
        ("http://user:1?s3cret@proxy.corp:3128", "%2F"),
        ("http://", "must be"),
    ],
)
def test_what_is_no_http_proxy_is_refused_without_its_password(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        environment(https_proxy=text)
    assert "https_proxy" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_the_login_is_decoded_and_in_no_representation() -> None:
    proxies = environment(HTTPS_PROXY=f"{LOGIN}proxy.corp:3128")
    proxy = proxies.find(URL("https://a.b"))
    assert proxy is not None
    assert proxy.credentials == {"Proxy-Authorization": "Basic dXPDqXI6cEBzcy93OnJk"}
    for text in (repr(proxies), str(proxy), repr(proxy.url), repr(Access(proxies=proxies))):
        assert "p%40ss" not in text
        assert PASSWORD not in text
        assert "dXPDqXI6" not in text


# Go 1.26's httpproxy gives these answers.
EXCEPTIONS = [
    ("", "a.example.com", True),
    ("*", "a.example.com", False),
    ("x.test,*", "a.example.com", False),
    ("example.com", "example.com", False),
    ("example.com", "a.example.com", False),
    ("example.com", "a.b.example.com", False),
    ("example.com", "notexample.com", True),
    (".example.com", "example.com", True),
    (".example.com", "a.example.com", False),
    ("*.example.com", "example.com", True),
    ("*.example.com", "a.example.com", False),
    ("EXAMPLE.com", "Example.COM", False),
    (" example.com , b.test", "b.test", False),
    ("example.com b.test", "b.test", True),
    ("example.com:443", "example.com", False),
    ("example.com:80", "example.com", True),
    ("example.com:8443", "example.com:8443", False),
    (".example.com:443", "a.example.com", False),
    (".example.com:443", "a.example.com:444", True),
    ("10.0.0.0/8", "10.1.2.3", False),
    ("10.1.2.3/8", "10.200.0.1", False),
    ("10.0.0.0/8", "11.1.2.3", True),
    ("10.0.0.0/33", "10.1.2.3", True),
    ("10.1.2.3", "10.1.2.3", False),
    ("10.1.2.3", "10.1.2.4", True),
    ("1.2.3", "10.1.2.3", True),
    (".1.2.3", "10.1.2.3", True),
    ("10.1.2.3:443", "10.1.2.3", False),
    ("10.1.2.3:80", "10.1.2.3", True),
    ("fd00::/8", "[fd00::1]", False),
    ("fd00::1", "[fd00::1]", False),
    ("[fd00::1]:443", "[fd00::1]", False),
    ("[fd00::1]:80", "[fd00::1]", True),
    ("fd00::/8", "[fe00::1]", True),
    ("10.0.0.0/8", "[::ffff:10.1.2.3]", False),
    ("10.0.0.0/8", "a10.example.com", True),
    (":443", "example.com", True),
    (",,", "example.com", True),
    ("münchen.test", "xn--mnchen-3ya.test", False),
    ("", "localhost", False),
    ("", "localhost:8443", False),
    ("", "127.0.0.1", False),
    ("", "127.9.9.9", False),
    ("", "[::1]", False),
    ("", "a.localhost", True),
    ("", "192.168.1.1", True),
]


@pytest.mark.parametrize(("no_proxy", "host", "proxied"), EXCEPTIONS)
def test_no_proxy_excepts_what_it_excepts_for_go_programs(no_proxy: str, host: str, proxied: bool) -> None:
    found = environment(HTTPS_PROXY="proxy.corp:3128", NO_PROXY=no_proxy)
    url = URL(f"https://{host}/v2/")
    assert (found.find(url) is not None) is proxied
    assert found.describe(url).startswith("through" if proxied else "directly (")
    assert (environment(HTTPS_PROXY="proxy.corp:3128", no_proxy=no_proxy).find(url) is not None) is proxied


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "a.localhost", "127.0.0.1", "127.1", "0x7f.1", "2130706433", "017700000001", "::1", "0.0.0.0"),
        *("169.254.169.254", "2852039166", "169.254.169.254.", "fe80::1", "::ffff:169.254.169.254", "100.100.100.200"),
        *("64:ff9b::a9fe:a9fe", "64:ff9b::7f00:1", "2002:7f00:1::", "::127.0.0.1"),
    ],
)
def test_an_internal_address_is_recognized_in_every_spelling(host: str) -> None:
    assert names_internal(host)


@pytest.mark.parametrize(
    "host", ["a.example.com", "10.0.0.1", "fd00::1", "8.8.8.8", "127.0.0.1.example.com", "1e100.net"]
)
def test_another_host_is_not_taken_for_an_internal_one(host: str) -> None:
    assert not names_internal(host)


def test_how_a_host_is_reached_is_said_in_words() -> None:
    url = URL("https://a.b")
    assert Proxies.parse("u:s3cret@proxy.corp:1").describe(url) == "through the proxy proxy.corp:1 (proxy under auth)"
    assert Proxies.parse("off").describe(url) == "directly (proxy: off in the rules)"
    assert Proxies().describe(url) == ""
