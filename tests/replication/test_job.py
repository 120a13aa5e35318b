"""Jobs of the queue, run against a Harbor and an ACR."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest
import structlog

from replicator.aliyun.acr import EDITIONS
from replicator.copy import Copier, Outcome, Result, SourceNotFound
from replicator.errors import ErrorClass, ReplicatorError
from replicator.queue import Lane, Running
from replicator.queue.records import TagRecord
from replicator.reference import Reference
from replicator.registry import Registries, RequestObserver
from replicator.replication.advice import SETTLING_SECONDS
from replicator.replication.enqueue import answered, job_for
from replicator.replication.job import Handler
from replicator.replication.transfer import CopyFailed, access_by
from replicator.rules import CopyRequest, Rules, parse
from tests.standins.faults import Answer, Fault
from tests.standins.images import attestation, cosign_tag, image, index, multi_arch, push, referrer, verify_tree
from tests.standins.logins import ACR_USER, HARBOR_ROBOT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from replicator.queue import Observed
    from tests.standins.acr import AcrStandIn
    from tests.standins.harbor import HarborStandIn


@dataclass
class Job:
    """A job as the queue hands it over, without the queue."""

    payload: Mapping[str, Any]
    tries: int = 1
    lane: Lane = Lane.EVENTS
    id: str = "x"
    merged: bool = False
    lapsed: bool = False
    pushed: datetime | None = None
    enqueued_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    confirmed: int = 0
    read: list[int] = field(default_factory=list)
    seconds: float = 0.0
    owned: TagRecord = field(default_factory=TagRecord)
    noted: list[TagRecord] = field(default_factory=list)
    observed: Observed | None = None
    lag: float | None = None

    def failing(self, _: ErrorClass) -> float:
        return self.seconds

    def own(self, record: TagRecord) -> None:
        self.noted.append(record)

    async def confirm(self) -> None:
        self.confirmed += 1

    def answered(self) -> None:
        pass

    def progress(self, number: int, size: int = 0) -> None:
        self.read.append(number)


def rules_of(harbor: HarborStandIn, acr: AcrStandIn, more: str = "") -> Rules:
    """Read the rules, with ``more`` behind the destination, e.g. ``, signatures: true``."""
    text = f"""
        auth:
          {harbor.host}: {{username: '{HARBOR_ROBOT[0]}', password: '{HARBOR_ROBOT[1]}', insecure: true}}
          {acr.host}: {{username: '{ACR_USER[0]}', password: '{ACR_USER[1]}', insecure: true}}
        images:
          {harbor.host}/team/app: {{to: {acr.host}/cache/app{more}}}
        """
    return parse(text, "rules", environ={})


@asynccontextmanager
async def handling(rules: Rules) -> AsyncIterator[Handler]:
    async with Registries(access_by(rules.credentials)) as registries:
        yield Handler(Copier(registries))


def request(rules: Rules, harbor: HarborStandIn, tag: str) -> CopyRequest:
    (found,) = rules.destinations(Reference.parse(f"{harbor.host}/team/app:{tag}"))
    return found


async def run(handler: Handler, work: Job) -> dict[str, Any]:
    return dict(await handler(cast("Running", work)))


@pytest.mark.parametrize("lane", Lane)
async def test_a_push_is_under_way_while_its_job_runs_and_a_backfill_s_job_is_none(
    harbor_upstream: str, harbor: HarborStandIn, acr: AcrStandIn, lane: Lane
) -> None:
    await push(harbor_upstream, "team/app", "v1", image(1))
    rules = rules_of(harbor, acr)
    async with handling(rules) as handler, AsyncExitStack() as stack:
        courtesy = handler._copier.registries.courtesy
        steps = [asyncio.create_task(stack.enter_async_context(courtesy.step())) for _ in range(40)]
        taken = 0

        class Watched(Job):
            async def confirm(self) -> None:
                nonlocal taken
                taken = sum(step.done() for step in steps)

        await run(handler, Watched(job_for(request(rules, harbor, "v1")).payload, lane=lane))
        assert taken == (4 if lane is Lane.EVENTS else 40)
        await asyncio.gather(*steps)


def test_a_job_is_named_by_its_destination_and_carries_no_digest() -> None:
    digest = "sha256:" + "a" * 64
    source = Reference.parse("harbor.example.com/team/app:v1")
    made = job_for(
        CopyRequest(source, Reference.parse("registry.cn-beijing.aliyuncs.com/ns/app:v1"), "rule"), retries=3
    )
    assert made.id == "registry.cn-beijing.aliyuncs.com/ns/app:v1"
    assert made.retries == 3
    assert digest not in str(made.payload)
    assert CopyRequest.from_json(made.payload).source == source


async def test_a_copy_is_confirmed_before_its_tag_is_written(harbor: HarborStandIn, acr: AcrStandIn) -> None:
    root = image(1, (50_000,))
    await push(harbor.host, "team/app", "v1", root, HARBOR_ROBOT)
    rules = rules_of(harbor, acr)
    work = Job(request(rules, harbor, "v1").to_json())
    async with handling(rules) as handler:
        outcome = await run(handler, work)
    assert (outcome["result"], outcome["digest"]) == ("copied", root.digest)
    assert work.confirmed == 1
    assert work.read == sorted(work.read)
    assert work.read[-1] == sum(blob.size for blob in root.blobs)


async def test_a_forced_request_is_copied_again(harbor: HarborStandIn, acr: AcrStandIn) -> None:
    await push(harbor.host, "team/app", "v1", image(), HARBOR_ROBOT)
    rules = rules_of(harbor, acr)
    asked = request(rules, harbor, "v1")
    async with handling(rules) as handler:
        outcomes = [
            (await run(handler, Job(replace(asked, force=force).to_json())))["result"] for force in (False, False, True)
        ]
    assert outcomes == ["copied", "up to date", "copied"]
    assert acr.faults.log.count("PUT", "/manifests/v1", 201) == 2


async def test_a_host_that_the_rules_do_not_name_is_not_contacted(harbor: HarborStandIn, acr: AcrStandIn) -> None:
    """Write access to the queue is not enough to make a worker contact another host, or send a password there."""
    rules = rules_of(harbor, acr)
    foreign = Reference.parse("127.0.0.1:9/team/app:v1")
    known = request(rules, harbor, "v1")
    async with handling(rules) as handler:
        for source, destination in ((foreign, known.destination), (known.source, foreign)):
            with pytest.raises(CopyFailed, match="no credentials") as caught:
                await run(handler, Job(CopyRequest(source, destination, "rule").to_json()))
            assert caught.value.error_class is ErrorClass.CREDENTIALS
    assert len(acr.faults.log) == len(harbor.faults.log) == 0


@pytest.mark.parametrize("payload", [{}, {"source": 1}, {"source": "x", "destination": "y", "rule": "z"}, {"rule": []}])
async def test_a_payload_that_is_not_a_copy_request_fails_permanently(
    harbor: HarborStandIn, acr: AcrStandIn, payload: dict[str, Any]
) -> None:
    async with handling(rules_of(harbor, acr)) as handler:
        with pytest.raises(CopyFailed, match="can't be read") as caught:
            await run(handler, Job(payload))
    assert caught.value.error_class is ErrorClass.PERMANENT


async def test_a_missing_source_is_retried_and_then_counts_as_gone(harbor: HarborStandIn, acr: AcrStandIn) -> None:
    rules = rules_of(harbor, acr)
    payload = request(rules, harbor, "deleted").to_json()
    async with handling(rules) as handler:
        for work in (Job(payload), Job(payload, tries=2, seconds=20), Job(payload, tries=9, seconds=119)):
            with pytest.raises(SourceNotFound) as caught:
                await run(handler, work)
            assert caught.value.error_class is ErrorClass.NOT_YET
            # So that the third attempt of a backfill, which has no more, comes late enough.
            assert caught.value.retry_after == (100 if work.tries == 2 else None)
        with structlog.testing.capture_logs() as logs:
            outcome = await run(handler, Job(payload, tries=3, seconds=120))
    assert outcome["result"] == "source gone"
    assert [line["log_level"] for line in logs if line["event"] == "copy done"] == ["warning"]
    assert acr.faults.log.count("PUT") == 0


async def test_a_gate_of_harbor_is_retried_slowly_and_keeps_its_reason(harbor: HarborStandIn, acr: AcrStandIn) -> None:
    """Later attempts ask with HEAD, whose answer has no body."""
    await push(harbor.host, "team/app", "v1", image(), HARBOR_ROBOT)
    rules = rules_of(harbor, acr)
    payload = replace(request(rules, harbor, "v1"), announced=image().digest).to_json()
    harbor.gated.add("team/app")
    async with handling(rules) as handler:
        for tries in (1, 2, 3):
            with pytest.raises(ReplicatorError) as caught:
                await run(handler, Job(payload, tries=tries))
            assert caught.value.error_class is ErrorClass.NOT_YET
            assert "current image without vulnerability scanning cannot be pulled" in str(caught.value)
            assert "copies in the queue are tried again, at once after a scan" in str(caught.value)
        harbor.gated.clear()
        assert harbor.pulls == []
        assert (await run(handler, Job(payload, tries=4)))["result"] == "copied"
    # The gate has nothing to do with how the registry takes HEAD.
    assert harbor.faults.log.select("HEAD", "/manifests/")[-1].status == 200


async def test_a_tag_that_is_not_among_the_latest_when_its_job_runs_is_skipped(
    harbor: HarborStandIn, acr: AcrStandIn
) -> None:
    rules = rules_of(harbor, acr, ", tags: {latest: 2}")
    for number in (1, 2, 3):
        await push(harbor.host, "team/app", f"v{number}", image(number), HARBOR_ROBOT)
    async with handling(rules) as handler:
        outcomes = {
            tag: (await run(handler, Job(request(rules, harbor, tag).to_json())))["result"]
            for tag in ("v1", "v2", "v3")
        }
    assert outcomes == {"v1": "skipped", "v2": "copied", "v3": "copied"}


async def test_a_refused_push_says_what_to_check(harbor: HarborStandIn, acr: AcrStandIn) -> None:
    await push(harbor.host, "team/app", "v1", image(), HARBOR_ROBOT)
    rules = rules_of(harbor, acr)
    acr.namespaces["cache"] = False
    async with handling(rules) as handler:
        with pytest.raises(CopyFailed, match="Automatically Create Repository") as caught:
            await run(handler, Job(request(rules, harbor, "v1").to_json()))
    assert caught.value.error_class in (ErrorClass.PERMANENT, ErrorClass.CREDENTIALS)
    assert "namespace 'cache'" in str(caught.value)
    assert ACR_USER[1] not in str(caught.value)


async def test_a_signature_is_copied_as_one_whether_named_by_tag_or_by_digest(
    harbor: HarborStandIn, acr: AcrStandIn, acr_upstream: str
) -> None:
    root, signature = multi_arch(1), image(50)
    attached = referrer(root, as_image=True)
    rules = rules_of(harbor, acr, ", signatures: true")
    for name, one in (("v1", root), (cosign_tag(root), signature), (attached.digest, attached)):
        await push(harbor.host, "team/app", name, one, HARBOR_ROBOT)
    where = [f"{harbor.host}/team/app{name}" for name in (f":{cosign_tag(root)}", f"@{attached.digest}")]
    requests = [found for text in where for found in rules.destinations(Reference.parse(text))]
    assert [found.signature for found in requests] == [True, True]
    async with handling(rules) as handler:
        for found in requests:
            outcome = await run(handler, Job(found.to_json()))
            assert (outcome["result"], outcome["digest"]) == ("skipped", None)
            assert root.digest in outcome["note"]
        assert acr.faults.log.count("PUT") == acr.faults.log.count("POST") == 0
        await push(acr_upstream, "cache/app", "v1", root)
        for found, one in zip(requests, (signature, attached), strict=True):
            outcome = await run(handler, Job(found.to_json()))
            assert (outcome["result"], outcome["digest"], outcome["signatures"]) == ("copied", one.digest, 1)
    await verify_tree(acr_upstream, "cache/app", cosign_tag(root), signature)
    await verify_tree(acr_upstream, "cache/app", attached.digest, attached)


async def test_a_missing_signature_is_retried_as_often_as_a_missing_tag(
    harbor: HarborStandIn, acr: AcrStandIn, acr_upstream: str
) -> None:
    root = image(1)
    await push(acr_upstream, "cache/app", "v1", root)
    rules = rules_of(harbor, acr, ", signatures: true")
    async with handling(rules) as handler:
        for name in (f":{cosign_tag(root)}", f"@{referrer(root).digest}"):
            (found,) = rules.destinations(Reference.parse(f"{harbor.host}/team/app{name}"))
            with pytest.raises(SourceNotFound):
                await run(handler, Job(found.to_json(), tries=2))
            gone = await run(handler, Job(found.to_json(), tries=3, seconds=120))
            assert gone["result"] == "source gone"


@pytest.mark.parametrize(("selection", "result"), [(False, "copied"), (True, "skipped")])
async def test_jobs_queued_by_an_older_version_are_run(
    harbor: HarborStandIn, acr: AcrStandIn, selection: bool, result: str
) -> None:
    """Without options, signatures and digests in the payload, everything is copied byte for byte."""
    root = multi_arch(1, attested=True)
    for tag in ("v1", "v2"):
        await push(harbor.host, "team/app", tag, root, HARBOR_ROBOT)
    payload: dict[str, Any] = {
        "source": f"{harbor.host}/team/app:v1",
        "destination": f"{acr.host}/cache/app:v1",
        "rule": f"{harbor.host}/team/app",
    }
    if selection:
        payload["selection"] = {"include": ["v*"], "latest": 1}
    async with handling(rules_of(harbor, acr)) as handler:
        outcome = await run(handler, Job(payload))
    assert outcome["result"] == result
    if result == "copied":
        assert (outcome["digest"], outcome["note"]) == (root.digest, "")


@pytest.mark.parametrize("word", [{"announced": "v1"}, {"options": {"platforms": ["amd64"]}}])
async def test_a_job_with_invalid_values_fails_permanently(
    harbor: HarborStandIn, acr: AcrStandIn, word: dict[str, Any]
) -> None:
    rules = rules_of(harbor, acr)
    async with handling(rules) as handler:
        with pytest.raises(CopyFailed, match="can't be read") as caught:
            await run(handler, Job({**request(rules, harbor, "v1").to_json(), **word}))
    assert caught.value.error_class is ErrorClass.PERMANENT
    assert len(harbor.faults.log) == len(acr.faults.log) == 0


@pytest.mark.parametrize(
    ("result", "announced", "hosts"),
    [
        (Result.COPIED, True, {"harbor.example.com", "acr.example.com"}),
        (Result.UP_TO_DATE, False, {"harbor.example.com", "acr.example.com"}),
        (Result.UP_TO_DATE, True, {"acr.example.com"}),
        (Result.SOURCE_GONE, True, {"harbor.example.com"}),
        (Result.SKIPPED, True, set()),
    ],
)
def test_a_registry_counts_as_heard_only_where_the_outcome_took_its_answer(
    result: Result, announced: bool, hosts: set[str]
) -> None:
    source, destination = Reference.parse("harbor.example.com/app:v1"), Reference.parse("acr.example.com/app:v1")
    asked = CopyRequest(source, destination, "rule", announced="sha256:" + "a" * 64 if announced else None)
    assert answered(asked.to_json(), Outcome(result, str(source), str(destination)).to_json()) == hosts


MISSING = Answer(404, "NOT_FOUND", "blob not found")


@pytest.mark.parametrize("empty", [True, False])
async def test_a_layer_that_is_not_served_whole_seconds_after_its_push_is_not_yet_there(
    acr_upstream: str, harbor: HarborStandIn, acr: AcrStandIn, empty: bool
) -> None:
    root = image(1)
    await push(harbor.host, "team/app", "v1", root, HARBOR_ROBOT)
    rules = rules_of(harbor, acr)
    if empty:
        harbor.empty_seconds = 3600.0
    else:
        harbor.faults.add(Fault(MISSING, "GET", "/blobs/", times=None))
    pushed = datetime.now(UTC) - timedelta(seconds=3)
    async with handling(rules) as handler:
        payload = job_for(request(rules, harbor, "v1")).payload
        for work in (Job(payload, pushed=pushed), Job(payload, tries=4)):
            with pytest.raises(CopyFailed, match=r"pushed \d+ s ago, .*until 10 minutes after the push") as caught:
                await run(handler, work)
            assert caught.value.error_class is ErrorClass.NOT_YET
            assert caught.value.do == "nothing: it is retried automatically until 10 minutes after the push"
        for work in (
            Job(payload, pushed=pushed - timedelta(seconds=SETTLING_SECONDS)),
            Job(payload, lane=Lane.BACKFILL),
        ):
            with pytest.raises(CopyFailed) as caught:
                await run(handler, work)
            assert caught.value.error_class is ErrorClass.PERMANENT
            assert empty or "push it there again" in caught.value.do
        harbor.faults.faults.clear()
        harbor.empty_seconds = 0.0
        assert (await run(handler, Job(payload, tries=2, pushed=pushed)))["result"] == Result.COPIED
    await verify_tree(acr_upstream, "cache/app", "v1", root)


async def test_what_the_destination_lacks_after_a_push_is_no_reason_to_wait_for_the_source(
    harbor_upstream: str, harbor: HarborStandIn, acr: AcrStandIn
) -> None:
    await push(harbor_upstream, "team/app", "v1", image(1))
    rules = rules_of(harbor, acr)
    acr.faults.add(Fault(MISSING, "POST", "/blobs/uploads/", times=None))
    async with handling(rules) as handler:
        with pytest.raises(CopyFailed) as caught:
            await run(handler, Job(job_for(request(rules, harbor, "v1")).payload, pushed=datetime.now(UTC)))
    assert caught.value.error_class is not ErrorClass.NOT_YET


@pytest.mark.parametrize("more", ["", ", attestations: keep"])
async def test_a_registry_of_any_name_gets_what_acr_gets_once_it_has_said_that_it_is_one(
    harbor_upstream: str, harbor: HarborStandIn, acr: AcrStandIn, more: str
) -> None:
    attested = index([image(1), attestation(image(1), empty_config=True)])
    await push(harbor_upstream, "team/app", "v1", attested)
    rules = rules_of(harbor, acr, more)
    work, observer = Job(request(rules, harbor, "v1").to_json()), RequestObserver(challenged=EDITIONS.learn)
    async with Registries(access_by(rules.credentials), observer=observer) as registries:
        handler = Handler(Copier(registries), rules=rules)
        if more:
            with pytest.raises(CopyFailed, match="unknown manifest class"):
                await run(handler, work)
        else:
            assert (await run(handler, work))["note"] == "1 attestation left out, which the registry refuses"
