"""Challenges and links in headers, in every form that the specifications allow."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from replicator.registry.connection import Reply
from replicator.registry.manifests import next_page
from replicator.registry.token_endpoint import Challenge, parse_challenges

NAMES = st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=12)
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30)


def test_a_bearer_challenge_is_read() -> None:
    header = 'Bearer realm="https://harbor.example.com/service/token",service="harbor-registry",scope="a:b:pull,push"'
    assert parse_challenges([header]) == (
        Challenge(
            "bearer",
            {
                "realm": "https://harbor.example.com/service/token",
                "service": "harbor-registry",
                "scope": "a:b:pull,push",
            },
        ),
    )


@pytest.mark.parametrize(
    ("headers", "schemes"),
    [
        (['Basic realm="a"', 'Bearer realm="b"'], ["basic", "bearer"]),
        (['Basic realm="a", Bearer realm="b",service="c"'], ["basic", "bearer"]),
        (['Negotiate, Basic realm="x, y"'], ["negotiate", "basic"]),
        (["Negotiate dG9rZW4=="], ["negotiate"]),
        (["Basic"], ["basic"]),
        (['BASIC Realm="a" , , bearer REALM=b'], ["basic", "bearer"]),
        (['realm="no scheme"'], []),
        ([""], []),
        ([], []),
        (['Bearer realm="open'], ["bearer"]),
    ],
)
def test_every_challenge_of_every_header_is_met(headers: list[str], schemes: list[str]) -> None:
    assert [challenge.scheme for challenge in parse_challenges(headers)] == schemes


@given(st.lists(st.tuples(NAMES, st.dictionaries(NAMES.map(str.lower), VALUES, max_size=4)), max_size=4))
def test_what_is_written_by_the_rules_is_read_back(challenges: list[tuple[str, dict[str, str]]]) -> None:
    def quoted(value: str) -> str:
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'

    header = ", ".join(
        f"{scheme} " + ", ".join(f"{name}={quoted(value)}" for name, value in parameters.items())
        for scheme, parameters in challenges
    )
    read = [(challenge.scheme, dict(challenge.parameters)) for challenge in parse_challenges([header])]
    assert read == [(scheme.lower(), parameters) for scheme, parameters in challenges]


@given(st.lists(st.text(max_size=200), max_size=3))
def test_no_challenge_breaks_the_parser(headers: list[str]) -> None:
    for challenge in parse_challenges(headers):
        assert challenge.scheme


@pytest.mark.timeout(20)
def test_no_challenge_keeps_the_parser_busy() -> None:
    for header in (", " * 4000, "a=" * 4000, 'B a="' + '\\"' * 4000, "B " + "a , " * 2000 + "=", " " * 8000 + "("):
        parse_challenges([header])


def _next(*headers: str) -> str | None:
    reply = Reply(
        200, CIMultiDictProxy(CIMultiDict([("Link", header) for header in headers])), b"", URL("http://h.example.com")
    )
    return next_page(reply)


@pytest.mark.parametrize(
    ("headers", "target"),
    [
        (['</v2/a/tags/list?n=2&last=b>; rel="next"'], "/v2/a/tags/list?n=2&last=b"),
        (["</x>; rel=next"], "/x"),
        (['</x>; title="a, <b>; rel=next"; rel="prev next"'], "/x"),
        (['</a>; rel="prev", </b>; rel="next"'], "/b"),
        (['</a>; rel="prev"', '</b>; REL="NEXT"'], "/b"),
        (['<https://other.example.com/x,y>;rel="next"'], "https://other.example.com/x,y"),
        (['</x>; rel="nextish"'], None),
        (['</x>; title="rel=next"'], None),
        (["</x>"], None),
        ([""], None),
        ([], None),
    ],
)
def test_the_next_page_is_found(headers: list[str], target: str | None) -> None:
    assert _next(*headers) == target


@given(st.text(max_size=200))
def test_no_link_breaks_the_parser(header: str) -> None:
    _next(header)


@pytest.mark.timeout(20)
def test_no_link_keeps_the_parser_busy() -> None:
    for header in (
        "<" * 8000,
        "<a>" + ";a=b" * 2000,
        "<a>" + " " * 8000,
        '<a>; rel="' + "next " * 1500,
        '<a>;a="' * 1000,
    ):
        _next(header)
