"""Selection of a part of the rules: its sources and its copies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from replicator.copy.options import CopyOptions
from replicator.errors import ConfigError
from replicator.reference import Platform, Repository
from replicator.rules import Narrowing, Rules
from tests.rules.building import HARBOR, PLAIN, rules_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from replicator.rules import Asked

OTHER = "other.example.com:5000"
EVERYTHING = f"{HARBOR}/**"
TEAM = f"{HARBOR}/team/**"
APP = f"{HARBOR}/team/app:v1,v2"
FOREIGN = f"{OTHER}/x"
TAGS = ["v1", "v2", "v10", "dev"]


def unmatched(narrowing: Narrowing, taken: Iterable[Asked]) -> list[str]:
    matcher = narrowing.matcher()
    for asked in taken:
        matcher.add(asked)
    return matcher.unmatched()


@pytest.fixture
def rules() -> Rules:
    images = {
        EVERYTHING: f"{PLAIN}/all/{{repository}}",
        TEAM: {"to": f"{PLAIN}/team/{{name}}", "tags": {"include": "v*"}},
        APP: f"{PLAIN}/app",
        FOREIGN: f"{PLAIN}/x",
    }
    return rules_of(images, auth={host: {"anonymous": True} for host in (HARBOR, PLAIN, OTHER)})


def looked_through(narrowing: Narrowing) -> set[str]:
    return {
        f"{source.registry}/{source.repository.name if source.repository else f'{source.glob} in {source.project}'}"
        for source in narrowing.sources()
    }


def taken(narrowing: Narrowing, rules: Rules, name: str = "team/app", host: str = HARBOR) -> set[tuple[str, str]]:
    """The selected copies, by the source's tag and the destination's path."""
    return {
        (str(asked.request.source.tag), asked.request.destination.repository.name)
        for asked in rules.asked(Repository(host, name), TAGS)
        if narrowing.takes(asked)
    }


def test_without_options_everything_is_selected(rules: Rules) -> None:
    narrowing = Narrowing(rules)
    assert narrowing.sources() == rules.sources()
    assert len(taken(narrowing, rules)) == 4 + 3 + 2
    assert narrowing.includes(Repository(HARBOR, "any/thing"))


@pytest.mark.parametrize(
    ("only", "places"),
    [
        (["team/app"], {f"{HARBOR}/team/app"}),
        ([f"{HARBOR.upper()}/team/app"], {f"{HARBOR}/team/app"}),
        (["team/app:v1*"], {f"{HARBOR}/team/app"}),
        (["team/other", "x"], {f"{HARBOR}/team/other", f"{HARBOR}/x", f"{OTHER}/x"}),
        ([f"{OTHER}/x"], {f"{OTHER}/x"}),
        # What is in one project for certain is looked for in that project alone.
        (["team/*"], {f"{HARBOR}/** in team", f"{HARBOR}/team/** in team", f"{HARBOR}/team/app"}),
        (["mine/**"], {f"{HARBOR}/** in mine"}),
        (["*/app"], {f"{HARBOR}/** in None", f"{HARBOR}/team/** in team", f"{HARBOR}/team/app"}),
    ],
)
def test_only_sources_that_can_match_are_listed(rules: Rules, only: list[str], places: set[str]) -> None:
    assert looked_through(Narrowing(rules, only)) == places


@pytest.mark.parametrize(
    ("only", "tags"),
    [
        (["team/app"], set(TAGS)),
        (["team/**"], set(TAGS)),
        (["team/app:v1*"], {"v1", "v10"}),
        (["team/app:v2,dev"], {"v2", "dev"}),
        (["team/app:/^v[0-9]+$/"], {"v1", "v2", "v10"}),
        (["team/app:v2", "team/*:dev"], {"v2", "dev"}),
        ([f"team/app@sha256:{'a' * 64}"], set()),
        (["team/other"], set()),
        ([f"{OTHER}/x"], set()),
    ],
)
def test_only_matching_tags_are_selected(rules: Rules, only: list[str], tags: set[str]) -> None:
    assert {tag for tag, _ in taken(Narrowing(rules, only), rules)} == tags


def test_only_copies_of_the_named_rules_are_selected(rules: Rules) -> None:
    assert taken(Narrowing(rules, keys=[APP]), rules) == {("v1", "app"), ("v2", "app")}
    assert taken(Narrowing(rules, ["team/*:v1*"], [TEAM, APP]), rules) == {
        ("v1", "app"),
        ("v1", "team/app"),
        ("v10", "team/app"),
    }


def test_a_selected_copy_keeps_the_options_of_all_rules() -> None:
    rules = rules_of(
        {
            f"{HARBOR}/a/b": {"to": f"{PLAIN}/b", "platforms": "linux/amd64"},
            f"{HARBOR}/a/*:v1": {"to": f"{PLAIN}/{{name}}", "platforms": "linux/arm64"},
        }
    )
    narrowing = Narrowing(rules, keys=[f"{HARBOR}/a/*:v1"])
    (source,) = narrowing.sources()
    assert source.needs_tags
    (asked,) = filter(narrowing.takes, rules.asked(Repository(HARBOR, "a/b"), TAGS))
    assert asked.request.source.tag == "v1"
    assert asked.request.options == CopyOptions((Platform("linux", "amd64"), Platform("linux", "arm64")))


def test_a_rule_whose_copies_another_asks_for_too_has_matched() -> None:
    keys = (f"{HARBOR}/a/b", f"{HARBOR}/a/*")
    rules = rules_of({key: f"{PLAIN}/b" if key.endswith("b") else f"{PLAIN}/{{name}}" for key in keys})
    listed = rules.asked(Repository(HARBOR, "a/b"), ["1"])
    assert [asked.rules for asked in listed] == [frozenset(keys)]
    assert unmatched(Narrowing(rules), listed) == []


def test_selected_sources_without_a_match_are_reported(rules: Rules) -> None:
    listed = rules.asked(Repository(HARBOR, "other/app"), TAGS)
    assert unmatched(Narrowing(rules), listed) == [f"the rule {key} matches nothing" for key in (TEAM, APP, FOREIGN)]
    assert unmatched(Narrowing(rules, keys=[APP, EVERYTHING]), listed) == [f"the rule {APP} matches nothing"]
    narrowing = Narrowing(rules, ["other/*:v1*", "other/*:w*"], [EVERYTHING])
    assert unmatched(narrowing, filter(narrowing.takes, listed)) == ["--only other/*:w* matches nothing"]


@pytest.mark.parametrize(
    ("only", "keys", "problems"),
    [
        (
            [],
            ["harbor.example.com/teams/**"],
            ["--rule: 'harbor.example.com/teams/**' is not a key under images; did"],
        ),
        ([], ["z"], ["--rule: 'z' is not a key under images; expected one of "]),
        (["team/APP"], [], ["--only: 'team/APP': 'team/APP' is not a repository name"]),
        (["team/app:"], [], ["--only: 'team/app:': no tag after the colon"]),
        ([HARBOR], [], [f"--only: '{HARBOR}': no repository; append /**"]),
        (["elsewhere.example.com:1/a"], [], ["--only: no rule copies from elsewhere.example.com:1; "]),
        (["", "*"], ["z"], ["--rule: 'z'", "--only: '': no repository; append /**"]),
        (["x", "team/app"], [TEAM], ["--only: none of these rules copies from x"]),
        ([f"{OTHER}/y"], [], [f"--only: no rule copies from {OTHER}/y"]),
    ],
)
def test_an_invalid_selection_is_reported_with_its_option(
    rules: Rules, only: list[str], keys: list[str], problems: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        Narrowing(rules, only, keys)
    told = [str(problem) for problem in caught.value.problems]
    assert len(told) == len(problems), told
    for message, beginning in zip(told, problems, strict=True):
        assert message.startswith(beginning)
