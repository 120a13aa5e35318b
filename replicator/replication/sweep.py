"""The sweep: every minute, look for tags that changed at a Harbor and that no event announced.

Harbor sends no event while its job service is away, and none for a tag that is made in its UI or by its API. Since 2.15
a repository's ``update_time`` moves on every tag that is made, moved or deleted, and on pulls. So one request a project
tells which repositories to look at. Older Harbors have a log of each project, for a login with ``log:list``.

What is read: the repositories that changed since the last sweep, and those of five minutes before, because rows may be
committed late. A repository is compared as in a backfill, but a digest that a destination was seen to hold costs no
request there. A tag that differs is queued as if an event had announced it.

A new label does not change its repository, and no event announces it. So every ten minutes the repositories of rules
that ask for labels are compared too, with the lists that a sweep has left.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog
from cachetools import TTLCache

from replicator.copy import Comparison
from replicator.errors import ErrorClass, ReplicatorError
from replicator.queue import CauseWatch, Lane, QueueUnavailable, ReconcileState
from replicator.queue.leaders import Sweeps, SweptProject
from replicator.queue.records import milliseconds
from replicator.reference import Repository
from replicator.registry.errors import ConnectionFailed
from replicator.registry.places import BULK
from replicator.replication.compare import Checker
from replicator.replication.enqueue import informed, job_for
from replicator.replication.listing import Found
from replicator.replication.repositories import NotListed, SweptHarbor, WantedRepository, changed_since, secret_ends
from replicator.replication.tag_lists import TagLister
from replicator.rules.request import signature_fact
from replicator.tasks import background, gather_tolerant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from replicator.copy import Copier
    from replicator.queue import Job, Observations, Queue
    from replicator.rules import Rules

log = structlog.get_logger("replicator.sweep")

_OVERLAP = 5 * 60 * 1000
"""Milliseconds before the newest change whose changes are read again."""
_LISTS_A_MINUTE = 60
"""Lists of one Harbor: of a project's repositories, and of a repository's tags."""
_YOUNG_SECONDS = 10.0
"""Age up to which a tag's event may still be on its way; it is looked at again after so many seconds."""
_MANY = 100
"""Differing tags of one repository beyond which their copies wait with the backfills."""
_TRUST_SECONDS = 7 * 86_400.0
"""For so long a destination that was seen to hold a digest is not asked again."""
_COMPARED_AT_ONCE = 4
_MOST_PENDING = 1000
"""The most repositories of a project that wait for their comparison; a reconcile compares the others."""
_ONCE_SECONDS, _MOST_QUEUED = 86_400.0, 100_000
"""A copy is queued once in so many seconds for the same digest: the pull of a copy that fails is a change, too."""
_HARBOR_SECONDS = 60.0
"""Time for the sweep of one Harbor; the next one continues from the same place."""
_STOP_SECONDS = 5.0
_BROKEN_PAUSE = 60.0

_Copy = tuple[str, str]
"""A destination, and the digest that its source names; or what `signature_fact` names."""


class Sweeper:
    """Sweeps the Harbors that the rules name, while no other process does.

    Args:
        interval: seconds between two sweeps.
        rules: name the repositories to look at.
        copier: compares, and its registries list.
        queue: takes the copies, and elects the process that sweeps.
        checks: observations of destinations.
    """

    def __init__(
        self, interval: float, rules: Rules, copier: Copier, queue: Queue, checks: Observations | None = None
    ) -> None:
        self._interval = interval
        self._lists = max(2, int(_LISTS_A_MINUTE * min(1.0, interval / 60)))
        self._rules = rules
        self._copier = copier
        self._queue = queue
        self._letters = CauseWatch(queue)
        self._checker = Checker(copier, checks, trust=_TRUST_SECONDS, force=False, dry_run=False, letters=self._letters)
        self._sweeps = Sweeps(queue, lease=2 * interval + 30)
        self._stopping = asyncio.Event()
        self._harbors: dict[str, SweptHarbor] = {}
        self._queued: TTLCache[_Copy, None] = TTLCache(_MOST_QUEUED, _ONCE_SECONDS)
        self._offline = self._holds = False

    def renew(self, rules: Rules) -> None:
        """Use other rules from the next sweep on."""
        self._rules = rules
        self._harbors.clear()

    def stop(self) -> None:
        """End within seconds; another process continues from the same place."""
        self._stopping.set()

    def beside(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Run for as long as the context lasts."""
        return background(self.run(), self.stop, within=_STOP_SECONDS)

    async def run(self) -> None:
        """Sweep until :meth:`stop`. While Redis is offline it waits; it raises no error of its own."""
        BULK.set(True)
        due = time.monotonic()
        while not self._stopping.is_set():
            whole = time.monotonic() >= due
            if whole:
                due = time.monotonic() + self._interval
            pause = 0.0
            try:
                if await self.step(whole=whole):
                    pause = _YOUNG_SECONDS
                self._offline = False
            except QueueUnavailable as error:
                if not self._offline:
                    log.warning("queue unavailable", error=error, waiting_for="sweep")
                self._offline = True
            except Exception:
                # This runs beside the webhook and the copies, and a fault in it must not end them.
                log.exception("sweep broken")
                due += _BROKEN_PAUSE
            left = max(0.0, due - time.monotonic())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(pause, left) if pause else left):
                    await self._stopping.wait()
        with contextlib.suppress(QueueUnavailable):
            await self._sweeps.release()

    async def step(self, *, whole: bool = True) -> bool:
        """Sweep once, unless another process leads.

        Args:
            whole: False to look only at repositories that wait for their comparison.

        Returns:
            Whether some tags were too young to tell whether their event is lost.

        Raises:
            QueueUnavailable: Redis is away or takes nothing.
        """
        taken = await self._sweeps.begin()
        if taken is None:
            return False
        now, known = taken
        last = (await ReconcileState.read(self._queue)).last
        self._holds = last is not None and last.findings.held > 0
        rules, sweeps = self._rules, list[_Sweep]()
        for registry in sorted({source.registry for source in rules.sources()}):
            harbor = self._harbors.setdefault(registry, SweptHarbor(registry, self._copier))
            sweeps.append(_Sweep(self, harbor, rules, known, now=milliseconds(now), lists=self._lists))
        # At once, each with a deadline: a Harbor that does not answer delays no other.
        await gather_tolerant(sweep.within(_HARBOR_SECONDS, whole=whole) for sweep in sweeps)
        if not all(sweep.leads for sweep in sweeps):
            return False
        problems = [problem for harbor in self._harbors.values() for problem in harbor.problems.values()]
        webhooks = {host: harbor.notifies for host, harbor in self._harbors.items() if harbor.notifies is not None}
        await self._sweeps.end("; ".join(problems[:3]), webhooks, secret_ends(self._harbors.values()))
        return any(sweep.young for sweep in sweeps)

    async def keep(self, projects: Mapping[str, SweptProject], replaced: int = 0, place: str = "") -> bool:
        """Store the progress of projects; return whether this process still leads and continues."""
        return await self._sweeps.keep(projects, replaced, place) and not self._stopping.is_set()

    async def compare(self, found: Sequence[Found], rules: str) -> tuple[dict[_Copy, Job], dict[_Copy, Job], bool]:
        """Compare tags with their destinations; ``rules`` is the digest of those that ask for them.

        Returns:
            The copies to make, and those of signatures alone, without what was queued lately; and whether all tags were
            compared.
        """
        jobs: dict[_Copy, Job] = {}
        signatures: dict[_Copy, Job] = {}
        complete = True
        await self._letters.look([str(each.request.destination) for each in found])
        rows = await self._checker.trusted(found)
        unknown = [each for each, row in zip(found, rows, strict=True) if row is None]
        slots = asyncio.Semaphore(_COMPARED_AT_ONCE)

        async def check(each: Found) -> None:
            nonlocal complete
            async with slots, self._copier.registries.courtesy.step():
                checked = await self._checker.check(each)
            if checked is None:
                # A transient error: the repository is compared again.
                complete = False
            elif self._holds and isinstance(checked, Comparison) and checked.present is not None:
                # A person decides about replacements. The reconcile that is approved finds this one too.
                pass
            elif isinstance(checked, Comparison) and (checked.result is None or checked.lacks_signatures):
                request = informed(each.request, checked, each.accessories)
                attached = f" {request.accessories.key}" if request.accessories is not None else ""
                key = (f"{request.destination}{attached}", checked.announced)
                if checked.lacks_signatures and each.accessories is not None:
                    # One of the tags that name this image is enough.
                    key = signature_fact(each.request, each.accessories)
                if key not in self._queued:
                    found_jobs = signatures if checked.lacks_signatures else jobs
                    found_jobs[key] = job_for(request, rules=rules)

        await gather_tolerant(check(each) for each in unknown)
        await self._letters.end()
        return jobs, signatures, complete

    async def enqueue(self, jobs: Mapping[_Copy, Job], lane: Lane) -> int:
        """Queue copies, and return how many were not in the queue already."""
        # A copy of the same digest that waits for its retry would begin at once, and a running one would run twice. But
        # one that an event has queued, or that runs, may know nothing of signatures that have come since.
        signed = {job.id: job.payload["accessories"] for job in jobs.values() if "accessories" in job.payload}
        digests = {job.id: digest for (_, digest), job in jobs.items()}
        pending = await self._queue.pending(digests, signed)
        lacking = [job for job in jobs.values() if job.id not in pending]
        added = await self._queue.enqueue(lacking, lane) if lacking else 0
        self._queued.update(dict.fromkeys(jobs))
        return added


class _Sweep:
    """One sweep of one Harbor.

    Attributes:
        young: some tags were too young to say whether their event is lost.
        leads: this process still leads.
    """

    def __init__(  # one run of one Harbor
        self,
        sweeper: Sweeper,
        harbor: SweptHarbor,
        rules: Rules,
        known: Mapping[str, SweptProject],
        *,
        now: int,
        lists: int,
    ) -> None:
        self._sweeper, self._harbor, self._rules, self._now = sweeper, harbor, rules, now
        prefix = f"{harbor.registry}/"
        self._known = {name: state for name, state in known.items() if name.startswith(prefix)}
        self._lists = self._left = lists
        self.young, self.leads = False, True

    async def within(self, seconds: float, *, whole: bool) -> None:
        """Sweep for at most this long; the next sweep continues from the same place."""
        try:
            async with asyncio.timeout(seconds):
                self.leads = await self.run(whole=whole)
            self._harbor.note("*", None)
        except TimeoutError:
            self._harbor.note("*", ConnectionFailed(f"a sweep takes longer than {seconds:.0f} s"))

    async def run(self, *, whole: bool) -> bool:
        """Sweep; return whether this process still leads and continues."""
        harbor = self._harbor
        await harbor.look(self._rules)
        if not harbor.is_harbor:
            return True
        names = {f"{harbor.registry}/{project}": project for project in harbor.projects}
        if not self._known:
            self._known = dict.fromkeys(names, SweptProject(fresh=True))
            if not await self._sweeper.keep(self._known):
                return False
        states = {name: self._known.get(name, SweptProject()) for name in names}
        # Half of the lists are left to projects.
        for name in sorted(names, key=lambda name: states[name].listed):
            if states[name].pending and self._left > self._lists // 2 and not await self._compare(name, states):
                return False
        for name in sorted(names if whole else (), key=lambda name: states[name].listed):
            if self._left <= 0:
                break
            if names[name] in harbor.refused:
                continue
            if not await self._list(name, names[name], states):
                return False
            if states[name].pending and not await self._compare(name, states):
                return False
        if whole:
            await self._look_for_labels()
        return True

    async def _look_for_labels(self) -> None:
        """Look for images that were labelled, in the lists that are left."""
        await self._harbor.find_labelled(self._rules)
        while self._harbor.labelled and self._left > 0:
            self._left -= 1
            await self._try_look_at(self._harbor.labelled.popleft(), Lane.EVENTS)

    async def _list(self, name: str, project: str, states: dict[str, SweptProject]) -> bool:
        """Read which repositories of a project changed."""
        state, harbor = states[name], self._harbor
        lane = Lane.EVENTS if name in self._known else Lane.BACKFILL
        done, pending, seen = dict(state.done), dict(state.pending), 0
        oldest = None if state.fresh else state.seen - _OVERLAP
        api = harbor.api(project)
        changes = api.changes(project) if harbor.counts_changes else api.logged_changes(project)
        try:
            async for moment, each in changed_since(changes, oldest, _OVERLAP, self._spend):
                # A clock that was set back, or a repository that was deleted, takes the newest time back too.
                seen, repository = max(seen, moment), each.repository.name
                if done.get(repository) != moment and self._rules.route(each.repository).destinations:
                    done[repository] = moment
                    if not state.fresh and len(pending) < _MOST_PENDING:
                        pending.setdefault(repository, lane)
            harbor.note(project, None)
        except ReplicatorError as error:
            harbor.note(project, error)
            if error.error_class is ErrorClass.TRANSIENT:
                return True
            harbor.refused.add(project)
        seen = seen or state.seen
        # Those that are not read again are forgotten.
        done = {repository: moment for repository, moment in done.items() if seen - _OVERLAP <= moment <= seen}
        states[name] = SweptProject(self._now, seen, done, pending)
        return await self._sweeper.keep({name: states[name]})

    def _spend(self) -> None:
        self._left -= 1

    async def _compare(self, name: str, states: dict[str, SweptProject]) -> bool:
        """Compare the changed repositories of a project, and queue the copies."""
        for repository, lane in list(states[name].pending.items()):
            if self._left <= 0:
                break
            self._left -= 1
            state = states[name]
            place = Repository(self._harbor.registry, repository)
            replaced, finished = await self._try_look_at(place, lane)
            if finished:
                pending = {other: its for other, its in state.pending.items() if other != repository}
                states[name] = state = replace(state, pending=pending)
            if not await self._sweeper.keep({name: state}, replaced, str(place)):
                return False
        return True

    async def _try_look_at(self, place: Repository, lane: Lane) -> tuple[int, bool]:
        try:
            return await self._look_at(place, lane)
        except QueueUnavailable:
            raise
        except Exception:
            # A fault with one repository must not stop all others: it is left to the reconcile.
            log.exception("sweep broken", source=str(place))
            return 0, True

    async def _look_at(self, repository: Repository, lane: Lane) -> tuple[int, bool]:
        """Compare the tags of one repository.

        Returns:
            How many copies were queued, and whether that was all.
        """
        harbor, rules = self._harbor, self._rules
        patient = str(repository) not in harbor.postponed
        found: list[Found] = []
        young = False
        lister = TagLister(harbor.copier.registries, {harbor.registry})
        route = rules.route(repository)
        wanted = WantedRepository(repository, needs_tags=True, needs_labels=route.labels)
        async with contextlib.aclosing(lister.of_repository(wanted, whole=route.whole)) as pages:
            async for page in pages:
                if isinstance(page, NotListed):
                    return 0, page.error.error_class is not ErrorClass.TRANSIENT
                for asked in rules.asked(page.repository, page.tags, page.labels):
                    tag = asked.request.source.tag
                    info = page.tags.get(tag) if tag is not None else None
                    if info is None or asked.request.problem is not None:
                        # A list of names alone shows no change. And what can't be copied fails in each backfill.
                        continue
                    if patient and info.pushed is not None and _is_young(info.pushed):
                        young = True
                        continue
                    found.append(Found.of(asked, info, page.tags))
        jobs, signatures, complete = await self._sweeper.compare(found, rules.digest)
        lane = Lane.BACKFILL if len(jobs) + len(signatures) > _MANY else lane
        queued = await self._sweeper.enqueue(jobs, lane)
        # Those count as no lost event: pushes by digest are not listened to.
        if signed := await self._sweeper.enqueue(signatures, lane):
            log.info("sweep queued signatures", source=str(repository), images=signed, lane=str(lane))
        if queued:
            log.info("sweep queued copies", source=str(repository), copies=queued, lane=str(lane))
        (harbor.postponed.add if young else harbor.postponed.discard)(str(repository))
        self.young = self.young or young
        return queued, complete and not young


def _is_young(pushed: datetime) -> bool:
    """Tell whether the event of a tag may still be on its way; Harbor's clock may differ a little."""
    return abs((datetime.now(UTC) - pushed).total_seconds()) < _YOUNG_SECONDS
