"""Collisions: certain ones, possible ones, and rules without one."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import ConfigError
from replicator.reference import Reference, Repository
from replicator.rules import Rules, find_collisions
from replicator.rules.collisions import MOST_FLAT
from tests.rules.building import ACR, HARBOR, PLAIN, goes_to, problems_of, rules_of

SHA = "sha256:" + "a" * 64
SIGNATURE = f"sha256-{'a' * 64}.sig"
X = f"{ACR}/ns/x"


def images(entries: dict[str, Any]) -> dict[str, Any]:
    return {f"{HARBOR}/{key}": value for key, value in entries.items()}


def filtered(**tags: Any) -> dict[str, Any]:
    return {"to": X, "tags": tags}


def collisions_in(rules: Rules) -> list[str]:
    """Warnings of possible collisions."""
    return [str(warning) for warning in rules.warnings if "collision" in warning.message]


@pytest.mark.parametrize(
    "entries",
    [
        {"a/x": X, "b/x": X},
        {"a/x": "", "b/x": ""},
        {"a/x": X, "b/y": [f"{PLAIN}/y", X]},
        {"a/x:1": X, "b/x:2,1": X},
        {"a/x:1": X, "b/x": X},
        {"a/x": X, "b/x:1": X},
        {"a/x:1,2": f"{X}:1,1"},
        {"a/x:1": f"{X}:3", "a/x:2": f"{X}:3"},
        {"a/x:1": f"{X}:2", "a/x:2": X},
        {"a/x": X, "b/x": filtered(include="v*")},
        {"a/x": filtered(include="v*"), "b/x": filtered(include="v*")},
        {"a/x:1": X, "b/x:1": f"{X}:1"},
        {f"a/x@{SHA}": f"{X}:1", "a/x:1": X},
        {f"a/x@{SHA}": f"{X}:1", "b/x": X},
        {"a/*": X},
        {"a/x*": X},
        {"a/**": f"{ACR}/ns/{{project}}"},
        {"*/x": f"{ACR}/ns/{{name}}"},
        {"*/x": ""},
        {"**": ""},
        {"x?": X},
        {"a*": f"{PLAIN}/x"},
        {"a/x": filtered(latest=1), "a/x:1": X, "b/x:1": X},
        {"a/x": filtered(include="v*"), "b/x": filtered(include="v*") | {"signatures": True}},
        {"a/x": X, "b/x": {"to": X, "signatures": True}},
    ],
)
def test_a_certain_collision_is_a_problem(entries: dict[str, Any]) -> None:
    problems = problems_of(images(entries))
    assert any("collision" in problem.message for problem in problems), problems
    assert all(problem.path.startswith(f'images["{HARBOR}/') for problem in problems)


@pytest.mark.parametrize(
    "entries",
    [
        {"a/x": filtered(include="v*"), "b/x": filtered(include="w*")},
        {"a/x:1": X, "b/x": filtered(latest=2)},
        {"a/x": X, "a/x:1": f"{X}:stable"},
        {"a/x": X, f"a/x@{SHA}": f"{X}:pinned"},
        {"a/*": f"{ACR}/ns/{{name}}", "b/*": f"{ACR}/ns/{{name}}"},
        {"a/*": "", "b/x": ""},
        {"b/x": X, "a/*": f"{ACR}/{{project}}/{{name}}"} | {"b/x": f"{ACR}/a/x"},
        {"b/x": f"{ACR}/ns/a-x", "a/*": f"{ACR}/ns/{{project}}-{{name}}"},
        {"a/x:1": {"to": X, "signatures": True}, "b/x:2": {"to": X, "signatures": True}},
        {"a/x:1": {"to": X, "signatures": True}, f"b/x:{SIGNATURE}": X},
        {"b/x:1": {"to": f"{ACR}/ns/x", "signatures": True}, "a/*:2": f"{ACR}/ns/{{name}}"},
    ],
)
def test_a_possible_collision_is_a_warning(entries: dict[str, Any]) -> None:
    assert len(collisions_in(rules_of(images(entries)))) == 1


@pytest.mark.parametrize(
    "entries",
    [
        {"a/x": X, "b/x": f"{PLAIN}/ns/x"},
        {"a/x:1": X, "b/x:2": X},
        {"a/x:1": {"to": X, "signatures": True}, "b/x:2": X},
        {"a/x:1": {"to": X, "signatures": True}, "a/x:2": {"to": X, "signatures": True}},
        {"a/x:1": {"to": X, "signatures": True}, f"b/x@{SHA}": {"to": f"{X}:2", "signatures": True}},
        {"a/x:1": X, "a/x": X},
        {"a/x:1": f"{X}:2", "a/x:2": f"{X}:1"},
        {"a/x": [X, X]},
        {"a/x": [filtered(include="v*"), filtered(include="w*")]},
        {f"a/x@{SHA}": X, f"b/x@{SHA}": X},
        {"a/*": f"{ACR}/ns/{{flat}}", "b/*": f"{ACR}/ns/{{flat}}"},
        {"a/*": f"{ACR}/ns/{{name}}", "b/*": f"{ACR}/other/{{name}}"},
        {"a/*": f"{ACR}/ns/{{name}}", "a/x*": f"{ACR}/ns/{{name}}"},
        {"*/*": f"{ACR}/{{project}}/{{name}}"},
        {"a/x": f"{ACR}/ns/x", "a/*": f"{ACR}/ns/{{name}}"},
        {"b/x:1": f"{ACR}/ns/x", "a/*:2": f"{ACR}/ns/{{name}}"},
        {"*": f"{ACR}/ns/{{name}}"},
    ],
)
def test_rules_without_a_collision_pass_silently(entries: dict[str, Any]) -> None:
    assert not collisions_in(rules_of(images(entries)))


def test_the_same_glob_on_two_registries_is_a_warning() -> None:
    template = f"{ACR}/ns/{{flat}}"
    rules = rules_of({f"{HARBOR}/a/*": template, f"{PLAIN}/a/*": template})
    assert [warning.path for warning in rules.warnings] == [f'images["{PLAIN}/a/*"]']


TAGS = ["1", SIGNATURE, "2", "v1"]
KEYS = st.builds(
    lambda name, tags: f"{name}{tags}",
    st.sampled_from(["a/x", "a/y", "b/x"]),
    st.sampled_from(["", ":1", ":1,2", ":v*", ":/1/"]),
)


@st.composite
def entries(draw: st.DrawFn) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in draw(st.lists(KEYS, max_size=4, unique=True)):
        to = draw(st.sampled_from([X, f"{ACR}/ns/y", ""]))
        if key.endswith(":1,2") and to:
            to += draw(st.sampled_from(["", ":1,2", ":2,1", ":3,1", ":v1,3"]))
        tags = draw(st.sampled_from([None, {"include": "v*"}, {"exclude": "v*"}, {"semver": ">=2"}, {"latest": 1}]))
        found[key] = {"to": to, "signatures": draw(st.booleans())} | ({"tags": tags} if tags is not None else {})
    return found


@given(entries())
def test_rules_for_single_repositories_without_complaint_never_collide(entries: dict[str, Any]) -> None:
    try:
        rules = rules_of(images(entries or {"a/x": X}))
    except ConfigError:
        return
    if collisions_in(rules):
        return
    requests = [
        request
        for name, tags in itertools.product(["a/x", "a/y", "b/x"], [TAGS, TAGS[:1], TAGS[1:]])
        for request in rules.requests(Repository(HARBOR, name), tags)
    ]
    assert not find_collisions(requests)


def test_a_project_whose_name_is_too_long_for_any_repository_is_in_nobodys_way() -> None:
    rules = rules_of(
        {
            f"{HARBOR}/team/app:v1": f"{PLAIN}/copy/app",
            f"{HARBOR}/{'a' * 300}/*": f"{PLAIN}/copy/{{name}}",
        }
    )
    assert goes_to(rules, f"{HARBOR}/team/app:v1") == {f"{PLAIN}/copy/app:v1"}


@pytest.mark.parametrize(
    ("entries", "pushed", "rivals"),
    [
        (
            {f"{HARBOR}/a/**": f"{PLAIN}/m/{{flat}}", f"{HARBOR}/a-b/**": f"{PLAIN}/m/{{flat}}"},
            "a-b/c:1",
            ["a/b-c:1", "a/b/c:1"],
        ),
        ({f"{HARBOR}/*/**": f"{PLAIN}/m/{{project}}/{{name}}"}, "a-b/c:1", []),
        ({f"{HARBOR}/a/*": f"{PLAIN}/m/{{name}}", f"{HARBOR}/b/*": f"{PLAIN}/m/{{name}}"}, "a/x:1", ["b/x:1"]),
        ({f"{HARBOR}/a/*": f"{PLAIN}/m/{{name}}", f"{HARBOR}/b/*": f"{PLAIN}/n/{{name}}"}, "a/x:1", []),
        ({f"{HARBOR}/a/*:v*": f"{PLAIN}/m/{{name}}", f"{HARBOR}/b/*:w*": f"{PLAIN}/m/{{name}}"}, "a/x:v1", []),
        ({f"{HARBOR}/a/x:1": f"{PLAIN}/m/x:2", f"{HARBOR}/b/*": f"{PLAIN}/m/{{name}}"}, "a/x:1", ["b/x:2"]),
        ({f"{HARBOR}/a/x:1": f"{PLAIN}/m/x:2", f"{HARBOR}/b/*": f"{PLAIN}/m/{{name}}"}, "b/x:2", ["a/x:1"]),
    ],
)
def test_the_sources_that_may_collide_with_one_are_named(
    entries: dict[str, Any], pushed: str, rivals: list[str]
) -> None:
    rules = rules_of(entries)
    (request,) = rules.destinations(Reference.parse(f"{HARBOR}/{pushed}"))
    assert [str(source) for source in rules.rivals(request)] == [f"{HARBOR}/{name}" for name in rivals]
    assert rules.may_collide or not rivals


def test_equal_names_at_two_harbors_may_collide() -> None:
    rules = rules_of({f"{host}/a/*": f"{ACR}/m/{{name}}" for host in (HARBOR, PLAIN)})
    (request,) = rules.destinations(Reference.parse(f"{HARBOR}/a/x:1"))
    assert list(map(str, rules.rivals(request))) == [f"{PLAIN}/a/x:1"]


def test_a_name_of_many_dashes_does_not_take_forever() -> None:
    rules = rules_of({f"{HARBOR}/**": f"{PLAIN}/m/{{flat}}"})
    (request,) = rules.destinations(Reference.parse(f"{HARBOR}/{'a-' * 60}a:1"))
    assert len(rules.rivals(request)) <= MOST_FLAT


@pytest.mark.parametrize(
    ("destinations", "may"),
    [
        (["m/{name}"], False),
        (["m/{flat}"], True),
        (["m/{name}", "n/{name}"], False),
        (["m/{name}", "m/b-{name}"], True),
        (["m/x", "m/xy"], False),
        (["m/x", "m/{name}"], True),
    ],
)
def test_the_rules_alone_tell_whether_collisions_are_worth_a_look(destinations: list[str], *, may: bool) -> None:
    entries = {
        f"{HARBOR}/{'abc'[number]}/{'*' if '{' in path else 'x'}": f"{PLAIN}/{path}"
        for number, path in enumerate(destinations)
    }
    assert rules_of(entries).may_collide is may
