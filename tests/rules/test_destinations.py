"""Answers of rules: copies, explanations, sources, requests, and merged copies of several rules."""

from __future__ import annotations

import json
from typing import Any

import pytest

from replicator.copy.options import Attestations, CopyOptions
from replicator.reference import Platform, Reference, Repository
from replicator.rules import Collision, CopyRequest, TagFilter, find_collisions
from replicator.rules.mapping import Template
from tests.rules.building import ACR, HARBOR, PLAIN, goes_to, rules_of

SHA = "sha256:" + "a" * 64
API = Repository(HARBOR, "team/api")


def pushed(text: str) -> Reference:
    return Reference.parse(f"{HARBOR}/{text}")


def test_a_push_is_copied_by_tag_so_that_the_newest_push_wins() -> None:
    rules = rules_of({f"{HARBOR}/team/api": f"{ACR}/a/b"})
    (request,) = rules.destinations(pushed(f"team/api:v1@{SHA}"))
    assert request.source == pushed("team/api:v1")
    assert str(request.destination) == f"{ACR}/a/b:v1"
    assert request.rule == f"{HARBOR}/team/api"


def test_a_push_by_digest_is_about_rules_with_that_digest_only() -> None:
    rules = rules_of({f"{HARBOR}/team/api": f"{ACR}/a/b", f"{HARBOR}/team/api@{SHA}": f"{ACR}/a/b:pinned"})
    (request,) = rules.destinations(pushed(f"team/api@{SHA}"))
    assert (str(request.source), str(request.destination)) == (f"{HARBOR}/team/api@{SHA}", f"{ACR}/a/b:pinned")
    assert len(rules.destinations(pushed(f"team/api:v1@{SHA}"))) == 2


def test_several_rules_may_match_and_the_same_copy_comes_once() -> None:
    rules = rules_of(
        {
            f"{HARBOR}/team/api": [f"{ACR}/a/api", f"{PLAIN}/a/api"],
            f"{HARBOR}/team/*": f"{ACR}/a/{{name}}",
            f"{HARBOR}/team/api:v*": f"{ACR}/a/v",
        }
    )
    assert goes_to(rules, f"{HARBOR}/team/api:v1") == {f"{ACR}/a/api:v1", f"{PLAIN}/a/api:v1", f"{ACR}/a/v:v1"}
    assert len(rules.destinations(pushed("team/api:v1"))) == 3


def test_a_host_in_capitals_is_the_same_host() -> None:
    rules = rules_of({"Harbor.Example.COM/team/api": f"{ACR.upper()}/a/b"})
    (request,) = rules.destinations(Reference.parse("HARBOR.example.com/team/api:v1"))
    assert (request.source.registry, request.destination.registry) == (HARBOR, ACR)
    assert rules.hosts == {HARBOR, ACR}


def test_a_rule_with_latest_leaves_the_choice_to_the_job() -> None:
    tags = {"include": "v*", "latest": 3}
    rules = rules_of({f"{HARBOR}/team/api": {"to": f"{ACR}/a/b", "tags": tags}})
    (request,) = rules.destinations(pushed("team/api:v1"))
    assert request.selection == TagFilter(include=("v*",), latest=3, signatures_apart=True)
    assert not rules.destinations(pushed("team/api:x1"))


def test_without_latest_nothing_is_left_to_the_job() -> None:
    rules = rules_of({f"{HARBOR}/team/api": {"to": f"{ACR}/a/b", "tags": {"include": "v*"}}})
    (request,) = rules.destinations(pushed("team/api:v1"))
    assert request.selection is None


def test_the_same_copy_of_two_rules_is_made_if_one_of_them_wants_it() -> None:
    newest = {"to": f"{ACR}/a/b", "tags": {"latest": 3}}
    few = {"to": f"{ACR}/a/b", "tags": {"include": "v*", "latest": 1}}
    both = rules_of({f"{HARBOR}/team/api": newest, f"{HARBOR}/team/*i": few | {"to": f"{ACR}/a/{{name}}"}})
    assert len(both.destinations(pushed("team/api:v1"))) == 2
    both = rules_of({f"{HARBOR}/team/api": [newest, few]})
    (request,) = both.destinations(pushed("team/api:v1"))
    assert request.selection is not None
    assert request.selection.select(["v1", "w1", "w2", "w3", "w4"]) == [*["v1", "w4", "w3", "w2"][:1], "w4", "w3"]
    always = rules_of({f"{HARBOR}/team/api": [newest, f"{ACR}/a/b"]})
    (request,) = always.destinations(pushed("team/api:v1"))
    assert request.selection is None


@pytest.mark.parametrize(
    "selection", [None, TagFilter(include=("v*",), latest=2, others=(TagFilter(exclude=("/x/",), latest=1),))]
)
def test_a_request_survives_the_queue(selection: TagFilter | None) -> None:
    request = CopyRequest(pushed("a/b:1"), Reference.parse(f"{ACR}/a/b@{SHA}"), "the rule", selection)
    assert CopyRequest.from_json(json.loads(json.dumps(request.to_json()))) == request


@pytest.mark.parametrize(
    ("fields", "stored"),
    [
        ({}, {}),
        ({"options": CopyOptions(signatures=True)}, {"options": {"signatures": True}}),
        (
            {"options": CopyOptions((Platform("linux", "amd64"),), Attestations.STRIP_REFUSED)},
            {"options": {"platforms": ["linux/amd64"], "attestations": "strip refused"}},
        ),
        ({"signature": True}, {"signature": True}),
        ({"announced": SHA}, {"announced": SHA}),
        ({"force": True}, {"force": True}),
        ({"announced": SHA, "absent": True}, {"announced": SHA, "absent": True}),
    ],
)
def test_a_stored_request_has_no_default_values(fields: dict[str, Any], stored: dict[str, Any]) -> None:
    request = CopyRequest(pushed("a/b:1"), Reference.parse(f"{ACR}/a/b:1"), "the rule", **fields)
    plain = {"source": f"{HARBOR}/a/b:1", "destination": f"{ACR}/a/b:1", "rule": "the rule"}
    assert request.to_json() == plain | stored
    # An earlier version queued only these keys.
    assert CopyRequest.from_json(json.loads(json.dumps(plain | stored))) == request


STORED = {"source": f"{HARBOR}/a/b:1", "destination": f"{ACR}/a/b:1", "rule": "z"}


@pytest.mark.parametrize(
    "values",
    [
        None,
        {},
        [],
        {"source": 1},
        {"source": "x", "destination": "y", "rule": "z"},
        STORED | {"options": 5},
        STORED | {"options": {"platforms": ["x"]}},
        STORED | {"options": {"attestations": "x"}},
        STORED | {"announced": "v1"},
        STORED | {"announced": 5},
    ],
)
def test_an_invalid_stored_request_is_a_value_error(values: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        CopyRequest.from_json(values)


@pytest.mark.parametrize(
    ("reference", "reasons"),
    [
        (
            "team/api:v1",
            ["the repository and the tag match", "the repository team/api is not lib/x", "the digest is not given"],
        ),
        (
            "team/api:w1",
            ["tag w1 is not included by v*", "the repository team/api is not lib/x", "the digest is not given"],
        ),
        (
            f"team/api@{SHA}",
            ["no tag is given", "the repository team/api is not lib/x", "the repository and the digest match"],
        ),
        ("team/a/b:v1", ["ACR can't hold a/a/b", "the repository team/a/b is not lib/x", "is not team/api"]),
        ("x/y:v1", ["the repository x/y does not match team/**", "is not lib/x", "is not team/api"]),
    ],
)
def test_every_rule_explains_itself(reference: str, reasons: list[str]) -> None:
    rules = rules_of(
        {
            f"{HARBOR}/team/**": {"to": f"{ACR}/a/{{name}}", "tags": {"include": "v*"}},
            f"{HARBOR}/lib/x": f"{ACR}/lib/x",
            f"{HARBOR}/team/api@{SHA}": f"{PLAIN}/x",
        }
    )
    explanations = rules.explain(pushed(reference))
    assert [explanation.rule.partition("/")[2] for explanation in explanations] == [
        "team/**",
        "lib/x",
        f"team/api@{SHA}",
    ]
    for explanation, reason in zip(explanations, reasons, strict=True):
        assert reason in explanation.reason
        assert explanation.matches == reason.endswith(" match") == bool(explanation.destinations)


def test_another_registry_is_a_reason_too() -> None:
    (explanation,) = rules_of({f"{HARBOR}/a/b": f"{ACR}/a/b"}).explain(Reference.parse("other.example.com/a/b:1"))
    assert explanation.reason == f"the registry is other.example.com, not {HARBOR}"


def test_of_several_destinations_each_that_does_not_fit_says_why() -> None:
    rules = rules_of(
        {
            f"{HARBOR}/a/b": [
                {"to": f"{ACR}/a/b", "tags": {"latest": 2}},
                {"to": f"{PLAIN}/b", "tags": {"include": "v*"}},
            ]
        }
    )
    (explanation,) = rules.explain(pushed("a/b:1"))
    assert explanation.matches
    assert "if the tag is among the latest 2" in explanation.reason
    assert f"{PLAIN}/b: tag 1 is not included by v*" in explanation.reason


def test_a_match_that_would_be_copied_onto_itself_is_refused() -> None:
    rules = rules_of({f"{HARBOR}/**": f"{HARBOR}/copies/{{flat}}", f"{HARBOR}/copies/*": f"{HARBOR}/{{repository}}"})
    assert goes_to(rules, f"{HARBOR}/copies/x:1") == {f"{HARBOR}/copies/copies-x:1"}
    assert rules.explain(pushed("copies/x:1"))[1].reason == "it would be copied onto itself"


def test_a_name_that_grows_too_long_is_refused_not_raised() -> None:
    rules = rules_of({f"{HARBOR}/**": f"{PLAIN}/copies/{{repository}}"})
    assert not goes_to(rules, f"{HARBOR}/{'a' * 255}:1")
    (explanation,) = rules.explain(pushed("a" * 255 + ":1"))
    assert "is not a repository's name" in explanation.reason


def test_a_name_that_flat_makes_too_long_is_refused_with_its_length() -> None:
    rules = rules_of({f"{HARBOR}/team/**": f"{ACR}/mirror/{{flat}}"})
    longest = "team/" + "a" * (255 - len("mirror/team-"))
    assert goes_to(rules, f"{HARBOR}/{longest}:1")
    (explanation,) = rules.explain(pushed(f"{longest}a:1"))
    assert not explanation.matches
    assert explanation.reason.endswith("is not a repository's name: it has 256 characters, the maximum is 255")


def test_sources_say_what_to_list() -> None:
    rules = rules_of(
        {
            f"{HARBOR}/lib/x:1,2": f"{ACR}/lib/x",
            f"{HARBOR}/lib/y@{SHA}": f"{ACR}/lib/y",
            f"{HARBOR}/lib/z:1,v*": f"{ACR}/lib/z",
            f"{HARBOR}/team/**": f"{ACR}/team/{{flat}}",
            f"{HARBOR}/team/x": f"{PLAIN}/x",
            f"{HARBOR}/team/y:1": f"{PLAIN}/y",
            f"{HARBOR}/*/only:1": f"{PLAIN}/only/{{project}}",
            f"{HARBOR}/team/x:1": f"{PLAIN}/x1",
        }
    )
    listed = {source.glob or str(source.repository).partition("/")[2]: source for source in rules.sources()}
    assert {path: (source.needs_tags, source.project) for path, source in listed.items()} == {
        "lib/x": (False, "lib"),
        "lib/y": (False, "lib"),
        "lib/z": (True, "lib"),
        "team/**": (True, "team"),
        "team/x": (True, "team"),
        "team/y": (True, "team"),
        "*/only": (False, None),
    }
    assert listed["team/x"].rules == (f"{HARBOR}/team/x", f"{HARBOR}/team/x:1")
    assert listed["team/**"].includes("team/a/b")
    assert not listed["team/**"].includes("teams/a")
    assert listed["team/x"].includes("team/x")
    assert [source.needs_tags for source in rules.sources()] == sorted(
        (s.needs_tags for s in rules.sources()), reverse=True
    )


def test_requests_apply_latest_over_all_tags_and_leave_nothing_to_the_job() -> None:
    rules = rules_of({f"{HARBOR}/team/*": {"to": f"{ACR}/a/{{name}}", "tags": {"exclude": "*-dev", "latest": 2}}})
    requests = rules.requests(API, ["1.0", "1.10", "1.9", "1.11-dev", "latest", "no tag"])
    assert [request.destination.tag for request in requests] == ["1.10", "1.9"]
    assert {request.selection for request in requests} == {None}


def test_requests_include_what_rules_write_out_even_if_it_was_not_listed() -> None:
    rules = rules_of({f"{HARBOR}/team/api:1,2": f"{ACR}/a/b:one,two", f"{HARBOR}/team/api@{SHA}": f"{ACR}/a/b:pin"})
    assert {(r.source.identifier, r.destination.tag) for r in rules.requests(API, [])} == {
        ("1", "one"),
        ("2", "two"),
        (SHA, "pin"),
    }
    assert len(rules.requests(API, ["1", "2", "3"])) == 3


def test_of_tags_written_out_the_latest_are_those_that_are_there() -> None:
    rules = rules_of({f"{HARBOR}/team/api:1,2,3": {"to": f"{ACR}/a/b", "tags": {"latest": 1}}})
    assert rules.sources()[0].needs_tags
    assert [request.source.tag for request in rules.requests(API, ["1", "2", "9"])] == ["2"]


def test_requests_of_two_rules_come_once() -> None:
    rules = rules_of({f"{HARBOR}/team/api": f"{ACR}/a/api", f"{HARBOR}/team/*": f"{ACR}/a/{{name}}"})
    assert len(rules.requests(API, ["1", "2", "2"])) == 2
    assert not rules.requests(Repository(HARBOR, "other/x"), ["1"])


def test_collisions_are_found_among_requests() -> None:
    rules = rules_of({f"{HARBOR}/**": f"{ACR}/ns/{{flat}}"})
    requests = [
        request
        for name in ("a/b-c", "a-b/c", "a/b")
        for request in rules.requests(Repository(HARBOR, name), ["1", "2"])
    ]
    assert [str(collision) for collision in find_collisions(requests)] == [
        f"{ACR}/ns/a-b-c:{tag} would come from {HARBOR}/a-b/c:{tag} and from {HARBOR}/a/b-c:{tag}" for tag in "12"
    ]
    assert find_collisions(requests[:2]) == []
    assert isinstance(find_collisions(requests)[0], Collision)


def test_only_rules_that_can_be_about_a_repository_are_looked_at() -> None:
    images = {f"{HARBOR}/team{number}/**": f"{ACR}/ns{number}/{{flat}}" for number in range(100)}
    images |= {f"{HARBOR}/lib/x{number}": f"{ACR}/lib/x{number}" for number in range(100)}
    rules = rules_of(images | {f"{HARBOR}/*/any": f"{ACR}/any/{{flat}}"})
    considered = rules._numbers(Repository(HARBOR, "team7/any"))
    assert len(considered) == 2
    assert len(rules._numbers(Repository(HARBOR, "lib/x5"))) == 2


def test_the_destination_of_a_repository_is_decided_once_for_all_its_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = rules_of({f"{HARBOR}/team/**": f"{ACR}/mirror/{{flat}}"})
    expanded: list[Repository] = []
    expand = Template.expand

    def counted(template: Template, source: Repository) -> Repository:
        expanded.append(source)
        return expand(template, source)

    monkeypatch.setattr(Template, "expand", counted)
    assert len(rules.requests(API, [f"v{number}" for number in range(50)])) == 50
    assert expanded == [API]
