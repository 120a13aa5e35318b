"""A listing asks for the copies that events would ask for, however tags are paged, and finds every collision."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from replicator.reference import Reference, Repository
from replicator.registry import Access, Registries
from replicator.replication.listing import Listing
from replicator.replication.tag_lists import TagInfo, TagLister, TagPage
from replicator.rules import Rules, find_collisions
from replicator.rules.collisions import ListingCollisions, collision_candidates
from tests.rules.building import HARBOR
from tests.rules.test_properties import IMAGES, LABELS, NAMES, SHA, TAGS, usable

if TYPE_CHECKING:
    from replicator.replication.listing import Batch
    from replicator.rules import CopyRequest

PAGED = st.dictionaries(st.sampled_from(TAGS), st.integers(0, 3))
INFO = TagInfo(SHA, 5, datetime(2026, 1, 1, tzinfo=UTC))


def text_of(request: CopyRequest) -> str:
    return json.dumps(request.to_json(), sort_keys=True)


def listed(rules: Rules, repository: Repository, paged: dict[str, int]) -> list[Batch]:
    """The batches for a repository's tags, of which each page has some."""
    registries = Registries(lambda _: Access())
    listing = Listing(rules, registries)
    pages: list[dict[str, TagInfo | None]] = [
        {tag: replace(INFO, labels=frozenset(LABELS[tag])) for tag, number in paged.items() if number == page}
        for page in range(4)
    ]
    if rules.route(repository).whole:
        pages = [{tag: info for page in pages for tag, info in page.items()}]
    return [listing._batch(TagPage(repository, page), TagLister(registries, ())) for page in pages]


def wanted_after_pushes(rules: Rules, repository: Repository, tags: list[str]) -> set[str]:
    """The copies that an event for each tag leads to, with the decisions made when they run."""
    pushes = [Reference(repository, digest=SHA), *(Reference(repository, tag) for tag in tags)]
    return {
        text_of(replace(request, selection=None))
        for push in pushes
        for request in rules.destinations(push)
        # Signatures pushed by digest are in no list of tags.
        if (request.source.tag is not None or not request.signature)
        and (request.selection is None or request.source.tag in request.selection.select(tags, LABELS))
    }


@given(IMAGES, PAGED)
@example(
    {
        f"{HARBOR}/a/*": "",
        f"{HARBOR}/a/x": {"to": "", "tags": {"labels": "prod", "latest": 1}, "attestations": "keep", "types": "all"},
    },
    {"1": 0, "1.10": 0},
)
@settings(max_examples=200, deadline=None)
def test_a_listing_asks_for_what_events_for_the_same_tags_ask(images: dict[str, Any], paged: dict[str, int]) -> None:
    rules = usable(images)
    if rules is None:
        return
    for repository in (Repository(HARBOR, name) for name in NAMES):
        found = [each for batch in listed(rules, repository, paged) for each in batch.found]
        asked = [text_of(each.asked.request) for each in found]
        assert len(asked) == len(set(asked))
        # Tags that the rules name are asked for whether they exist or not.
        # And the labels of a tag are looked at once more when its copy begins.
        wanted = [replace(each.asked.request, selection=None) for each in found]
        there = {text_of(request) for request in wanted if request.source.tag in (None, *paged)}
        assert there == wanted_after_pushes(rules, repository, list(paged))
        assert {each.asked.request.source.tag for each in found} - {None, *paged} <= {"1", "2"}
        for each in found:
            label = INFO if each.asked.request.source.tag in paged else None
            said = (label.digest, label.size, label.pushed) if label is not None else (None, None, None)
            assert (each.digest, each.size, each.pushed) == said


@given(IMAGES, st.dictionaries(st.sampled_from(NAMES), st.lists(st.sampled_from(TAGS), unique=True)))
def test_the_candidates_hold_every_collision(images: dict[str, Any], tags: dict[str, list[str]]) -> None:
    rules = usable(images)
    if rules is None:
        return
    repositories = {Repository(HARBOR, name): found for name, found in tags.items()}
    requests = [request for each, found in repositories.items() for request in rules.requests(each, found, LABELS)]
    seen = ListingCollisions(collision_candidates(map(rules.route, repositories)))
    # Twice, as a listing does: when it reads ahead, and when it yields.
    for request in requests * 2:
        seen.add(request)
    # Signatures that no rule asks for by name are at nobody's fault: equal images share their names.
    asked = [request for request in requests if not (request.signature and request.options.signatures is None)]
    expected = {collision.destination: collision for collision in find_collisions(asked)}
    assert {
        request.destination: collision for request in asked if (collision := seen.of(request)) is not None
    } == expected
