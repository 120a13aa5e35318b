"""Tags that a destination does not let be moved, and what a refusal of a tag's write means otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from replicator.copy import Copier, Result
from replicator.copy.options import CopyOptions, Overwrite
from replicator.errors import ErrorClass
from replicator.registry.errors import Denied, NotYet, ReadOnlyMode, Refused, RegistryError, TagImmutable
from replicator.replication.advice import explained, may_lack_repository
from replicator.replication.transfer import CopyFailed, transfer
from replicator.rules import CopyRequest
from tests.standins.faults import Answer, Cut, Fault
from tests.standins.images import blobs_of, image

if TYPE_CHECKING:
    from tests.copy.conftest import Pair

NEW, OLD = image(1), image(2)
TAG = "/manifests/v1$"
ACR = Answer(403, "DENIED", "The requested tag already exists and cannot be overwritten.")
HARBOR = Answer(412, "PRECONDITION", "Failed to process request due to 'team/app:v1' configured as immutable.")
OTHERS = Answer(400, "TAG_INVALID", "The image tag 'v1' already exists, the repository is immutable")
CONFLICT = Answer(409, "CONFLICT", "refused")
WORDLESS = Answer(403, "DENIED", "requested access to the resource is denied")
ACR_401 = Answer(401, "DENIED", ACR.message)


@pytest.fixture
async def differing(pair: Pair) -> Pair:
    """The destination's tag names another image than the source's."""
    await pair.source.push("v1", NEW)
    await pair.destination.push("v1", OLD)
    return pair


async def failing(pair: Pair, overwrite: Overwrite = Overwrite.ALWAYS) -> RegistryError:
    with pytest.raises(RegistryError) as raised:
        await pair.copy(overwrite=overwrite)
    await pair.destination.holds("v1", OLD)
    return raised.value


@pytest.mark.parametrize("answer", [ACR, HARBOR, OTHERS, CONFLICT, WORDLESS, ACR_401])
async def test_an_immutable_tag_is_a_permanent_error_that_says_what_it_holds(differing: Pair, answer: Answer) -> None:
    fault = differing.destination.faults.add(Fault(answer, "PUT", TAG, times=None))
    error = await failing(differing)
    assert (type(error), error.error_class, fault.hits) == (TagImmutable, ErrorClass.PERMANENT, 1)
    words = str(explained(error, differing.destination.reference("v1")))
    assert f"the tag is immutable, holds {OLD.digest}" in words
    assert answer.message in words
    assert not any(each in words for each in ("login", "namespace", "quota", "exists, or"))
    assert not may_lack_repository(error, differing.destination.reference("v1").repository)


@pytest.mark.parametrize("answer", [ACR, HARBOR])
async def test_a_tag_that_was_written_while_its_answer_was_lost_is_done(differing: Pair, answer: Answer) -> None:
    faults = differing.destination.faults
    faults.add(Fault(Cut(), "PUT", TAG))
    faults.add(Fault(answer, "PUT", TAG))
    outcome = await differing.copy()
    assert (outcome.result, outcome.replaced) == (Result.COPIED, OLD.digest)
    await differing.destination.holds("v1", NEW)


@pytest.mark.parametrize("answer", [ACR, HARBOR])
async def test_a_tag_of_a_signature_that_was_written_while_its_answer_was_lost_is_done(
    pair: Pair, answer: Answer
) -> None:
    tag = f"{NEW.digest.replace(':', '-')}.sig"
    await pair.source.push("v1", NEW)
    await pair.source.push(tag, OLD)
    faults = pair.destination.faults
    faults.add(Fault(Cut(), "PUT", f"/manifests/{tag}$"))
    refused = faults.add(Fault(answer, "PUT", f"/manifests/{tag}$"))
    outcome = await pair.copy(options=CopyOptions(signatures=True))
    assert (outcome.signatures, outcome.warnings, refused.hits) == (1, (), 1)
    await pair.destination.holds(tag, OLD)


async def test_a_denial_means_no_tag_where_nothing_shows_that_the_login_may_push(differing: Pair) -> None:
    await differing.copy(to="v0")
    differing.destination.faults.add(Fault(WORDLESS, "PUT", TAG))
    error = await failing(differing)
    assert type(error) is Denied
    assert may_lack_repository(error, differing.destination.reference("v1").repository)


async def test_a_quota_is_told_as_one(differing: Pair) -> None:
    differing.destination.faults.add(Fault(Answer(403, "DENIED", "it will exceed the quota"), "PUT", TAG))
    assert type(await failing(differing)) is Denied


async def test_a_write_that_is_refused_with_412_is_never_waited_for(pair: Pair) -> None:
    await pair.source.push("v1", NEW)
    pair.destination.faults.add(Fault(Answer(412, "PRECONDITION", "no"), "PUT", TAG))
    with pytest.raises(Refused) as raised:
        await pair.copy()
    assert raised.value.error_class is ErrorClass.PERMANENT
    assert not may_lack_repository(raised.value, pair.destination.reference("v1").repository)


@pytest.mark.parametrize("overwrite", [Overwrite.NEVER, Overwrite.OURS])
async def test_an_immutable_tag_that_may_not_be_replaced_anyway_is_left_alone(
    differing: Pair, overwrite: Overwrite
) -> None:
    fault = differing.destination.faults.add(Fault(ACR, "PUT", TAG))
    assert (await differing.copy(overwrite=overwrite)).result is Result.SKIPPED
    assert fault.hits == 0


@pytest.mark.parametrize(("overwrite", "written"), [(Overwrite.ALWAYS, True), (Overwrite.NEVER, False)])
async def test_what_the_destination_withholds_is_replaced_only_where_everything_may_be(
    differing: Pair, overwrite: Overwrite, *, written: bool
) -> None:
    log = differing.destination.faults.log
    differing.destination.faults.add(Fault(Answer(412, "PROJECTPOLICYVIOLATION"), "HEAD", TAG, times=None))
    differing.destination.faults.add(Fault(Answer(412, "PROJECTPOLICYVIOLATION"), "GET", TAG, times=None))
    if written:
        assert (await differing.copy(overwrite=overwrite)).result is Result.COPIED
    else:
        assert (await failing(differing, overwrite)).error_class is ErrorClass.PERMANENT
    assert log.count("PUT", TAG) == written


@pytest.mark.parametrize("at_source", [True, False])
async def test_only_a_gate_of_the_source_is_waited_for(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, *, at_source: bool
) -> None:
    request = CopyRequest(pair.source.reference("v1"), pair.destination.reference("v1"), "a rule")
    repository = (request.source if at_source else request.destination).repository

    async def withheld(*_: object, **__: object) -> None:
        raise NotYet("412").at(repository.registry, f"GET /v2/{repository.name}/manifests/v1")

    monkeypatch.setattr(Copier, "copy", withheld)
    with pytest.raises(CopyFailed) as raised:
        await transfer(pair.copier, request)
    assert raised.value.error_class is (ErrorClass.NOT_YET if at_source else ErrorClass.PERMANENT)


async def test_a_destination_in_read_only_mode_is_tried_again_later(pair: Pair) -> None:
    await pair.source.push("v1", NEW)
    words = "The system is in read only mode. Any modification is prohibited."
    fault = pair.destination.faults.add(Fault(Answer(403, "DENIED", words), "POST", times=None))
    with pytest.raises(ReadOnlyMode) as raised:
        await pair.copy()
    assert raised.value.error_class is ErrorClass.TRANSIENT
    said = str(explained(raised.value, pair.destination.reference("v1")))
    assert "the registry is in read-only mode" in said
    assert "exists" not in said
    assert fault.hits <= len(blobs_of(NEW)), "none is repeated at once"
    assert not may_lack_repository(raised.value, pair.destination.reference("v1").repository)
