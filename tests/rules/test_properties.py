"""Properties of every rules file and every reference."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.errors import ConfigError
from replicator.reference import Reference, Repository
from replicator.rules import CopyRequest, Rules, parse
from tests.rules.building import ACR, AUTH, HARBOR, PLAIN, error_in, text_of

if TYPE_CHECKING:
    import random

SHA = "sha256:" + "a" * 64
NAMES = ["a", "a/x", "a/y", "a/x/y", "b/x", "b/xy", "c"]
TAGS = ["1", "2", "1.10", "1.9", "v1-dev", "latest", "release-3", f"sha256-{'a' * 64}.sig"]
LABELS = {tag: [["prod"], ["prod", "a"], []][number % 3] for number, tag in enumerate(TAGS)}
PATHS = st.sampled_from([*NAMES, "a/*", "a/**", "*/x", "**", "*", "b/x*", "?/x"])
BEHIND = st.sampled_from(["", "", "", ":1,2", ":v*", ":/^1/", ":latest,1.*", f"@{SHA}"])
DESTINATIONS = st.sampled_from(
    [
        "",
        *[f"{host}/{path}" for host in (ACR, PLAIN) for path in ("ns/x", "ns/{name}", "ns/{flat}", "{project}/{flat}")],
        f"{PLAIN}/copy/{{repository}}",
        f"{ACR}/ns/x:8,9",
        f"{ACR}/ns/all:{{flat}}-{{tag}}",
        f"{HARBOR}/{{repository}}",
        f"{HARBOR}/a/{{name}}",
    ]
)
FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "include": st.sampled_from(["v*", ["1*", "/^re/"]]),
        "exclude": st.sampled_from(["*-dev", ["latest"]]),
        "semver": st.sampled_from([">=1.9", "<2"]),
        "labels": st.sampled_from(["prod", ["prod", "a"]]),
        "exclude_labels": st.just("a"),
        "latest": st.integers(1, 3),
    },
)
CONTENT = st.fixed_dictionaries(
    {},
    optional={
        "platforms": st.sampled_from(["linux/amd64", ["linux/arm64/v8", "linux/arm"], "*/*"]),
        "attestations": st.sampled_from(["auto", "keep", "strip", "fail"]),
        "signatures": st.booleans(),
        "types": st.sampled_from(["all", "image", ["chart", "application/vnd.example+json"]]),
    },
)
REPOSITORIES = st.fixed_dictionaries(
    {}, optional={"repositories": st.sampled_from([{"exclude": "a/x"}, {"exclude": ["a/x/**", "**/y", "b*"]}])}
)
OBJECTS = st.builds(
    lambda to, tags, content, left_out: {"to": to, "tags": tags} | content | left_out,
    DESTINATIONS,
    FILTERS,
    CONTENT,
    REPOSITORIES,
)
VALUES = st.one_of(DESTINATIONS, OBJECTS, st.lists(DESTINATIONS | OBJECTS, min_size=1, max_size=3))
IMAGES = st.dictionaries(
    st.builds(lambda path, tags: f"{HARBOR}/{path}{tags}", PATHS, BEHIND), VALUES, min_size=1, max_size=5
)
REFERENCES = st.builds(
    lambda name, tag, digest: Reference(Repository(HARBOR, name), tag, digest if tag else SHA),
    st.sampled_from(NAMES),
    st.none() | st.sampled_from(TAGS),
    st.none() | st.just(SHA),
)


def usable(images: dict[str, Any]) -> Rules | None:
    """Rules of the keys without a problem, alone and together."""
    good: dict[str, Any] = {}
    rules = None
    for key, value in images.items():
        try:
            rules = parse(text_of(good | {key: value}), "x", environ={})
        except ConfigError:
            continue
        good[key] = value
    return rules if rules is None else parse(text_of(good), "x", environ={})


def text_requests(requests: tuple[CopyRequest, ...] | list[CopyRequest]) -> set[str]:
    return {json.dumps(request.to_json(), sort_keys=True) for request in requests}


@given(IMAGES, REFERENCES)
def test_destinations_never_raise_and_agree_with_the_explanation(images: dict[str, Any], reference: Reference) -> None:
    rules = usable(images)
    if rules is None:
        return
    requests = rules.destinations(reference)
    assert rules.destinations(reference) == requests
    pairs = [(request.source, request.destination) for request in requests]
    assert len(pairs) == len(set(pairs))
    explained = {destination for explanation in rules.explain(reference) for destination in explanation.destinations}
    assert explained == {request.destination for request in requests}
    for request in requests:
        assert request.source.repository == reference.repository
        assert request.source != request.destination
        assert request.destination.registry in rules.hosts
        assert rules.credentials(request.destination.repository) is not None
        assert request.destination.registry != ACR or request.destination.repository.name.count("/") == 1


@given(IMAGES, st.sampled_from(NAMES), st.lists(st.sampled_from(TAGS), unique=True))
def test_a_backfill_asks_for_what_pushes_would_have_asked_for(
    images: dict[str, Any], name: str, tags: list[str]
) -> None:
    rules = usable(images)
    if rules is None:
        return
    repository = Repository(HARBOR, name)
    requests = {(request.source, request.destination) for request in rules.requests(repository, tags, LABELS)}
    pushes = [Reference(repository, digest=SHA), *(Reference(repository, tag) for tag in TAGS)]
    pushed = [request for push in pushes for request in rules.destinations(push)]
    assert requests <= {(request.source, request.destination) for request in pushed}
    listed = {
        (request.source, request.destination)
        for request in pushed
        # Signatures that are pushed by digest stand in no list of tags.
        if (request.source.tag is None and not request.signature)
        or (
            request.source.tag in tags
            and (request.selection is None or request.source.tag in request.selection.select(tags, LABELS))
        )
    }
    assert listed <= requests
    written_out = {source.tag for source, _ in requests - listed}
    assert written_out <= {"1", "2"}


@given(IMAGES, REFERENCES, st.randoms(use_true_random=False))
def test_the_order_of_keys_makes_no_difference(
    images: dict[str, Any], reference: Reference, shuffle: random.Random
) -> None:
    rules = usable(images)
    if rules is None:
        return
    entries = [(explanation.rule, images[explanation.rule]) for explanation in rules.explain(reference)]
    shuffle.shuffle(entries)
    other = parse(text_of(dict(entries)), "x", environ={})
    assert text_requests(rules.destinations(reference)) == text_requests(other.destinations(reference))
    repository = reference.repository
    assert text_requests(rules.requests(repository, TAGS, LABELS)) == text_requests(
        other.requests(repository, TAGS, LABELS)
    )
    assert rules.hosts == other.hosts


@given(IMAGES)
def test_a_backfill_looks_through_every_repository_a_push_could_name(images: dict[str, Any]) -> None:
    rules = usable(images)
    if rules is None:
        return
    sources = rules.sources()
    for name in NAMES:
        repository = Repository(HARBOR, name)
        found = [source for source in sources if source.includes(name)]
        for source in found:
            assert source.project in (None, name.partition("/")[0])
        wanted = rules.requests(repository, TAGS, LABELS)
        assert found or not wanted
        if found and not found[0].needs_tags:
            assert rules.requests(repository, [], {}) == wanted


def asks(rules: Rules, repository: Repository, tags: list[str]) -> list[tuple[str, list[str]]]:
    """The requested copies, each with its rules, sorted."""
    return sorted(
        (json.dumps(asked.request.to_json(), sort_keys=True), sorted(asked.rules))
        for asked in rules.asked(repository, tags, LABELS)
    )


@given(IMAGES, st.dictionaries(st.sampled_from(TAGS), st.integers(0, 3)))
def test_tags_can_come_in_pages_unless_they_must_be_seen_together(
    images: dict[str, Any], paged: dict[str, int]
) -> None:
    rules = usable(images)
    if rules is None:
        return
    parts = [[tag for tag, page in paged.items() if page == number] for number in range(4)]
    for repository in (Repository(HARBOR, name) for name in NAMES):
        if rules.route(repository).whole:
            continue
        together = sorted(copy for part in parts for copy in asks(rules, repository, part))
        assert together == asks(rules, repository, list(paged))


@given(IMAGES, st.sampled_from(NAMES))
def test_every_copy_goes_where_its_route_leads(images: dict[str, Any], name: str) -> None:
    rules = usable(images)
    if rules is None:
        return
    route = rules.route(Repository(HARBOR, name))
    assert route.renaming <= route.destinations
    for request in rules.requests(Repository(HARBOR, name), TAGS, LABELS):
        if request.destination.tag is not None:
            assert request.destination.repository in route.destinations
            if request.destination.tag != request.source.tag:
                assert request.destination.repository in route.renaming


WORDS = st.sampled_from(
    "auth defaults images registry namespace username password insecure ca_file endpoint proxy anonymous quiet_pulls "
    "to tags include exclude semver latest platforms attestations signatures linux/amd64 auto "
    f"{HARBOR} {HARBOR}/a/* {HARBOR}/a/x:1 {ACR} <<".split()
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["", "${X}", f"{ACR}/a/b", "v*"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(), inner, max_size=4),
    max_leaves=15,
)


@given(st.dictionaries(st.sampled_from(["auth", "defaults", "images", "image"]), JSON, max_size=4))
@settings(max_examples=300)
def test_any_structure_is_rules_or_a_config_error(value: object) -> None:
    for text in (json.dumps(value), json.dumps(value).replace('"', "'")):
        error = error_in(text, environ={"X": "x"})
        assert error is None or (error.problems and str(error).encode())


SNIPPETS = st.sampled_from(
    [
        "images:",
        "auth:",
        f"{HARBOR}/a:",
        f" {HARBOR}/b: ''",
        "\n",
        "  ",
        "- ",
        "{",
        "}",
        "*a",
        "&a ",
        "<<: *a",
        ": ",
        "'",
        "!x ",
    ]
)


@given(st.text() | st.lists(SNIPPETS, max_size=12).map("".join))
@settings(max_examples=300)
def test_any_text_is_rules_or_a_config_error(text: str) -> None:
    error = error_in(text)
    assert error is None or error.problems


@given(
    st.text(min_size=6).filter(lambda text: "${" not in text),
    st.sampled_from(["username", "usernam", "insecure", "to"]),
)
def test_no_problem_repeats_a_password(password: str, other: str) -> None:
    secret = f"hunter2{password}hunter2"
    auth = AUTH | {HARBOR: {"password": secret, other: secret if other == "insecure" else "u"}}
    error = error_in(text_of({f"{HARBOR}/a/b": "", "wrong": ""}, auth=auth))
    assert error is not None
    assert "hunter2" not in str(error)
