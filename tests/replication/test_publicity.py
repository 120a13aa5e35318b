"""Private stays private: what is private at Harbor and public at ACR is noticed, and refused where a rule says so."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from replicator.copy import Copier
from replicator.errors import SENT_LOGINS, ErrorClass
from replicator.queue import PublicAnswer, PublicCopies, Queue, list_public_copies, memory
from replicator.reference import Reference, Repository
from replicator.registry import Access, Registries, RequestObserver
from replicator.replication.enqueue import job_for
from replicator.replication.job import Handler
from replicator.replication.publicity import Publicity, compare_ends
from replicator.replication.transfer import CopyFailed, access_by
from replicator.rules import parse
from tests.queue.servers import RedisServer
from tests.replication.test_job import Job, request, rules_of, run
from tests.standins.acr import AcrStandIn
from tests.standins.faults import Answer, Fault
from tests.standins.images import image, push
from tests.standins.logins import ACR_USER, HARBOR_ADMIN, HARBOR_ROBOT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from replicator.rules import CopyRequest, Rules
    from tests.standins.harbor import HarborStandIn

EVENT = "private image is public at its destination"
OVER = "image no longer counts as public"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="rq-", dir="/tmp") as directory, RedisServer(Path(directory)) as running:
        yield running


@dataclass
class Town:
    """A Harbor with a private and a public project, an ACR, and a queue's Redis; some requests are counted."""

    harbor: HarborStandIn
    acr: AcrStandIn
    queue: Queue

    async def push(self, number: int = 1, tag: str = "v1") -> None:
        await push(self.harbor.host, "team/app", tag, image(number), HARBOR_ADMIN)

    def rules(self, public: str = "") -> Rules:
        return rules_of(self.harbor, self.acr, f", public: {public}" if public else "")

    @asynccontextmanager
    async def looking(self, rules: Rules) -> AsyncIterator[tuple[Handler, Publicity]]:
        """A process that copies; what it has begun to look at is done at the end."""
        async with (
            Registries(access_by(rules.credentials)) as registries,
            aclosing(PublicCopies(self.queue, deadline=30)) as copies,
        ):
            publicity = Publicity(registries, copies, rules)
            async with publicity.beside():
                yield Handler(Copier(registries), publicity=publicity), publicity
                async with asyncio.timeout(30):
                    await publicity._waiting.join()

    async def copy(self, rules: Rules, tag: str = "v1") -> str:
        """Copy a tag in a process of its own."""
        async with self.looking(rules) as (handler, _):
            return str((await run(handler, Job(self.wanted(rules, tag).to_json())))["result"])

    def wanted(self, rules: Rules, tag: str = "v1") -> CopyRequest:
        return request(rules, self.harbor, tag)

    def asked(self) -> int:
        """How many questions there were without a login, or with the token that anyone gets."""
        stores = self.harbor.tokens, self.acr.tokens
        tokens = {token.value for store in stores for token in store.issued.values() if not token.subject}
        return sum(
            entry.headers.get("Authorization", "").removeprefix("Bearer ") in {"", *tokens}
            for layer in (self.harbor.faults, self.acr.faults, self.acr.token_faults)
            for entry in layer.log
            if (entry.method, entry.path) != ("GET", "/v2/") and entry.method in ("GET", "HEAD")
        )


@pytest.fixture
async def town(harbor: HarborStandIn, acr: AcrStandIn, server: RedisServer) -> AsyncIterator[Town]:
    async with await Queue.connect(server.url, prefix=f"t-{uuid4().hex[:8]}") as queue:
        yield Town(harbor, acr, queue)
    # No password, and no token of the login, went anywhere else.
    assert acr.leaks == []
    assert harbor.leaks == []


@asynccontextmanager
async def ends(
    harbor: HarborStandIn, acr: AcrStandIn, project: str, upstreams: tuple[str, str]
) -> AsyncIterator[tuple[Registries, Reference, Reference]]:
    await push(upstreams[0], f"{project}/app", "v1", image(1))
    await push(upstreams[1], "cache/app", "v1", image(1))

    def access(repository: Repository) -> Access:
        if repository.registry == acr.host:
            return Access(*ACR_USER, endpoint=acr.url)
        return Access(*HARBOR_ADMIN, endpoint=harbor.url)

    source = Reference.parse(f"{harbor.host}/{project}/app:v1")
    async with Registries(access) as registries:
        yield registries, source, Reference.parse(f"{acr.host}/cache/app:v1")


@pytest.mark.parametrize(
    ("project", "public", "answer"),
    [
        ("team", True, PublicAnswer.PUBLIC),
        ("team", False, PublicAnswer.FINE),
        ("library", True, PublicAnswer.FINE),
        ("library", False, PublicAnswer.FINE),
    ],
)
async def test_only_what_is_private_at_harbor_and_public_at_acr_counts(
    harbor: HarborStandIn,
    acr: AcrStandIn,
    harbor_upstream: str,
    acr_upstream: str,
    project: str,
    public: bool,
    answer: PublicAnswer,
) -> None:
    acr.public = {"cache/app"} if public else {"cache/other"}
    async with ends(harbor, acr, project, (harbor_upstream, acr_upstream)) as (registries, source, destination):
        assert await compare_ends(registries, source, destination) is answer
    # The source is asked only where it matters, and nobody saw a login.
    assert len(harbor.faults.log) == (0 if not public else 4 if project == "team" else 3)
    everything = [*harbor.faults.log, *acr.faults.log, *acr.token_faults.log]
    assert not [entry for entry in everything if entry.headers.get("Authorization", "").startswith("Basic ")]
    assert acr.leaks == []


async def test_an_instance_without_anonymous_pull_is_asked_twice_and_then_once(
    harbor: HarborStandIn, acr: AcrStandIn, harbor_upstream: str, acr_upstream: str
) -> None:
    async with ends(harbor, acr, "team", (harbor_upstream, acr_upstream)) as (registries, source, destination):
        for number in (2, 3):
            assert await compare_ends(registries, source, destination) is PublicAnswer.FINE
            assert len(acr.faults.log) + len(acr.token_faults.log) == number


@pytest.mark.parametrize(("project", "answer"), [("library", PublicAnswer.UNKNOWN), ("team", PublicAnswer.PUBLIC)])
async def test_a_tag_that_is_gone_at_its_source_tells_as_much_as_its_project_does(
    harbor: HarborStandIn,
    acr: AcrStandIn,
    harbor_upstream: str,
    acr_upstream: str,
    project: str,
    answer: PublicAnswer,
) -> None:
    acr.public = {"cache/app"}
    async with ends(harbor, acr, project, (harbor_upstream, acr_upstream)) as (registries, source, destination):
        gone = Reference(Repository(source.registry, f"{project}/gone"), "v1")
        assert await compare_ends(registries, gone, destination) is answer


async def test_what_is_gone_at_its_destination_is_fine_only_where_it_was_seen_before(
    harbor: HarborStandIn, acr: AcrStandIn, harbor_upstream: str, acr_upstream: str
) -> None:
    acr.public, acr.denies_missing = {"cache/app"}, False
    async with ends(harbor, acr, "team", (harbor_upstream, acr_upstream)) as (registries, source, _):
        acr.create_repository("cache/gone")
        acr.public |= {"cache/gone"}
        gone = Reference.parse(f"{acr.host}/cache/gone:v1")
        assert await compare_ends(registries, source, gone) is PublicAnswer.UNKNOWN
        assert await compare_ends(registries, source, gone, absent=PublicAnswer.FINE) is PublicAnswer.FINE


async def test_a_refusal_that_was_to_be_expected_is_counted_as_no_denial(
    harbor: HarborStandIn, acr: AcrStandIn, acr_upstream: str
) -> None:
    """An alert tells of denials: a hundred repositories that are private rightly must not raise it."""
    await push(acr_upstream, "cache/app", "v1", image(1))
    acr.denied_status, acr.public = 403, {"cache/other"}
    refusals: list[str] = []
    observer = RequestObserver(refused=lambda _, reason: refusals.append(reason))
    destination = Reference.parse(f"{acr.host}/cache/app:v1")
    async with Registries(lambda _: Access(*ACR_USER, endpoint=acr.url), observer=observer) as registries:
        assert await compare_ends(registries, destination, destination) is PublicAnswer.FINE
    assert acr.faults.log.count("HEAD", ".*", 403) == 1
    assert refusals == []


@pytest.mark.parametrize("end", ["harbor", "acr", "tokens"])
@pytest.mark.parametrize("status", [429, 500, 503])
async def test_what_is_not_found_out_is_no_warning(
    harbor: HarborStandIn, acr: AcrStandIn, harbor_upstream: str, acr_upstream: str, end: str, status: int
) -> None:
    acr.public = {"cache/app"}
    layer = {"harbor": harbor.faults, "acr": acr.faults, "tokens": acr.token_faults}[end]
    async with ends(harbor, acr, "team", (harbor_upstream, acr_upstream)) as (registries, source, destination):
        fault = layer.add(Fault(Answer(status), times=None))
        assert await compare_ends(registries, source, destination) is PublicAnswer.UNKNOWN
    # It is not asked again in a row.
    assert fault.hits == 1


async def test_a_token_of_nobody_is_kept_apart_from_the_login(
    harbor: HarborStandIn, acr: AcrStandIn, harbor_upstream: str, acr_upstream: str
) -> None:
    acr.public = {"cache/app"}
    async with ends(harbor, acr, "team", (harbor_upstream, acr_upstream)) as (registries, source, destination):
        assert await compare_ends(registries, source, destination) is PublicAnswer.PUBLIC
        nobodys = [token.value for token in acr.tokens.issued.values() if not token.subject]
        assert nobodys
        assert not {f"Bearer {value}" for value in nobodys} & set(SENT_LOGINS._forms)
        # The login goes on as if nothing had been asked: no refusal counts against it, and its own token is used.
        assert await registries.source(source.repository).head_manifest("v1") is not None
        assert not any(ladder.spares for ladder in registries._ladders.values())


async def test_a_first_copy_tells_and_the_next_ones_ask_nothing(town: Town) -> None:
    await town.push()
    town.acr.public = {"cache/app"}
    rules = town.rules()
    with capture_logs() as logs:
        assert await town.copy(rules) == "copied"
    (told,) = [entry for entry in logs if entry["event"] == EVENT]
    assert told["log_level"] == "warning"
    assert told["source"] == f"{town.harbor.host}/team/app:v1"
    assert told["destination"] == f"{town.acr.host}/cache/app:v1"
    assert "public: allow" in told["do"]
    (listed,) = await list_public_copies(town.queue)
    assert (listed.source, listed.destination) == (told["source"], told["destination"])
    before = town.asked()
    await town.push(2, "v2")
    # Another process, which knows nothing but what the first one has left in Redis.
    assert await town.copy(rules, "v2") == "copied"
    assert town.asked() == before


async def test_a_week_later_it_is_asked_again(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    await town.push()
    rules = town.rules()
    with capture_logs() as logs:
        await town.copy(rules)
    assert [entry for entry in logs if entry["event"] == EVENT] == []
    town.acr.public = {"cache/app"}
    monkeypatch.setitem(memory.ASKED_SECONDS, PublicAnswer.FINE, 0.0)
    await town.push(2)
    await town.copy(rules)
    assert len(await list_public_copies(town.queue)) == 1


async def test_what_is_private_again_is_taken_off_the_list(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    await town.push()
    town.acr.public = {"cache/app"}
    rules = town.rules()
    await town.copy(rules)
    assert len(await list_public_copies(town.queue)) == 1
    # Not at once: it was looked at today.
    async with town.looking(rules) as (_, publicity):
        before = town.asked()
        publicity.renew(rules)
        await asyncio.sleep(0)
    assert town.asked() == before
    town.acr.public = {"cache/other"}
    monkeypatch.setitem(memory.ASKED_SECONDS, PublicAnswer.PUBLIC, 0.0)
    with capture_logs() as logs:
        async with town.looking(rules), asyncio.timeout(30):
            while OVER not in [entry["event"] for entry in logs]:
                await asyncio.sleep(0.01)
    assert [entry["reason"] for entry in logs if entry["event"] == OVER] == ["it is private or gone"]
    assert await list_public_copies(town.queue) == []


async def test_allow_asks_nothing_and_takes_off_the_list_what_is_on_it(town: Town) -> None:
    await town.push()
    town.acr.public = {"cache/app"}
    await town.copy(town.rules())
    allowed = town.rules("allow")
    async with town.looking(town.rules()) as (_, publicity), asyncio.timeout(30):
        assert len(await list_public_copies(town.queue)) == 1
        publicity.renew(allowed)
        while await list_public_copies(town.queue):
            await asyncio.sleep(0.01)
    before = town.asked()
    await town.push(2, "v2")
    assert await town.copy(allowed, "v2") == "copied"
    assert town.asked() == before
    # Once they no longer allow it, the next copy tells.
    await town.push(3, "v3")
    await town.copy(town.rules(), "v3")
    assert len(await list_public_copies(town.queue)) == 1


@pytest.mark.parametrize("tag", ["v1", "v2"])
async def test_refuse_sends_nothing_into_a_repository_that_is_public(town: Town, acr_upstream: str, tag: str) -> None:
    """Also where the tag itself is new, and another one shows that anyone may pull."""
    await town.push(2, tag)
    await push(acr_upstream, "cache/app", "v1", image(1))
    town.acr.public = {"cache/app"}
    with pytest.raises(CopyFailed, match=r"team/app is private, and .*/cache/app is public") as caught:
        await town.copy(town.rules("refuse"), tag)
    assert caught.value.error_class is ErrorClass.PERMANENT
    assert caught.value.do.startswith("make cache/app, or its project, private at")
    assert not town.acr.faults.log.count("(POST|PUT|PATCH)", ".*")


async def test_refuse_goes_by_the_openapi_where_there_is_nothing_yet(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def is_public(_: Registries, repository: Repository) -> bool:
        return repository.name == "cache/app"

    monkeypatch.setattr(Registries, "is_public", is_public)
    await town.push()
    with pytest.raises(CopyFailed, match="or would be created as public"):
        await town.copy(town.rules("refuse"))
    assert not town.acr.faults.log.count("(POST|PUT|PATCH)", ".*")


async def test_refuse_goes_by_a_destination_that_is_written_without_a_login(town: Town, acr_upstream: str) -> None:
    await town.push()
    rules = parse(
        f"""
        auth:
          {town.harbor.host}: {{username: '{HARBOR_ROBOT[0]}', password: '{HARBOR_ROBOT[1]}', insecure: true}}
          {acr_upstream}: {{anonymous: true, insecure: true}}
        images:
          {town.harbor.host}/team/app: {{to: {acr_upstream}/cache/app, public: refuse}}
        """,
        "rules",
        environ={},
    )
    with pytest.raises(CopyFailed, match="team/app is private"):
        await town.copy(rules)


async def test_refuse_waits_for_a_source_that_does_not_say_whether_it_is_private(town: Town, acr_upstream: str) -> None:
    await town.push(2)
    await push(acr_upstream, "cache/app", "v1", image(1))
    town.acr.public = {"cache/app"}
    town.harbor.faults.add(Fault(Answer(503), "HEAD", times=None))
    with pytest.raises(CopyFailed, match="gives no clear answer whether") as caught:
        await town.copy(town.rules("refuse"))
    assert caught.value.error_class is ErrorClass.TRANSIENT


async def test_refuse_copies_into_what_is_private_and_asks_no_more_for_a_week(town: Town) -> None:
    await town.push()
    rules = town.rules("refuse")
    assert await town.copy(rules) == "copied"
    before = town.asked()
    await town.push(2, "v2")
    assert await town.copy(rules, "v2") == "copied"
    assert town.asked() == before


async def test_refuse_is_kept_in_the_job(town: Town) -> None:
    payload: Any = job_for(town.wanted(town.rules("refuse"))).payload
    assert payload["options"]["public"] == "refuse"


async def test_a_public_copy_whose_host_the_rules_no_longer_name_is_not_asked(town: Town) -> None:
    await town.push()
    town.acr.public = {"cache/app"}
    await town.copy(town.rules())
    async with AsyncExitStack() as stack:
        nobody = AcrStandIn("127.0.0.1:1", users={}, namespaces={})
        nobody.host = "127.0.0.1:1"
        other = rules_of(town.harbor, nobody)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(memory.ASKED_SECONDS, PublicAnswer.PUBLIC, 0.0)
            before = town.asked()
            await stack.enter_async_context(town.looking(other))
            async with asyncio.timeout(30):
                while await list_public_copies(town.queue):
                    await asyncio.sleep(0.01)
    assert town.asked() == before
