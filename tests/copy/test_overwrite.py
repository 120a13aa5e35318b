"""Tags at a destination that name another image: what a copy replaces is told, or left alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from replicator.copy import Comparison, Outcome, Result
from replicator.copy.options import Overwrite
from tests.standins.faults import Answer, Fault
from tests.standins.images import image

if TYPE_CHECKING:
    from tests.copy.conftest import Pair

NEW, OLD, THEIRS = image(1), image(2), image(3)


@pytest.fixture
async def differing(pair: Pair) -> Pair:
    """The destination's tag names another image than the source's."""
    await pair.source.push("v1", NEW)
    await pair.destination.push("v1", OLD)
    return pair


async def test_a_copy_tells_what_it_replaced_without_another_request(differing: Pair) -> None:
    log = differing.destination.faults.log
    outcome = await differing.copy()
    assert outcome.replaced == OLD.digest
    assert Outcome.from_json(outcome.to_json()).replaced == OLD.digest
    assert log.count("HEAD", "/manifests/v1$") == 1


async def test_a_missing_tag_and_one_that_is_right_replace_nothing(pair: Pair) -> None:
    await pair.source.push("v1", NEW)
    copied, again = await pair.copy(), await pair.copy()
    forced = await pair.copy(force=True)
    assert [copied.result, again.result, forced.result] == [Result.COPIED, Result.UP_TO_DATE, Result.COPIED]
    assert [copied.replaced, again.replaced, forced.replaced] == [None, None, None]
    assert "replaced" not in copied.to_json()


@pytest.mark.parametrize("announced", [NEW.digest, None])
async def test_a_forced_copy_tells_what_it_replaced(differing: Pair, announced: str | None) -> None:
    outcome = await differing.copy(force=True, announced=announced)
    assert (outcome.result, outcome.replaced) == (Result.COPIED, OLD.digest)


async def test_a_tag_that_was_seen_to_be_absent_is_not_asked_again(pair: Pair) -> None:
    await pair.source.push("v1", NEW)
    outcome = await pair.copy(announced=NEW.digest, absent=True)
    assert outcome.result is Result.COPIED
    assert pair.destination.faults.log.count("HEAD", "/manifests/") == 0


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    ("overwrite", "own", "copied"),
    [
        (Overwrite.ALWAYS, (), True),
        (Overwrite.OURS, (OLD.digest,), True),
        (Overwrite.OURS, (THEIRS.digest,), False),
        (Overwrite.NEVER, (OLD.digest,), False),
    ],
)
async def test_a_tag_is_replaced_as_far_as_the_rule_says(
    differing: Pair, overwrite: Overwrite, own: tuple[str, ...], *, copied: bool, force: bool
) -> None:
    outcome = await differing.copy(overwrite=overwrite, own=own, force=force)
    await differing.destination.holds("v1", NEW if copied else OLD)
    if copied:
        assert (outcome.result, outcome.replaced) == (Result.COPIED, OLD.digest)
        return
    where = differing.destination.reference("v1")
    assert (outcome.result, outcome.replaced) == (Result.SKIPPED, None)
    assert outcome.note == f"not replaced: {where} holds {OLD.digest}, overwrite: {overwrite}"
    assert differing.destination.faults.log.count("POST", "") == 0


@pytest.mark.parametrize("overwrite", [Overwrite.OURS, Overwrite.NEVER])
async def test_a_missing_tag_is_filled_whatever_may_be_replaced(pair: Pair, overwrite: Overwrite) -> None:
    await pair.source.push("v1", NEW)
    assert (await pair.copy(overwrite=overwrite)).result is Result.COPIED
    assert (await pair.copy(overwrite=overwrite)).result is Result.UP_TO_DATE


async def test_a_tag_that_somebody_set_while_blobs_were_sent_is_left_alone(pair: Pair) -> None:
    await pair.source.push("v1", NEW)
    await pair.destination.push("v1", THEIRS)
    # As when the comparison came before that push.
    fault = pair.destination.faults.add(Fault(Answer(404, "MANIFEST_UNKNOWN"), "HEAD", "/manifests/v1$", times=1))
    outcome = await pair.copy(overwrite=Overwrite.NEVER)
    assert fault.hits == 1
    assert outcome.result is Result.SKIPPED
    absent = await pair.copy(overwrite=Overwrite.OURS, announced=NEW.digest, absent=True)
    assert absent.result is Result.SKIPPED
    await pair.destination.holds("v1", THEIRS)


async def test_what_is_about_to_be_written_is_told_before_its_confirmation(differing: Pair) -> None:
    told: list[object] = []

    async def confirm() -> None:
        told.append("confirmed")

    await differing.copy(writing=lambda *facts: told.append(facts), confirm=confirm)
    assert told == [(NEW.digest, OLD.digest), "confirmed"]


async def test_a_comparison_tells_what_would_be_replaced_from_what_is_missing(differing: Pair) -> None:
    async def compared(tag: str) -> Comparison:
        source, destination = differing.source.reference("v1"), differing.destination.reference(tag)
        return await differing.copier.compare(source, destination, announced=NEW.digest)

    assert (await compared("v1")).replaced == OLD.digest
    assert (await compared("v2")).replaced is None
    await differing.copy()
    assert (await compared("v1")).replaced is None
