"""Templates in a destination's tag: many repositories in one, each under tags of its own."""

from __future__ import annotations

import pytest

from replicator.reference import MAX_TAG_LENGTH, Reference, Repository
from replicator.rules import CopyRequest, find_collisions
from tests.rules.building import ACR, HARBOR, PLAIN, goes_to, message_of, rules_of

ALL = f"{ACR}/ns/all"
APP = Repository(HARBOR, "team/app/api")
DIGEST = f"sha256:{'a' * 64}"


@pytest.mark.parametrize(
    ("source", "destination", "end"),
    [
        ("team/**", "all:{flat}-{tag}", "all:team-app-api-1.4"),
        ("team/app/api", "all:{tag}_{flat}", "all:1.4_team-app-api"),
        ("team/**", "{project}:{flat}.{tag}", "team:team-app-api.1.4"),
        ("team/app/api:1.4", "all:{flat}", "all:team-app-api"),
        ("team/**:1.4", "all:{flat}", "all:team-app-api"),
        ("team/app/api", "{flat}:mirror-{tag}", "team-app-api:mirror-1.4"),
    ],
)
def test_a_tag_is_made_of_the_source_s_repository_and_tag(source: str, destination: str, end: str) -> None:
    rules = rules_of({f"{HARBOR}/{source}": f"{ACR}/ns/{destination}"})
    assert goes_to(rules, f"{APP}:1.4") == {f"{ACR}/ns/{end}"}
    assert {str(each.destination) for each in rules.requests(APP, ["1.4"])} == {f"{ACR}/ns/{end}"}


def test_a_digest_takes_a_template_without_the_tag() -> None:
    rules = rules_of({f"{HARBOR}/team/app@{DIGEST}": f"{ALL}:{{flat}}"})
    assert goes_to(rules, f"{HARBOR}/team/app@{DIGEST}") == {f"{ALL}:team-app"}
    assert "a digest, which has no tag" in message_of({f"{HARBOR}/team/app@{DIGEST}": f"{ALL}:{{tag}}"})


def test_tags_of_signatures_keep_their_names_by_which_they_are_found() -> None:
    rules = rules_of({f"{HARBOR}/team/**": {"to": f"{ALL}:{{flat}}-{{tag}}", "signatures": True}})
    name = f"sha256-{'b' * 64}.sig"
    (request,) = rules.destinations(Reference(APP, name))
    assert (str(request.destination), request.signature) == (f"{ALL}:{name}", True)


def test_a_fixed_tag_stays_what_it_is() -> None:
    rules = rules_of({f"{HARBOR}/team/app:v1,v2": f"{PLAIN}/app:new,old"})
    assert goes_to(rules, f"{HARBOR}/team/app:v2") == {f"{PLAIN}/app:old"}


@pytest.mark.parametrize(
    ("source", "destination", "why"),
    [
        (
            "team/app",
            "all:{flat}",
            "collision: all tags of the source would go to one tag; add {tag} to it, e.g. {flat}",
        ),
        ("team/app:v1,v2", "all:x{flat}", "collision: all tags of the source would go to one tag"),
        ("team/app:v*", "all:x{flat}", "collision: all tags of the source would go to one tag"),
        ("team/**", "all:{tag}", "collision: all matching repositories would go to one destination"),
        ("team/**", "all:{name}-{tag}", "{name} can have a slash, which a tag can't; use {flat}"),
        ("team/*", "all:{repository}-{tag}", "{repository} can have a slash, which a tag can't; use {flat}"),
        (
            "team/*",
            "all:{flat}-{digest}",
            "{digest} is not a placeholder; expected one of {project} {repository}",
        ),
        ("team/*", "{tag}:{flat}-{tag}", "{tag} is not a placeholder; expected one of"),
        ("team/*", "all:-{flat}-{tag}", "can't become a tag: use letters, digits, . _ - and placeholders"),
        ("team/*", "all:{flat}-{tag},latest", "a tag with placeholders must be the only tag"),
        ("team/*", "all:{flat-{tag}", "can't become a tag"),
        (f"team/{'x' * 130}", "all:{flat}-{tag}", "with 137 characters, and a tag has at most 128: give team/xxx"),
    ],
)
def test_a_template_that_can_never_be_right_is_a_mistake(source: str, destination: str, why: str) -> None:
    assert why in message_of({f"{HARBOR}/{source}": f"{ACR}/ns/{destination}"})


def test_a_destination_that_is_its_own_source_is_a_mistake() -> None:
    """Each copy would be an image that is copied once more."""
    for source in ("team/**", "team/all"):
        why = message_of({f"{HARBOR}/{source}": f"{HARBOR}/team/all:{{flat}}-{{tag}}"})
        assert "the source includes the destination" in why


def test_a_tag_that_gets_too_long_is_a_copy_that_fails_with_the_reason() -> None:
    rules = rules_of({f"{HARBOR}/team/**": {"to": f"{ALL}:{{flat}}-{{tag}}", "tags": {"exclude": "latest"}}})
    fits, long = "x" * (MAX_TAG_LENGTH - len("team-app-api-")), "x" * MAX_TAG_LENGTH
    (request,) = rules.destinations(Reference(APP, fits))
    assert request.problem is None
    requests = rules.requests(APP, [fits, long, long[:-1], "latest"])
    failing = [request for request in requests if request.problem is not None]
    assert len(requests) == 3
    assert len({str(request.destination) for request in failing}) == 2
    assert "with 141 characters, and a tag has at most 128: give team/app/api a rule" in str(failing[0].problem)
    for request in rules.destinations(Reference(APP, long)):
        assert CopyRequest.from_json(request.to_json()) == request in failing
    (explained,) = rules.explain(Reference(APP, long))
    assert not explained.matches
    assert "a tag has at most 128" in explained.reason


def test_templates_that_are_alike_collide_and_others_may() -> None:
    alike = {f"{HARBOR}/a/b-c": f"{ALL}:{{flat}}-{{tag}}", f"{HARBOR}/a-b/c": f"{ALL}:{{flat}}-{{tag}}"}
    assert "collision: it would get different images from this rule" in message_of(alike)
    apart = rules_of({f"{HARBOR}/a/b": f"{ALL}:{{flat}}-{{tag}}", f"{HARBOR}/a/c": f"{ALL}:{{flat}}-{{tag}}"})
    assert [each for each in apart.warnings if "collision" in each.message] == []
    fixed = {f"{HARBOR}/a/b": f"{ALL}:{{flat}}-{{tag}}", f"{HARBOR}/x/y:v1": f"{ALL}:a-b-v1"}
    assert "collision: it would get different images from this rule" in message_of(fixed)
    assert rules_of(fixed | {f"{HARBOR}/x/y:v1": f"{ALL}:a-c-v1"})


def test_two_registries_under_one_template_are_warned_about() -> None:
    images = {f"{host}/team/**": f"{ALL}:{{flat}}-{{tag}}" for host in (HARBOR, PLAIN)}
    assert any("equal names matched by this rule" in each.message for each in rules_of(images).warnings)


def test_what_meets_only_by_the_tags_that_exist_is_found_in_a_list() -> None:
    rules = rules_of({f"{HARBOR}/team/**": f"{ALL}:{{flat}}-{{tag}}"})
    tags = {"team/app": ["x-1", "2"], "team/app-x": ["1"]}
    requests = [each for name, found in tags.items() for each in rules.requests(Repository(HARBOR, name), found)]
    (collision,) = find_collisions(requests)
    assert str(collision.destination) == f"{ALL}:team-app-x-1"
    assert rules.route(APP).renaming == {Repository(ACR, "ns/all")}


def test_rules_with_another_tag_are_other_rules() -> None:
    digests = {rules_of({f"{HARBOR}/team/**": f"{ALL}:{{flat}}{end}"}).digest for end in ("-{tag}", ".{tag}")}
    assert len(digests) == 2
