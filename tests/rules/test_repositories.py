"""Repositories that a rule leaves out of its pattern."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import ConfigError
from replicator.reference import Reference, Repository
from replicator.rules import Narrowing, Rules
from replicator.rules.patterns import compile_glob, may_share
from tests.rules.building import ACR, HARBOR, PLAIN, goes_to, message_of, rules_of

if TYPE_CHECKING:
    from collections.abc import Iterable

TEAM = f"{HARBOR}/team/**"
MIRROR = f"{ACR}/mirror/{{flat}}"


def excluding(*patterns: str, source: str = TEAM, **more: Any) -> Rules:
    return rules_of({source: {"to": MIRROR, "repositories": {"exclude": list(patterns)}, **more}})


def copied(rules: Rules, names: Iterable[str]) -> set[str]:
    return {name for name in names if goes_to(rules, f"{HARBOR}/{name}:v1")}


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        (["team/cache"], {"team/app", "team/cache/app", "team/charts/app"}),
        (["team/cache/*"], {"team/app", "team/cache", "team/charts/app"}),
        (["**/app"], {"team/cache"}),
        (["team/c*", "team/c*/**"], {"team/app"}),
        (["team/?pp"], {"team/cache", "team/cache/app", "team/charts/app"}),
    ],
)
def test_a_repository_is_left_out_if_its_whole_name_matches_a_pattern(patterns: list[str], left: set[str]) -> None:
    rules = excluding(*patterns)
    names = ["team/app", "team/cache", "team/cache/app", "team/charts/app"]
    assert copied(rules, names) == left
    for name in names:
        repository = Repository(HARBOR, name)
        is_left = name in left
        assert bool(rules.requests(repository, ["v1"])) == is_left, "a backfill asks for the same as an event"
        assert bool(rules.route(repository).destinations) == is_left, "and so does a sweep"
        assert rules.allows_public(repository, Repository(ACR, "mirror/x")) is False
        assert [source.includes(name) for source in rules.sources()] == [is_left], "nothing is listed in vain"


def test_one_pattern_needs_no_list() -> None:
    rules = rules_of({TEAM: {"to": MIRROR, "repositories": {"exclude": "team/cache/**"}}})
    assert copied(rules, ["team/app", "team/cache/app"]) == {"team/app"}


def test_explain_names_the_pattern_that_excludes() -> None:
    (one,) = excluding("team/x", "team/cache/**").explain(Reference.parse(f"{HARBOR}/team/cache/app:v1"))
    assert not one.matches
    assert one.reason == "the repository team/cache/app is excluded by repositories.exclude: team/cache/**"


def test_each_destination_has_repositories_of_its_own() -> None:
    rules = rules_of(
        {
            TEAM: [
                {"to": MIRROR, "repositories": {"exclude": "team/cache/**"}},
                {"to": [f"{PLAIN}/a/{{name}}", f"{PLAIN}/b/{{name}}"], "repositories": {"exclude": "team/app"}},
            ]
        }
    )
    assert goes_to(rules, f"{HARBOR}/team/app:v1") == {f"{ACR}/mirror/team-app:v1"}
    assert goes_to(rules, f"{HARBOR}/team/cache/x:v1") == {f"{PLAIN}/a/cache/x:v1", f"{PLAIN}/b/cache/x:v1"}
    (source,) = rules.sources()
    assert source.includes("team/app")
    assert source.includes("team/cache/x"), "one destination of the two is enough"
    assert source.may_be_in("team")


def test_another_rule_may_copy_what_one_excludes() -> None:
    rules = rules_of(
        {
            TEAM: {"to": MIRROR, "repositories": {"exclude": "team/cache/**"}},
            f"{HARBOR}/team/cache/*": f"{PLAIN}/cache/{{flat}}",
            f"{TEAM}:v2": f"{PLAIN}/all/{{repository}}",
        }
    )
    assert goes_to(rules, f"{HARBOR}/team/cache/x:v1") == {f"{PLAIN}/cache/team-cache-x:v1"}
    assert [source.includes("team/cache/x") for source in rules.sources()] == [True, True]


@pytest.mark.parametrize(
    ("source", "pattern", "needed"),
    [
        ("**", "secret/**", {"team"}),
        ("*/**", "secret/**", {"team"}),
        ("*/*", "secret/*", {"team"}),
        ("**", "secret/*", {"team", "secret"}),
        ("*/*", "s*/**", {"team"}),
        ("**", "secret/x", {"team", "secret"}),
        ("**", "**/x", {"team", "secret"}),
    ],
)
def test_a_project_of_which_every_repository_is_excluded_is_not_needed(
    source: str, pattern: str, needed: set[str]
) -> None:
    (found,) = excluding(pattern, source=f"{HARBOR}/{source}").sources()
    assert {project for project in ("team", "secret") if found.may_be_in(project)} == needed


def test_only_can_not_select_what_is_excluded() -> None:
    rules = excluding("team/cache/**")
    assert Narrowing(rules, ["team/app"]).sources()
    with pytest.raises(ConfigError, match="no rule copies from team/cache/app"):
        Narrowing(rules, ["team/cache/app"])


def test_a_copy_that_was_queued_before_its_repository_was_excluded_is_not_wanted_any_more() -> None:
    before, now = rules_of({TEAM: MIRROR}), excluding("team/cache/**")
    assert before.digest != now.digest
    (request,) = before.destinations(Reference.parse(f"{HARBOR}/team/cache/app:v1"))
    assert now.present(request) is None


def test_what_is_excluded_collides_with_nothing() -> None:
    def warnings(**more: Any) -> list[str]:
        images = {f"{HARBOR}/a/*": {"to": f"{PLAIN}/x/{{name}}", **more}, f"{HARBOR}/b/app": f"{PLAIN}/x/app"}
        rules = rules_of(images)
        (request,) = rules.destinations(Reference.parse(f"{HARBOR}/b/app:v1"))
        collisions = [each.message for each in rules.warnings if each.message.startswith("collision")]
        return collisions + [str(each) for each in rules.rivals(request)]

    assert len(warnings()) == 2
    assert warnings(repositories={"exclude": "a/app"}) == []


@pytest.mark.parametrize(
    ("source", "repositories", "message"),
    [
        ("team/**", {"exclude": "cache/*"}, "'cache/*' matches no repository of team/**: a pattern is for the whole "),
        ("team/**", {"exclude": "cache/*"}, "so write team/cache/*"),
        ("team/**", {"exclude": f"{HARBOR}/team/a*"}, "leave the host out, and write team/a*"),
        ("team/*", {"exclude": "team/cache/**"}, "matches no repository of team/*"),
        ("team/**", {"exclude": "team/**"}, "excludes every repository of team/**; remove it, or the rule"),
        ("team/x*", {"exclude": "team/**"}, "excludes every repository of team/x*"),
        ("team/**", {"exclude": "Team/X"}, "'Team/X' is not a repository name"),
        ("team/**", {"exclude": "/^team/"}, "is not a repository name"),
        ("team/**", {"exclude": "team/[ab]*"}, "is not a repository pattern"),
        ("team/**", {"exclude": []}, "is empty; remove it"),
        ("team/**", {}, "is empty; remove it"),
        ("team/**", "team/cache/*", "must be a mapping (key: value), not a string"),
        ("team/**", {"exclude": [True]}, "must be a string, not true or false"),
        ("team/**", {"exclud": "team/x"}, "unknown key; did you mean exclude?"),
        ("team/**", {"include": "team/x"}, "unknown key; the key of a rule says what is included: add a rule for each"),
        ("team/app", {"exclude": "team/app"}, "the source is a single repository"),
    ],
)
def test_a_mistake_is_reported_with_its_place(source: str, repositories: object, message: str) -> None:
    told = message_of({f"{HARBOR}/{source}": {"to": MIRROR, "repositories": repositories}})
    assert message in told
    assert told.startswith(f'images["{HARBOR}/{source}"].repositories')


PARTS = st.sampled_from(["a", "b", "/", "*", "**", "?"])
GLOBS = st.lists(PARTS, min_size=1, max_size=6).map("".join)


@given(GLOBS, GLOBS, st.text("ab/", max_size=8))
def test_two_globs_that_match_one_name_are_found_to_share_one(one: str, other: str, name: str) -> None:
    shared = all(compile_glob(glob).match(name) for glob in (one, other))
    assert may_share(one, other) or not shared
    assert may_share(one, other) == may_share(other, one)
    assert may_share(one, one)


@pytest.mark.parametrize(
    ("one", "other", "may"),
    [
        ("team/*", "team/a/b", False),
        ("team/**", "team/a/b", True),
        ("*", "team/**", False),
        ("**/app", "team/*", True),
        ("**/app", "team/ap?", True),
        ("**/app", "team/?", False),
        ("a*b", "*c", False),
        ("a?c", "ab", False),
        ("**", "x", True),
    ],
)
def test_two_globs_share_a_name_or_not(*, one: str, other: str, may: bool) -> None:
    assert may_share(one, other) is may


def test_globs_that_take_too_long_to_compare_may_share_a_name() -> None:
    assert may_share("*a" * 400 + "b", "a*" * 400 + "c")
