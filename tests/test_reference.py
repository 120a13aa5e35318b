"""References: the grammar, and lossless parsing."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.reference import Reference, Repository, is_digest, is_registry, is_repository_name, is_tag

SHA = "sha256:" + "a" * 64
HOSTS = st.from_regex(
    r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,8}[a-zA-Z0-9])?(\.[a-z0-9]{1,6}){1,3}(:[1-9][0-9]{0,3})?", fullmatch=True
)
NAMES = st.from_regex(r"[a-z0-9]{1,6}((\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}(/[a-z0-9]{1,6}){0,3}", fullmatch=True)
TAGS = st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", fullmatch=True)
DIGESTS = st.from_regex(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}", fullmatch=True)
REPOSITORIES = st.builds(Repository, HOSTS, NAMES)
REFERENCES = st.one_of(
    st.builds(Reference, REPOSITORIES, TAGS),
    st.builds(Reference, REPOSITORIES, st.none(), DIGESTS),
    st.builds(Reference, REPOSITORIES, TAGS, DIGESTS),
)


@given(REFERENCES)
def test_a_reference_is_parsed_back_from_its_text(reference: Reference) -> None:
    assert Reference.parse(str(reference)) == reference
    assert Repository.parse(str(reference.repository)) == reference.repository


@given(st.text() | st.text(alphabet="aA0.:/@-_[]\n", max_size=40))
def test_any_text_is_a_reference_that_round_trips_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert str(Reference.parse(text)) == text


@pytest.mark.parametrize(
    "host", ["localhost", "a.example.com", "registry:5000", "[::1]:5000", "10.0.0.1", "LOCALHOST:1"]
)
def test_a_host_has_a_dot_a_port_or_is_localhost(host: str) -> None:
    assert is_registry(host)


@pytest.mark.parametrize(
    "host",
    ["", "registry", "a.example.com:0", "a.example.com:65536", "a..b", "-a.b", "a.b-", "a.b\n", "a.b:5\n", "*.a.b"],
)
def test_a_text_that_is_not_a_host_is_refused(host: str) -> None:
    assert not is_registry(host)


@pytest.mark.parametrize("name", ["a", "a/b/c", "a__b", "a---b", "a.b", "0", "a" * 255])
def test_a_repository_name_of_the_specification_is_accepted(name: str) -> None:
    assert is_repository_name(name)


@pytest.mark.parametrize(
    "name", ["", "A", "a//b", "/a", "a/", "a..b", "a___b", "-a", "a-", "a\n", "a:b", "a" * 256, "ä"]
)
def test_a_text_that_is_not_a_repository_name_is_refused(name: str) -> None:
    assert not is_repository_name(name)


def test_tags_have_at_most_128_characters() -> None:
    assert is_tag("a" * 128)
    assert not is_tag("a" * 129)
    assert not is_tag("v1\n")
    assert not is_tag("-a")


def test_digests_are_sha256_or_sha512_in_lower_case() -> None:
    assert is_digest(SHA)
    assert is_digest("sha512:" + "0" * 128)
    assert not is_digest(SHA.upper())
    assert not is_digest(SHA + "a")
    assert not is_digest("sha512:" + "0" * 64)
    assert not is_digest("md5:" + "0" * 32)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("nginx", "needs a registry"),
        ("nginx:1.27", "needs a registry"),
        ("library/nginx:1.27", "'library' is not a registry's host"),
        ("h.example.com/nginx", "needs a tag or a digest"),
        ("h.example.com/nginx:", "'' is not a tag"),
        ("h.example.com/nginx@", "'' is not a digest"),
        ("h.example.com/nginx@sha256:abc", "'sha256:abc' is not a digest"),
        ("h.example.com/Nginx:1", "'Nginx' is not a repository's name"),
        ("h.example.com/:1", "'' is not a repository's name"),
    ],
)
def test_the_message_names_the_wrong_part(text: str, wrong: str) -> None:
    with pytest.raises(ValueError, match="^" + wrong.replace("'", ".") + "|" + wrong):
        Reference.parse(text)


def test_the_digest_decides_when_both_are_given() -> None:
    assert Reference.parse(f"h.example.com/a:v1@{SHA}").identifier == SHA
    assert Reference.parse("h.example.com/a:v1").identifier == "v1"
