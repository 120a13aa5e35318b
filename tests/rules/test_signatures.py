"""Signatures in pushes and in lists of tags: both request the same copies, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.copy.options import VERBATIM, CopyOptions
from replicator.errors import ConfigError
from replicator.reference import Reference, Repository, is_signature_tag
from replicator.rules import CopyRequest, Rules, TagFilter, find_collisions
from tests.rules.building import HARBOR, PLAIN, rules_of

HEX = "a" * 64
SHA = f"sha256:{HEX}"
SIGNATURES = [f"sha256-{HEX}", f"sha256-{HEX}.sig", f"sha256-{HEX}.att", f"sha256-{HEX}.sbom"]
APP = Repository(HARBOR, "a/b")
SIGNED = CopyOptions(signatures=True)


def signed(to: str = f"{PLAIN}/x", **keys: Any) -> dict[str, Any]:
    return {"to": to, "signatures": True} | keys


def rules_for(value: Any, key: str = "a/b") -> Rules:
    return rules_of({f"{HARBOR}/{key}": value})


def pushed(text: str) -> Reference:
    return Reference.parse(f"{HARBOR}/{text}")


def signature(name: str, rule: str = "a/b") -> CopyRequest:
    source, destination = pushed(f"a/b{name}"), Reference.parse(f"{PLAIN}/x{name}")
    return CopyRequest(source, destination, f"{HARBOR}/{rule}", options=SIGNED, signature=True)


def test_a_digest_alone_is_taken_for_a_signature() -> None:
    assert rules_for(signed()).destinations(pushed(f"a/b@{SHA}")) == (signature(f"@{SHA}"),)
    assert not rules_for(f"{PLAIN}/x").destinations(pushed(f"a/b@{SHA}"))


@pytest.mark.parametrize("tag", SIGNATURES)
@pytest.mark.parametrize(
    ("key", "keys"),
    [
        ("a/b", {}),
        ("a/b", {"tags": {"include": "v*"}}),
        ("a/b", {"tags": {"exclude": "*"}}),
        ("a/b", {"tags": {"semver": ">=1"}}),
        ("a/b", {"tags": {"latest": 1}}),
        ("a/b:v1", {}),
        ("a/b:v*", {}),
        ("a/b:v1,v2", {"to": f"{PLAIN}/x:one,two"}),
    ],
)
def test_a_tag_of_signatures_keeps_its_name_whatever_the_filter(tag: str, key: str, keys: dict[str, Any]) -> None:
    rules = rules_for(signed(**keys), key)
    expected = signature(f":{tag}", key)
    assert rules.destinations(pushed(f"a/b:{tag}")) == (expected,)
    assert rules.destinations(pushed(f"a/b:{tag}@{SHA}")) == (expected,)
    assert [request for request in rules.requests(APP, [tag, "v1", "9"]) if request.signature] == [expected]
    assert rules.sources()[0].needs_tags


@pytest.mark.parametrize("tag", SIGNATURES)
def test_without_signatures_such_a_tag_is_one_as_any_other(tag: str) -> None:
    rules = rules_for({"to": f"{PLAIN}/x", "tags": {"latest": 1}, "signatures": False})
    (request,) = rules.destinations(pushed(f"a/b:{tag}"))
    assert not request.signature
    assert request.selection == TagFilter(latest=1)
    assert [str(request.source.tag) for request in rules.requests(APP, [tag])] == [tag]
    only = {"to": f"{PLAIN}/x", "tags": {"include": "v*"}, "signatures": False}
    assert not rules_for(only).destinations(pushed(f"a/b:{tag}"))


@pytest.mark.parametrize("tag", SIGNATURES)
def test_by_default_all_but_sboms_come_as_signatures(tag: str) -> None:
    rules = rules_for({"to": f"{PLAIN}/x", "tags": {"include": "v*", "latest": 1}})
    (expected,) = [replace(signature(f":{tag}"), options=VERBATIM)]
    wanted = () if tag.endswith(".sbom") else (expected,)
    assert rules.destinations(pushed(f"a/b:{tag}")) == wanted
    assert tuple(rules.requests(APP, [tag])) == wanted
    assert rules.destinations(pushed(f"a/b@{SHA}")) == ()


def test_by_default_no_list_is_read_for_tags_that_are_written_out() -> None:
    rules = rules_for(f"{PLAIN}/x", "a/b:v1")
    assert not rules.sources()[0].needs_tags
    assert not any(rules.destinations(pushed(f"a/b:{tag}")) for tag in SIGNATURES)


@pytest.mark.parametrize(("key", "tags"), [(f"a/b:{SIGNATURES[1]}", {}), ("a/b", {"exclude": "sha256-*"})])
def test_a_rule_whose_tags_speak_of_signatures_is_taken_at_its_word(key: str, tags: dict[str, Any]) -> None:
    for tag in SIGNATURES:
        (*requests,) = rules_for({"to": f"{PLAIN}/x", "tags": tags}, key).destinations(pushed(f"a/b:{tag}"))
        assert [request.signature for request in requests] == ([False] if key.endswith(tag) else [])
    asked = rules_for({"to": f"{PLAIN}/x", "tags": tags, "signatures": "auto"}, "a/b")
    assert asked.destinations(pushed(f"a/b:{SIGNATURES[1]}"))


def test_a_rule_about_a_digest_asks_for_no_signatures_by_name() -> None:
    rules = rules_for(signed(f"{PLAIN}/x:1"), f"a/b@{SHA}")
    (request,) = rules.destinations(pushed(f"a/b@{SHA}"))
    assert (request.signature, request.options) == (False, SIGNED)
    assert not rules.destinations(pushed(f"a/b@sha256:{'b' * 64}"))
    assert not rules.destinations(pushed(f"a/b:{SIGNATURES[1]}"))
    assert len(rules.requests(APP, SIGNATURES)) == 1


def test_signatures_never_count_among_the_latest() -> None:
    tags = [f"sha256-{digit * 64}.sig" for digit in "0123456789"]
    rules = rules_for(signed(tags={"latest": 2}))
    requests = rules.requests(APP, [*tags, "build-1", "build-2", "build-3"])
    assert [request.source.tag for request in requests] == ["build-3", "build-2", *tags]
    (request,) = rules.destinations(pushed("a/b:build-2"))
    assert request.selection is not None
    assert request.selection.select([*tags, "build-1", "build-2"]) == ["build-2", "build-1"]


def test_images_come_before_what_signs_them() -> None:
    requests = rules_for(signed()).requests(APP, [*SIGNATURES, "1", "z"])
    assert [request.signature for request in requests] == [False, False, True, True, True, True]


def test_signatures_are_not_copied_onto_themselves() -> None:
    rules = rules_of({f"{HARBOR}/a/b:1": signed(f"{HARBOR}/a/b:2")})
    for name in (f"@{SHA}", f":{SIGNATURES[0]}"):
        assert not rules.destinations(pushed(f"a/b{name}"))
        assert rules.explain(pushed(f"a/b{name}"))[0].reason == "it would be copied onto itself"


def test_one_that_does_not_wait_for_its_image_wins() -> None:
    plain = {"to": f"{PLAIN}/x", "signatures": False}
    for items in ([signed(), plain], [plain, signed()]):
        rules = rules_for(items)
        tag = SIGNATURES[1]
        expected = replace(signature(f":{tag}"), signature=False)
        assert rules.destinations(pushed(f"a/b:{tag}")) == (expected,)
        assert rules.requests(APP, [tag]) == [expected]
        assert rules.destinations(pushed(f"a/b@{SHA}")) == (signature(f"@{SHA}"),)


def test_two_images_with_one_signature_collide_at_one_destination() -> None:
    rules = rules_of({f"{HARBOR}/a/b:1": signed(), f"{HARBOR}/a/c:2": signed()})
    warnings = [str(warning) for warning in rules.warnings if warning.path.startswith("images")]
    message = f"signatures of an image that is in {HARBOR}/a/b too would come from both"
    assert warnings == [f'images["{HARBOR}/a/c:2"].to: collision: {message}']
    requests = [
        request for name in ("a/b", "a/c") for request in rules.requests(Repository(HARBOR, name), SIGNATURES[1:2])
    ]
    assert [str(clash.destination) for clash in find_collisions(requests)] == [f"{PLAIN}/x:{SIGNATURES[1]}"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (f"@{SHA}", "the repository matches, and with signatures a digest alone counts as a signature"),
        (f":{SIGNATURES[1]}", "the repository matches, and with signatures such a tag counts as a signature"),
        (":v1", "the repository and the tag match"),
        (":w1", "tag w1 is not included by v*"),
    ],
)
def test_a_rule_with_signatures_explains_itself(name: str, reason: str) -> None:
    (explanation,) = rules_for(signed(tags={"include": "v*"})).explain(pushed(f"a/b{name}"))
    assert explanation.reason == reason
    assert explanation.matches == ("match" in reason)


def test_a_rule_that_only_lets_signatures_through_is_a_rule_that_copies() -> None:
    rules = rules_for(signed(), f"a/b:{SIGNATURES[1]}")
    assert not [warning for warning in rules.warnings if "nothing is ever copied" in warning.message]
    assert rules.requests(APP, []) == [signature(f":{SIGNATURES[1]}", f"a/b:{SIGNATURES[1]}")]


TAGS = ["1", "2", "1.10", "v1", "v1-dev", "latest", SIGNATURES[0], SIGNATURES[1], f"sha256-{'b' * 64}.att"]
CONTENT = st.fixed_dictionaries(
    {},
    optional={
        "platforms": st.sampled_from(["linux/amd64", ["linux/arm64", "linux/amd64"], "*/*"]),
        "attestations": st.sampled_from(["auto", "keep", "strip", "fail"]),
        "signatures": st.sampled_from([True, False, "auto"]),
    },
)
FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "include": st.sampled_from(["v*", ["1*", "/sig$/"]]),
        "exclude": st.sampled_from(["*-dev", "*.sig"]),
        "semver": st.just(">=1.9"),
        "latest": st.integers(1, 3),
    },
)
ITEMS = st.builds(
    lambda to, tags, content: {"to": to, "tags": tags} | content,
    st.sampled_from([f"{PLAIN}/x", f"{PLAIN}/y", f"{PLAIN}/{{flat}}", f"{HARBOR}/a/b", f"{HARBOR}/c/{{flat}}"]),
    FILTERS,
    CONTENT,
)
KEYS = st.sampled_from(
    ["a/b", "a/b:1,2", "a/b:v*,1", "a/b:/sig/", f"a/b:{SIGNATURES[1]}", "a/*", "**", f"a/b@{SHA}"]
).map(lambda key: f"{HARBOR}/{key}")
IMAGES = st.dictionaries(KEYS, st.lists(ITEMS, min_size=1, max_size=3), min_size=1, max_size=4)


def usable(images: dict[str, Any]) -> Rules | None:
    """Rules of the items without a problem, alone and together."""
    rules = None
    good: dict[str, Any] = {}
    for key, items in images.items():
        for item in items:
            tried = good | {key: [*good.get(key, ()), item]}
            try:
                rules = rules_of(tried)
            except ConfigError:
                continue
            good = tried
    return rules


@given(IMAGES, CONTENT, st.lists(st.sampled_from(TAGS), unique=True))
def test_a_backfill_asks_for_exactly_what_a_push_of_each_tag_asks_for(
    images: dict[str, Any], content: dict[str, Any], tags: list[str]
) -> None:
    rules = usable({key: [content | item for item in items] for key, items in images.items()})
    if rules is None:
        return
    pushes = {request for tag in TAGS for request in rules.destinations(Reference(APP, tag))}
    listed = {request for request in rules.requests(APP, tags) if request.source.tag is not None}
    wanted = {
        replace(request, selection=None)
        for request in pushes
        if request.source.tag in tags
        and (request.selection is None or request.source.tag in request.selection.select(tags))
    }
    assert {request for request in listed if request.source.tag in tags} == wanted
    # Tags that a rule writes out are requested even if they don't exist.
    assert {(request.source, request.destination) for request in listed - wanted} <= {
        (request.source, request.destination) for request in pushes
    }


@given(IMAGES, st.sampled_from([*(f":{tag}" for tag in TAGS), f"@{SHA}"]))
def test_what_is_a_signature_keeps_its_name_and_needs_a_rule_that_wants_it(images: dict[str, Any], name: str) -> None:
    rules = usable(images)
    for request in rules.destinations(pushed(f"a/b{name}")) if rules is not None else ():
        if request.signature:
            assert request.options.signatures is not False
            assert (request.source.tag, request.source.digest) == (request.destination.tag, request.destination.digest)
            assert request.source.tag is None or is_signature_tag(request.source.tag)
        assert request.signature or request.source.tag is not None or f"a/b@{SHA}" in request.rule
