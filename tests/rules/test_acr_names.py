"""Names that ACR can't hold and quotas of its Personal Edition, as far as the rules tell them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.aliyun.acr import EDITIONS
from replicator.reference import Reference, Repository, is_repository_name
from replicator.rules.credentials import PersonalUse
from replicator.rules.mapping import SourcePattern, Template
from tests.rules.building import ACR, AUTH, HARBOR, PLAIN, message_of, problems_of, rules_of
from tests.standins.acr import takes_name

LONG = "x" * 65
DIGEST = f"sha256:{'a' * 64}"
ENTERPRISE = "acme-registry.cn-beijing.cr.aliyuncs.com"
VPC = "registry-vpc.cn-beijing.aliyuncs.com"
EVERYWHERE = AUTH | {host: {"anonymous": True} for host in (ENTERPRISE, VPC, "acr.example.com")}
OWN_DOMAIN = "registry.aliyuncs.com:cn-beijing:china:cri-0123456789abcdef"
"""The ``service`` in the challenge of an Enterprise instance."""


def warnings(images: dict[str, Any], **sections: Any) -> list[str]:
    """Those about names and quotas."""
    found = map(str, rules_of(images, **({"auth": EVERYWHERE} | sections)).warnings)
    return [warning for warning in found if "no rule names this registry" not in warning]


@pytest.mark.parametrize("tag", ["v1", f"v1@{DIGEST}"])
def test_a_copy_to_a_name_that_is_too_long_is_asked_for_with_the_reason_why_it_fails(tag: str) -> None:
    rules = rules_of({f"{HARBOR}/team/**": [f"{ACR}/mirror/{{name}}", f"{PLAIN}/copy/{{name}}"]})
    requests = rules.destinations(Reference.parse(f"{HARBOR}/team/{LONG}:{tag}"))
    problems = {each.destination.registry: each.problem for each in requests}
    assert problems[PLAIN] is None
    said = str(problems[ACR])
    assert f"has 65 characters, and the Personal Edition takes 2 to 64; change {ACR}/mirror/{{name}}, or" in said
    assert [each.problem for each in rules.destinations(Reference.parse(f"{HARBOR}/team/{LONG[1:]}:v1"))] == [None] * 2


def test_the_signatures_of_such_a_copy_are_not_asked_for() -> None:
    rules = rules_of({f"{HARBOR}/team/**": {"to": f"{ACR}/mirror/{{name}}", "signatures": True}})
    tags = [f"sha256-{'b' * 64}.sig", "v1"]
    (sound,) = rules.destinations(Reference(Repository(HARBOR, "team/app"), tags[0]))
    assert (sound.signature, sound.problem) == (True, None)
    long = Repository(HARBOR, f"team/{LONG}")
    assert rules.destinations(Reference(long, tags[0])) == ()
    assert [each.source.tag for each in rules.requests(long, tags)] == ["v1"]


def test_such_a_copy_fails_by_digest_too() -> None:
    destination = "acr.example.com"
    repository = Repository(HARBOR, "team/app")
    rules = rules_of({f"{repository}@{DIGEST}": f"{destination}/mirror/{'r' * 121}"}, auth=EVERYWHERE)
    assert rules.destinations(Reference(repository, None, DIGEST))[0].problem is None
    EDITIONS.learn(destination, OWN_DOMAIN)
    assert "121 characters" in str(rules.destinations(Reference(repository, None, DIGEST))[0].problem)


def test_a_route_does_not_lead_to_a_name_that_is_too_long() -> None:
    rules = rules_of({f"{HARBOR}/team/**": f"{ACR}/mirror/{{name}}"})
    route = rules.route(Repository(HARBOR, f"team/{LONG}"))
    assert (route.destinations, route.certain, route.unfit) == (frozenset(), frozenset(), ())
    (problem,) = route.problems
    assert problem.startswith(f"rule {HARBOR}/team/**: ACR can't hold this destination: ")


def test_a_queued_copy_fails_by_the_rules_in_force_and_no_more_when_they_change() -> None:
    repository = Repository(HARBOR, f"team/{LONG}")
    short, long = ({f"{HARBOR}/team/*": f"{host}/mirror/{{name}}"} for host in (ENTERPRISE, ACR))
    (failing,) = rules_of(long, auth=EVERYWHERE).destinations(Reference(repository, "v1"))
    assert failing.problem is not None
    assert rules_of(long, auth=EVERYWHERE).present(replace(failing, problem=None)) == failing
    (sound,) = rules_of(short, auth=EVERYWHERE).destinations(Reference(repository, "v1"))
    assert rules_of(short, auth=EVERYWHERE).present(sound) == sound


@pytest.mark.parametrize(
    ("source", "destination", "problem"),
    [
        (f"team/{LONG}", "mirror/{name}", "repository xxx"),
        (f"team/{LONG}", "mirror/{flat}", "repository team-xxx"),
        (f"team/{LONG}", "", "repository xxx"),
        ("team/**", f"{'n' * 31}/{{flat}}", "namespace nnn"),
        ("team/**", "my.team/{flat}", "namespace my.team has a dot"),
        ("my.team/**", "{project}/{flat}", "namespace my.team has a dot"),
        ("my.team/*", "{repository}", "namespace my.team has a dot"),
        ("**", f"mirror/{'x' * 64}-{{flat}}", "repository xxx"),
        (f"team/{'x' * 64}-*", "mirror/{name}", "repository xxx"),
    ],
)
def test_a_rule_of_which_no_match_can_be_held_is_a_mistake(source: str, destination: str, problem: str) -> None:
    said = message_of({f"{HARBOR}/{source}": destination and f"{ACR}/{destination}"})
    assert said.startswith(f'images["{HARBOR}/{source}"]: ACR can\'t hold this destination: the {problem}')


def test_every_such_mistake_is_told_at_once_with_the_path_of_its_key() -> None:
    images = {
        f"{HARBOR}/team/app": [f"{ACR}/mirror/app", f"{ACR}/mirror/{LONG}"],
        f"{HARBOR}/base/**": {"to": [f"{ACR}/my.base/{{flat}}", f"{PLAIN}/my.base/{{flat}}"]},
        f"{HARBOR}/x/*": f"{ENTERPRISE}/{'n' * 121}/{{name}}",
    }
    found = problems_of(images, auth=EVERYWHERE)
    assert [(each.path, each.message.partition(" has ")[2].partition(",")[0]) for each in found] == [
        (f'images["{HARBOR}/team/app"][1]', "65 characters"),
        (f'images["{HARBOR}/base/**"].to[0]', "a dot"),
        (f'images["{HARBOR}/x/*"]', "121 characters"),
    ]


def test_what_only_a_challenge_tells_is_no_mistake_in_the_rules() -> None:
    images = {f"{HARBOR}/team/app": f"acr.example.com/mirror/{'r' * 121}"}
    EDITIONS.learn("acr.example.com", OWN_DOMAIN)
    (request,) = rules_of(images, auth=EVERYWHERE).destinations(Reference.parse(f"{HARBOR}/team/app:v1"))
    assert request.problem is not None


def test_a_doubtful_name_is_a_warning_and_no_mistake() -> None:
    (warning,) = warnings({f"{HARBOR}/team/a": f"{ACR}/mirror/{{name}}"})
    assert warning.startswith(f'images["{HARBOR}/team/a"]: ACR may refuse the repository a: ')


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("team/**", f"{ACR}/{'n' * 30}/{{flat}}"),
        ("team/**", f"{ACR}/mirror/{'x' * 57}-{{flat}}"),
        (f"team/{'x' * 63}*", f"{ACR}/mirror/{{name}}"),
        (f"team/?{'x' * 63}*", f"{ACR}/mirror/{{name}}"),
        ("*/app", f"{ACR}/{{project}}/{{flat}}"),
        ("my.team/**", f"{ENTERPRISE}/{{project}}/{{flat}}"),
        (f"team/{LONG}", f"{ENTERPRISE}/{'n' * 31}/{{name}}"),
        ("my.team/**", f"{PLAIN}/{{project}}/{{name}}"),
        ("**.b/c", f"{ACR}/{{project}}/{{flat}}"),
        ("?/*", f"{ACR}/{{project}}/{{flat}}"),
    ],
)
def test_a_name_that_some_match_may_have_or_that_another_registry_holds_is_no_mistake(
    source: str, destination: str
) -> None:
    assert not [each for each in warnings({f"{HARBOR}/{source}": destination}) if "destination" in each]


@pytest.mark.parametrize(
    ("destinations", "needed"),
    [
        (["one/{flat}", "two/{flat}", "three/{flat}"], None),
        (["one/{flat}", "two/{flat}", "three/{flat}", "four/{flat}"], "4 namespaces at HOST (four, one, three, two)"),
        (
            ["one/{flat}", "two/{flat}", "{project}/{flat}", "pre-{project}/{name}"],
            "4 namespaces at HOST (one, pre-team",
        ),
        (["one/{flat}", "two/{flat}", "three/all:{flat}-{tag}", "one/x-{flat}"], None),
    ],
)
def test_namespaces_of_all_rules_are_counted_for_the_personal_edition(
    destinations: list[str], needed: str | None
) -> None:
    found = warnings({f"{HARBOR}/team/*": [f"{ACR}/{each}" for each in destinations]})
    found = [each for each in found if "Edition" in each]
    assert len(found) == (needed is not None)
    assert needed is None or needed.replace("HOST", ACR) in found[0]
    elsewhere = warnings({f"{HARBOR}/team/*": [f"{ENTERPRISE}/{each}" for each in destinations]})
    assert not any("Edition" in each for each in elsewhere)


def test_destinations_without_wildcards_are_counted_when_they_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicator.rules.credentials.PERSONAL_REPOSITORIES", 3)
    images: dict[str, Any] = {f"{HARBOR}/team/app{number}": f"{ACR}/mirror/{{name}}" for number in range(3)}
    assert warnings(images) == []
    (warning,) = warnings(images | {f"{HARBOR}/base/os:12": f"{ACR}/mirror/os"})
    assert f"need at least 4 repositories at {ACR}" in warning
    # Nobody knows whether a tag passes; and where names go into tags, one repository is enough.
    assert warnings(images | {f"{HARBOR}/base/os:v*": f"{ACR}/mirror/os"}) == []
    assert warnings(dict.fromkeys([*images, f"{HARBOR}/base/os"], f"{ACR}/mirror/all:{{flat}}-{{tag}}")) == []


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (
            {"username": "push@1938562138124787", "password": "a"},
            {"username": "ci@1938562138124787", "password": "b"},
            True,
        ),
        (
            {"username": "push@1938562138124787", "password": "a"},
            {"username": "push@2038562138124787", "password": "b"},
            False,
        ),
        ({"username": "me@example.com", "password": "a"}, {"username": "me@example.com", "password": "a"}, True),
        ({"username": "me@example.com", "password": "a"}, {"username": "you@example.com", "password": "a"}, False),
        ({"anonymous": True}, {"anonymous": True}, False),
        (
            {"aliyun": {"access_key_id": "k", "access_key_secret": "s"}},
            {"aliyun": {"access_key_id": "k", "access_key_secret": "s"}},
            True,
        ),
    ],
)
def test_two_hosts_share_a_quota_only_where_they_are_known_to_be_one_account(one: Any, other: Any, same: bool) -> None:
    auth = AUTH | {ACR: one, VPC: other}
    images = {
        f"{HARBOR}/team/*": [
            f"{ACR}/one/{{name}}",
            f"{ACR}/two/{{name}}",
            f"{VPC}/three/{{name}}",
            f"{VPC}/four/{{name}}",
        ]
    }
    found = warnings(images, auth=auth)
    assert len(found) == same
    assert not same or f"4 namespaces at {VPC} and {ACR}" in found[0]


def test_two_accounts_at_one_host_and_one_account_in_two_regions_have_their_own_quotas() -> None:
    user = {"username": "push@1938562138124787", "password": "p"}
    images = {f"{HARBOR}/team/*": [f"{ACR}/{name}/{{name}}" for name in ("one", "two", "three", "four")]}
    other = {"username": "push@2038562138124787", "password": "p"}
    assert len(warnings(images, auth=AUTH | {ACR: user})) == 1
    assert warnings(images, auth=AUTH | {ACR: user, f"{ACR}/four": other}) == []
    far = "registry.cn-hangzhou.aliyuncs.com"
    apart = {f"{HARBOR}/team/*": [*images[f"{HARBOR}/team/*"][:3], f"{far}/four/{{name}}"]}
    assert warnings(apart, auth=AUTH | {ACR: user, far: user}) == []


def test_the_hosts_of_one_instance_share_its_quota() -> None:
    hosts = [f"crpi-abc{network}.cn-hangzhou.personal.cr.aliyuncs.com" for network in ("", "-vpc")]
    images = {f"{HARBOR}/team/*": [f"{hosts[number % 2]}/name{number}/{{name}}" for number in range(4)]}
    auth = AUTH | {host: {"anonymous": True} for host in hosts}
    (warning,) = warnings(images, auth=auth)
    assert f"4 namespaces at {hosts[1]} and {hosts[0]}" in warning


def test_a_quota_that_does_not_suffice_is_told_with_what_is_needed_and_a_way_out() -> None:
    use = PersonalUse()
    for number in range(300):
        use.add(Repository(ACR, f"{'abc'[number % 3]}x/app{number}"), certain=True)
    assert (use.too_many_namespaces, use.too_many_repositories, use.maybe_too_many_repositories) == (None, None, None)
    use.add(Repository(ACR, "ax/further"), certain=False)
    use.add(Repository(ACR, "ax/app0"), certain=False)
    assert use.too_many_repositories is None
    assert "need up to 301 repositories" in str(use.maybe_too_many_repositories)
    use.add(Repository(ACR, "ax/further"), certain=True)
    said = str(use.too_many_repositories)
    assert f"need at least 301 repositories at {ACR}, and an account has 300" in said
    assert f"{ACR}/ax/all:{{flat}}-{{tag}}" in said
    assert "Enterprise Edition" in said
    use.reach(ACR, "dx")
    assert f"need 4 namespaces at {ACR} (ax, bx, cx, dx), and an account has 3" in str(use.too_many_namespaces)


def test_of_many_namespaces_the_first_are_named() -> None:
    use = PersonalUse()
    for number in range(40):
        use.reach(ACR, f"team{number:02}")
    said = str(use.too_many_namespaces)
    assert "need 40 namespaces" in said
    assert "team09 and 30 more)" in said


WORDS = st.text("ab0A._-", min_size=1, max_size=6)


@st.composite
def names(draw: st.DrawFn) -> str:
    """Names of one to three segments, about as long as an edition allows, and what is no name."""
    segments = []
    for word in draw(st.lists(WORDS, min_size=1, max_size=3)):
        longest = draw(st.sampled_from([1, 30, 64, 120]))
        segments.append(word + "x" * (longest + draw(st.integers(-2, 2)) - len(word)))
    return "/".join(segments)


def holds(registry: str, name: str) -> bool:
    """Whether the rules let a copy go to ``name``."""
    template = Template(registry, name)
    try:
        return template.name_problem(template.expand(Repository(HARBOR, "team/app"))) is None
    except ValueError:
        return False


@given(names(), st.booleans())
def test_the_rules_let_pass_what_the_stand_in_of_acr_takes_and_nothing_else(name: str, personal: bool) -> None:
    assert holds(ACR if personal else ENTERPRISE, name) == takes_name(name, personal=personal)


PATHS = st.lists(st.sampled_from(["*", "**", "?", "a", ".", "-", "/", "x" * 28, "y" * 60]), min_size=1, max_size=5)
TEMPLATES = st.sampled_from(
    [
        *(
            "mirror/{flat}",
            "mirror/{name}",
            "{project}/{name}",
            "{project}/{flat}",
            "{repository}",
            "my.{project}/{name}",
        ),
        *(f"{'n' * 28}-{{project}}/{{name}}", f"{'n' * 31}/{{flat}}", f"mirror/{'r' * 60}-{{flat}}"),
    ]
)
FILLINGS = ("", "x", "xx", "/", "a/b", "x.y", "-z", "a/")


@given(PATHS, TEMPLATES)
def test_a_rule_that_is_refused_has_no_match_that_acr_can_hold(path: list[str], template: str) -> None:
    source, target = SourcePattern(HARBOR, "".join(path)), Template(ACR, template)
    if target.fixed_name_problem(source) is None:
        return
    stars = sum(part.startswith("*") for part in path)
    for filled in product(FILLINGS, repeat=stars):
        fillings = iter(filled)
        name = "".join(next(fillings) if part.startswith("*") else part.replace("?", "q") for part in path)
        if is_repository_name(name) and source.includes(name):
            with suppress(ValueError):  # a match without a destination
                destination = target.expand(Repository(HARBOR, name))
                assert target.name_problem(destination) is not None
