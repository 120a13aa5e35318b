"""Routes: the destinations of a repository before its tags are known."""

from __future__ import annotations

from typing import Any

import pytest

from replicator.reference import Repository
from tests.rules.building import ACR, HARBOR, PLAIN, rules_of

SHA = "sha256:" + "a" * 64


def places(repositories: frozenset[Repository]) -> set[str]:
    return {str(repository) for repository in repositories}


def test_a_route_leads_to_every_destination_of_every_rule_about_the_repository() -> None:
    rules = rules_of(
        {
            f"{HARBOR}/a/**": [f"{PLAIN}/copy/{{repository}}", f"{ACR}/ns/{{flat}}"],
            f"{HARBOR}/a/x:1": f"{PLAIN}/one:2",
            f"{HARBOR}/b/**": f"{PLAIN}/b/{{name}}",
        }
    )
    route = rules.route(Repository(HARBOR.upper(), "a/x"))
    assert places(route.destinations) == {f"{PLAIN}/copy/a/x", f"{ACR}/ns/a-x", f"{PLAIN}/one"}
    assert places(route.renaming) == {f"{PLAIN}/one"}
    assert places(rules.route(Repository(HARBOR, "c")).destinations) == set()


def test_a_digest_and_an_impossible_name_have_no_route() -> None:
    rules = rules_of({f"{HARBOR}/a/x@{SHA}": f"{PLAIN}/one", f"{HARBOR}/a/**": f"{ACR}/ns/{{name}}"})
    assert places(rules.route(Repository(HARBOR, "a/x")).destinations) == {f"{ACR}/ns/x"}
    unfit = rules.route(Repository(HARBOR, "a/x/y"))
    assert places(unfit.destinations) == set()
    (reason,) = unfit.unfit
    assert reason.startswith(f"rule {HARBOR}/a/**: ACR can't hold ns/x/y: ")
    assert rules.route(Repository(HARBOR, "a/x")).unfit == ()
    named = rules_of({f"{HARBOR}/a/x@{SHA}": f"{PLAIN}/one:v1"}).route(Repository(HARBOR, "a/x"))
    assert places(named.destinations) == places(named.renaming) == {f"{PLAIN}/one"}


@pytest.mark.parametrize(
    ("key", "value", "whole"),
    [
        ("a/*", f"{PLAIN}/c/{{name}}", False),
        ("a/*:v*", f"{PLAIN}/c/{{name}}", False),
        ("a/*", {"to": f"{PLAIN}/c/{{name}}", "signatures": True, "tags": {"semver": ">1"}}, False),
        ("a/*", {"to": f"{PLAIN}/c/{{name}}", "tags": {"latest": 2}}, True),
        ("a/*:v1,v2", f"{PLAIN}/c/{{name}}", True),
        (f"a/x@{SHA}", f"{PLAIN}/c/x", True),
    ],
)
def test_tags_that_depend_on_others_are_seen_together(key: str, value: Any, whole: bool) -> None:
    assert rules_of({f"{HARBOR}/{key}": value}).route(Repository(HARBOR, "a/x")).whole is whole
