"""The search for blobs in other repositories of the destination's registry: what it may cost, and what is shared."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

from replicator.copy import Result, ledger, survey
from replicator.registry import Timing
from tests.copy.conftest import Pair, a_copier
from tests.copy.mounting import BASE, MIB, OURS, SharedTexts, at, copy, reads
from tests.standins.faults import Answer, Fault, Hold
from tests.standins.images import blobs_of, image, index, layer, push

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from replicator.reference import Repository
    from replicator.registry import Registries


async def test_small_images_search_nothing(pair: Pair) -> None:
    pair.copier.expect(at(pair, "lib/a", "lib/b"))
    await copy(pair, image(1, (400_000, 500_000)))
    assert reads(pair) == (0, 0)


async def test_a_search_costs_no_more_than_the_blob_is_worth_and_the_next_one_goes_on(pair: Pair) -> None:
    names = [f"lib/r{number:02}" for number in range(20)]
    pair.copier.expect(at(pair, *names))
    for number, most in enumerate((8, 16, 20, 20)):
        await copy(pair, image(20 + number, (MIB,)))
        assert reads(pair)[0] <= most
    asked = [entry.path for entry in pair.destination.faults.log.select("GET", "/tags/list")]
    assert sorted(asked) == [f"/v2/{name}/tags/list" for name in names]


async def test_the_layers_of_an_image_share_what_a_search_may_cost(pair: Pair) -> None:
    pair.copier.expect(at(pair, *(f"lib/r{number:02}" for number in range(20))))
    root = image(3, (100_000,) * 12)
    assert sum(blob.size for blob in blobs_of(root)) // ledger.BYTES_A_REQUEST == 9
    await copy(pair, root)
    assert reads(pair) == (9, 0)


async def test_the_images_of_an_index_count_and_are_read_by_the_next_search(pair: Pair) -> None:
    others = [image(number, (100,), architecture=f"a{number}") for number in range(3)]
    root = index([*others, image(3, (100,), base=[BASE], architecture="a3")])
    for name in ("lib/a", "lib/b"):
        await push(pair.destination.plain, name, "v1", root)
    pair.copier.expect(at(pair, "lib/a", "lib/b"))
    await copy(pair, image(20, (MIB,)))
    assert sum(reads(pair)) == ledger.FEWEST_REQUESTS
    assert (await copy(pair, OURS)).blobs_mounted == 1
    await copy(pair, image(22, (MIB,)))
    assert reads(pair) == (2, 2 * 5), "a manifest was read twice or never"


async def test_every_page_of_a_list_counts(pair: Pair) -> None:
    original = pair.destination.faults._handler

    async def paged(request: web.BaseRequest) -> web.StreamResponse:
        if not request.path.endswith("/tags/list"):
            return await original(request)
        following = int(request.query.get("last", "0")) + 1
        headers = {"Link": f'<{request.path}?last={following}>; rel="next"'}
        return web.json_response({"name": "x", "tags": [f"t{following}"]}, headers=headers)

    pair.destination.faults._handler = paged
    pair.copier.expect(at(pair, "lib/a", "lib/b"))
    await copy(pair, image(20, (MIB,)))
    assert sum(reads(pair)) == ledger.FEWEST_REQUESTS


async def test_what_comparisons_see_of_one_repository_is_bounded(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "MOST_MANIFESTS", 2)
    now = 0.0
    searches = pair.copier._survey
    searches._clock = lambda: now
    (repository,) = at(pair, "lib/filled")
    for number in range(3):
        await push(pair.destination.plain, "lib/filled", f"v{number}", root := image(number, (100,)))
        searches.seen(repository, root.digest)
        await copy(pair, image(20 + number, (MIB,)))
    assert reads(pair)[1] == 2
    # A week after its list was read, the repository is read as it is then.
    now = survey.READ_SECONDS
    await push(pair.destination.plain, "lib/filled", "v9", image(9, (100,), base=[BASE]))
    assert (await copy(pair, OURS)).blobs_mounted == 1


async def test_many_copies_at_once_read_each_repository_once(pair: Pair) -> None:
    for number in range(4):
        await push(
            pair.destination.plain, f"lib/filled{number}", "v1", image(number, (100,), base=[layer(number, MIB)])
        )
    pair.copier.expect(at(pair, *(f"lib/filled{number}" for number in range(4))))
    roots = [image(30 + number, (100,), base=[layer(number, MIB)]) for number in range(4)]
    outcomes = await asyncio.gather(*(copy(pair, root, f"lib/ours{n}") for n, root in enumerate(roots)))
    assert [outcome.blobs_mounted for outcome in outcomes] == [1] * 4
    assert reads(pair) == (4, 4)


async def test_of_many_repositories_less_is_read_of_each(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "ALL_MANIFESTS", 6)
    for name in ("lib/a", "lib/b", "lib/c"):
        for number in range(4):
            await push(pair.destination.plain, name, f"v{number}", image(number, (100,)))
    pair.copier.expect(at(pair, "lib/a", "lib/b", "lib/c"))
    for number in range(3):
        await copy(pair, image(40 + number, (MIB,)), "lib/a")
    asked = [entry.path.partition("/lib/")[2] for entry in pair.destination.faults.log.select("GET", "/manifests/v")]
    assert sorted(asked) == ["b/manifests/v2", "b/manifests/v3", "c/manifests/v2", "c/manifests/v3"]


async def test_what_a_comparison_sees_of_others_is_read_although_the_repository_was(pair: Pair) -> None:
    ends = pair.source.reference("v1", "lib/filled"), pair.destination.reference("v1", "lib/filled")
    pair.copier.expect(at(pair, "lib/filled"))
    await copy(pair, image(4, (MIB,)))
    assert reads(pair) == (1, 0)
    root = image(1, (100,), base=[BASE])
    for registry in (pair.source, pair.destination):
        await push(registry.plain, "lib/filled", "v1", root)
    for _ in range(2):
        assert (await pair.copier.compare(*ends, announced=root.digest)).result is Result.UP_TO_DATE
    assert (await copy(pair, OURS)).blobs_mounted == 1
    assert (await pair.copier.compare(*ends, announced=root.digest)).result is Result.UP_TO_DATE
    await copy(pair, image(5, (MIB,)))
    assert reads(pair) == (1, 1)


async def test_what_we_put_into_a_repository_is_not_read(pair: Pair) -> None:
    for number in range(3):
        await copy(pair, image(40 + number, (MIB,)), "lib/a")
        tag = pair.destination.reference("v1", "lib/a")
        await pair.source.push("v1", image(40 + number, (MIB,)))
        await pair.copier.copy(pair.source.reference("v1"), tag)
        await copy(pair, image(50 + number, (MIB,)), "lib/b")
    assert reads(pair)[1] == 0


async def test_a_repository_is_read_again_a_week_later(pair: Pair) -> None:
    now = 0.0
    pair.copier._survey._clock = lambda: now
    pair.copier.expect(at(pair, "lib/filled"))
    await copy(pair, image(1, (MIB,)))
    now = survey.READ_SECONDS - 1
    await copy(pair, image(2, (MIB,)))
    assert reads(pair) == (1, 0)
    await push(pair.destination.plain, "lib/filled", "v1", image(3, (100,), base=[BASE]))
    now = survey.READ_SECONDS
    assert (await copy(pair, OURS)).blobs_mounted == 1


async def test_a_repository_that_does_not_answer_delays_a_copy_for_seconds_alone(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "LEAST_SECONDS", 0.05)
    monkeypatch.setattr(survey, "_BYTES_A_SECOND", 100 * MIB)
    hold = Hold()
    pair.destination.faults.add(Fault(hold, "GET", "/tags/list", times=None))
    pair.copier.expect(at(pair, "lib/silent"))
    try:
        await copy(pair, OURS)
    finally:
        hold.released.set()


async def test_a_repository_that_fails_is_left_alone_for_minutes(pair: Pair) -> None:
    now = 0.0
    pair.copier._survey._clock = lambda: now
    await push(pair.destination.plain, "lib/filled", "v1", image(1, (100,), base=[BASE]))
    pair.hurry(pair.destination, Timing(attempts=1))
    failing = pair.destination.faults.add(Fault(Answer(500), "GET", "/tags/list"))
    pair.copier.expect(at(pair, "lib/filled"))
    await copy(pair, image(4, (MIB,)))
    await copy(pair, image(5, (MIB,)))
    assert (failing.hits, reads(pair)) == (1, (1, 0))
    now = 3600.0
    assert (await copy(pair, OURS)).blobs_mounted == 1


async def test_what_one_process_has_read_another_does_not_read_again(pair: Pair) -> None:
    for number in range(3):
        await push(pair.destination.plain, "lib/filled", f"v{number}", image(number, (100,), base=[layer(number, MIB)]))
    shelf = SharedTexts()
    async with a_copier(survey_store=shelf) as first, a_copier(survey_store=shelf) as second:
        for copier, root, read in ((first, layer(2, MIB), "v2"), (second, layer(0, MIB), "v0")):
            pair.copier = copier
            copier.expect(at(pair, "lib/filled"))
            assert (await copy(pair, image(root.size % 97, (100,), base=[root]), f"lib/for-{read}")).blobs_mounted == 1
    asked = [entry.path.rpartition("/")[2] for entry in pair.destination.faults.log.select("GET", "/manifests/")]
    assert asked == ["v2", "v1", "v0"]


async def test_what_others_noted_in_another_form_fails_nothing(pair: Pair) -> None:
    await push(pair.destination.plain, "lib/filled", "v1", image(1, (100,), base=[BASE]))
    for number, text in enumerate(("x", "99999999999999999 1", "1 16")):
        shelf = SharedTexts()
        async with a_copier(survey_store=shelf) as copier:
            pair.copier = copier
            copier.expect(at(pair, "lib/filled"))
            shelf.texts = {place.name: text for place in copier._survey._places[pair.destination.host].values()}
            assert (await copy(pair, OURS, f"lib/r{number}")).blobs_mounted == 1


async def test_neighbours_are_asked_for_once_and_not_at_all_if_a_list_was_read(pair: Pair) -> None:
    asked: list[str] = []
    await push(pair.destination.plain, "lib/filled", "v1", image(1, (100,), base=[BASE]))

    async def neighbours(_: Registries, name: Callable[[Repository], object]) -> None:
        asked.append("asked")
        name(*at(pair, "lib/filled"))

    async with a_copier(neighbours=neighbours) as copier:
        pair.copier = copier
        await copy(pair, image(4, (100,)))
        assert asked == []
        assert (await copy(pair, OURS)).blobs_mounted == 1
        await copy(pair, image(5, (MIB,)))
        assert asked == ["asked"]
    asked.clear()
    async with a_copier(neighbours=neighbours) as copier:
        pair.copier = copier
        copier.expect(at(pair, "lib/filled"), whole=True)
        await copy(pair, image(6, (MIB,)))
    assert asked == []


async def test_a_blob_that_comes_while_neighbours_are_listed_waits_for_them_too(pair: Pair) -> None:
    await push(pair.destination.plain, "lib/filled", "v1", image(1, (100,), base=[BASE]))
    found: list[bool] = []

    async def neighbours(registries: Registries, name: Callable[[Repository], object]) -> None:
        target, filled = at(pair, "lib/late", "lib/filled")
        found.append(copier._survey.may_find(registries.destination(target)))
        name(filled)

    async with a_copier(neighbours=neighbours) as copier:
        pair.copier = copier
        assert (await copy(pair, OURS)).blobs_mounted == 1
    assert found == [True]


async def test_of_a_list_of_neighbours_that_never_ends_is_used_what_it_has_named(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "LEAST_SECONDS", 0.2)
    monkeypatch.setattr(survey, "_BYTES_A_SECOND", 100 * MIB)
    await push(pair.destination.plain, "lib/filled", "v1", image(1, (100,), base=[BASE]))

    async def neighbours(_: Registries, name: Callable[[Repository], object]) -> None:
        name(*at(pair, "lib/filled"))
        await asyncio.Event().wait()

    async with a_copier(neighbours=neighbours) as copier:
        pair.copier = copier
        await copy(pair, image(4, (MIB,)))
        monkeypatch.undo()
        assert (await copy(pair, OURS)).blobs_mounted == 1


async def test_what_is_known_of_repositories_is_bounded(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "MOST_REPOSITORIES", 3)
    searches = pair.copier._survey
    for number in range(10):
        (repository,) = at(pair, f"lib/r{number}")
        for seed in range(10):
            searches.seen(repository, f"sha256:{seed:064}")
    (places,) = searches._places.values()
    assert list(places) == ["lib/r7", "lib/r8", "lib/r9"]
    assert {len(place.unread) for place in places.values()} == {4}
