"""The repositories that sources name, and those that Harbor lists for patterns; and the Harbors themselves.

Their destinations are the neighbours of a copy: repositories that may have blobs which it can mount from there.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from replicator.aliyun.acr import name_doubt
from replicator.errors import ErrorClass, ReplicatorError
from replicator.harbor import HarborApi
from replicator.harbor.api import SystemInfo
from replicator.harbor.robots import robot_end
from replicator.queue.records import milliseconds
from replicator.reference import Repository
from replicator.rules import Narrowing
from replicator.tasks import merge_streams

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Sequence

    from replicator.copy import Copier
    from replicator.harbor import ListedRepository
    from replicator.registry import Registries
    from replicator.rules import CopyRequest, Rules, Source
    from replicator.rules.credentials import PersonalUse

_log = structlog.get_logger("replicator.copy")
_sweep_log = structlog.get_logger("replicator.sweep")

LISTED_AT_ONCE = 4
"""Projects, or repositories, that are listed at the same time; the pages of each one after the other."""
_MAX_NAMED = 20
"""Repositories without a possible destination, or with a doubtful one, that are named; further ones are counted."""
_PROJECTS_SECONDS = 600.0
"""Seconds for which the projects of a Harbor, and its version, are remembered."""
_SECRETS_SECONDS = 3600.0
"""Between two looks for the ends of robot accounts' secrets."""
_MOST_ACCOUNTS = 20
"""Robot accounts of one Harbor whose secret is looked for."""
_LABELS_SECONDS = 600.0
"""Seconds after which the repositories of rules with labels are looked at again: no list shows a label as a change."""
_FIRST_VERSION = (2, 15)
"""The first Harbor that counts changes of tags in ``update_time``."""
_ADVICE = "; grant repository:list (before Harbor 2.15 log:list too), or set REPLICATOR_SWEEP=off"


@dataclass(frozen=True, slots=True)
class NotListed:
    """Something that could not be listed, or not to its end.

    Attributes:
        what: a repository, a project or the pattern that names it.
        error: the reason.
    """

    what: str
    error: ReplicatorError


@dataclass(slots=True)
class WantedRepository:
    """A repository to list.

    Attributes:
        needs_tags: whether its tags must be listed.
        needs_labels: whether their labels must be known, which only a Harbor tells.
        named: whether a source names it without wildcards, so that it is a mistake if it does not exist.
        artifact_count: how many artifacts it has; None if no list says so.
    """

    repository: Repository
    needs_tags: bool = False
    needs_labels: bool = False
    named: bool = False
    artifact_count: int | None = None


class RepositoryLister:
    """Finds the repositories that the sources of a narrowing name.

    Args:
        narrowing: the sources.
        registries: the Harbors that are listed.
        on_wanted: called with each repository as soon as it is found.

    Attributes:
        wanted: the repositories, complete once `failures` has ended.
        artifacts: the artifacts of all repositories together, by registry and project; only for projects whose
            repositories were listed, so that their registry is a Harbor.
    """

    def __init__(
        self, narrowing: Narrowing, registries: Registries, on_wanted: Callable[[Repository], None] | None = None
    ) -> None:
        self._on_wanted = on_wanted
        self.wanted: dict[Repository, WantedRepository] = {}
        self.artifacts: Counter[tuple[str, str]] = Counter()
        self._narrowing = narrowing
        self._registries = registries

    async def failures(self) -> AsyncGenerator[NotListed, None]:
        """List every project once; yield the failures, and continue with the rest."""
        projects: dict[tuple[str, str], list[Source]] = {}
        anywhere: dict[str, list[Source]] = {}
        for source in self._narrowing.sources():
            if source.repository is not None:
                self._want(source.repository, source)
            elif source.project is not None:
                projects.setdefault((source.registry, source.project), []).append(source)
            else:
                anywhere.setdefault(source.registry, []).append(source)
        for registry, sources in anywhere.items():
            try:
                api = HarborApi(registry, self._registries.transport(Repository(registry, "x")))
                names = [name async for name in api.projects()]
            except ReplicatorError as error:
                for source in sources:
                    yield NotListed(f"{registry}/{source.glob}", error)
                continue
            for name in names:
                if wanted := [source for source in sources if source.may_be_in(name)]:
                    projects.setdefault((registry, name), []).extend(wanted)
        listings = (self._list(*project, sources) for project, sources in projects.items())
        async for failure in merge_streams(listings, LISTED_AT_ONCE):
            yield failure

    async def _list(self, registry: str, project: str, sources: list[Source]) -> AsyncGenerator[NotListed, None]:
        try:
            # Any repository represents the project: the rules may have a separate login for a project.
            api = HarborApi(registry, self._registries.transport(Repository(registry, f"{project}/x")))
            self.artifacts[registry, project] = 0
            async for listed in api.repositories(project):
                self.artifacts[registry, project] += listed.artifact_count
                for source in sources:
                    if source.includes(listed.repository.name):
                        self._want(listed.repository, source, listed)
        except ReplicatorError as error:
            del self.artifacts[registry, project]
            places = (source.glob if source.project is not None else f"{project}/" for source in sources)
            for place in dict.fromkeys(places):
                yield NotListed(f"{registry}/{place}", error)

    def _want(self, repository: Repository, source: Source, listed: ListedRepository | None = None) -> None:
        if not self._narrowing.includes(repository):
            return
        if self._on_wanted is not None and repository not in self.wanted:
            self._on_wanted(repository)
        wanted = self.wanted.setdefault(repository, WantedRepository(repository))
        wanted.needs_tags |= source.needs_tags
        if listed is not None:
            wanted.artifact_count = listed.artifact_count
        else:
            wanted.named = True


def destinations(rules: Rules, repositories: Iterable[Repository]) -> dict[Repository, None]:
    """Return the repositories that the rules copy other repositories to, in their order."""
    return {each: None for repository in repositories for each in sorted(rules.route(repository).destinations)}


def name_warnings(rules: Rules, wanted: Iterable[WantedRepository]) -> tuple[str, ...]:
    """Return a warning for each repository that has no possible destination by some rule, or a doubtful name there.

    Those whose copies fail are not among them: each of their tags is reported.
    """
    unfit: list[str] = []
    doubts: dict[str, None] = {}
    for each in wanted:
        route = rules.route(each.repository)
        unfit += [f"{each.repository} is left out: {reason}" for reason in route.unfit]
        doubts |= {f"{end}: {doubt}": None for end in sorted(route.destinations) if (doubt := name_doubt(end))}
    more = len(unfit) - _MAX_NAMED
    others = len(doubts) - _MAX_NAMED
    return (
        *unfit[:_MAX_NAMED],
        *([f"{more} more are left out for such reasons"] if more > 0 else []),
        *list(doubts)[:_MAX_NAMED],
        *([f"{others} more have such names"] if others > 0 else []),
    )


class QuotaCount:
    """Counts the namespaces and repositories that a listing needs at ACR's Personal Edition.

    Args:
        rules: those that are listed. What they need by themselves is reported where they are loaded.

    Attributes:
        uses: the need at each account.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self.uses = rules.personal_uses()
        self._told = self.uses.problems()
        # Destinations that may get no image at all, because no tag passes a filter.
        self._possible: dict[Repository, PersonalUse] = {}

    def add(self, wanted: Iterable[WantedRepository]) -> list[str]:
        """Add the destinations of repositories; return the quotas that are certainly exceeded."""
        for each in wanted:
            route = self._rules.route(each.repository)
            for destination in route.destinations | route.certain:
                # A Harbor that says 0 has none, or does not count them.
                certain = destination in route.certain and each.artifact_count != 0
                use = self.uses.add(destination, certain=certain)
                if use is not None and not certain:
                    self._possible[destination] = use
        return self._news()

    def found(self, request: CopyRequest, kind: str | None) -> None:
        """Note a copy; it counts if the kind of its artifact, as far as a list tells it, is one that is copied."""
        destination, options = request.destination.repository, request.options
        if options.types and (kind is None or options.unwanted(kind)):
            return
        if (use := self._possible.pop(destination, None)) is not None:
            use.add(destination, certain=True)

    def end(self) -> list[str]:
        """Return the quotas that are exceeded now that all tags are known, and were not before."""
        return self._news()

    def _news(self) -> list[str]:
        problems = self.uses.problems()
        news = [problem for problem in problems if problem not in self._told]
        self._told = problems
        return news


def secret_ends(harbors: Iterable[SweptHarbor]) -> dict[str, float]:
    """Return the first end of a secret of each Harbor, by its host; without those where none is known."""
    return {each.registry: each.secret_ends for each in harbors if each.secret_ends is not None}


class SweptHarbor:
    """A Harbor as the sweeps of this process know it.

    Attributes:
        is_harbor: whether it is one; None until it has answered.
        counts_changes: it counts changes of tags in ``update_time``.
        notifies: whether its system settings switch webhooks on; None if it does not say.
        secret_ends: when the first secret of the robot accounts ends that it is read with, in Unix time; None if none
            does, or no account may see itself.
        projects: names of those that the rules name.
        problems: by project, the reason why it can't be swept.
        refused: projects that the login may not list; they are tried again after a while.
        postponed: repositories whose youngest tags were left to their events once.
        labelled: repositories whose labels are to be looked at.
    """

    def __init__(self, registry: str, copier: Copier) -> None:
        self.registry, self.copier = registry, copier
        self.is_harbor: bool | None = None
        self.counts_changes = True
        self.notifies: bool | None = None
        self.secret_ends: float | None = None
        self._secrets_due = float("-inf")
        self.projects: list[str] = []
        self.problems: dict[str, str] = {}
        self.refused: set[str] = set()
        self.postponed: set[str] = set()
        self.labelled: deque[Repository] = deque()
        self._labels_due = time.monotonic() + _LABELS_SECONDS
        self._until = float("-inf")

    def api(self, project: str = "x") -> HarborApi:
        """Return a client with the login for a project; any repository represents it."""
        place = Repository(self.registry, f"{project}/x")
        return HarborApi(self.registry, self.copier.registries.transport(place))

    async def look(self, rules: Rules) -> None:
        """Find out whether it is a Harbor, which version, and the projects that the rules name."""
        if time.monotonic() < self._until:
            return
        sources = [each for each in rules.sources() if each.registry == self.registry]
        projects = {each.repository.name.partition("/")[0] if each.repository else each.project for each in sources}
        try:
            if not self.is_harbor:
                # Ask again if it was none: a proxy in front of a Harbor may have answered while Harbor was away.
                self.is_harbor = await self.api().is_harbor()
            if self.is_harbor:
                system = await self.api(min(filter(None, projects), default="x")).system() or SystemInfo()
                self.counts_changes = system.release is None or system.release >= _FIRST_VERSION
                # Harbor shows an anonymous login neither the version nor this.
                self.notifies = system.notifies if system.version is not None else None
                await self._find_secrets(rules, sorted(filter(None, projects)))
                if None in projects:
                    listed = [name async for name in self.api().projects()]
                    named = [source for source in sources if source.project is None and source.repository is None]
                    projects |= {name for name in listed if any(source.may_be_in(name) for source in named)}
            self.projects = sorted(filter(None, projects))
            self.refused.clear()
            self._until = time.monotonic() + _PROJECTS_SECONDS
            self.note("", None)
        except ReplicatorError as error:
            self.note("", error)

    async def _find_secrets(self, rules: Rules, projects: Sequence[str]) -> None:
        """Look, once an hour, when the secrets end of the robot accounts that the Harbor is read with."""
        if time.monotonic() < self._secrets_due:
            return
        self._secrets_due = time.monotonic() + _SECRETS_SECONDS
        places: dict[str, str] = {}
        for project in projects or ["x"]:
            access = rules.credentials(Repository(self.registry, f"{project}/x"))
            if access is not None and access.username is not None and len(places) < _MOST_ACCOUNTS:
                places.setdefault(access.username, project)
        ends = [await robot_end(self.api(project), name) for name, project in places.items()]
        self.secret_ends = min((end for end in ends if end is not None), default=None)

    async def find_labelled(self, rules: Rules) -> None:
        """Find the repositories whose labels are to be looked at, once in ten minutes and when all were looked at."""
        keys = rules.keys_with_labels(self.registry)
        if not keys or self.labelled or time.monotonic() < self._labels_due:
            return
        self._labels_due = time.monotonic() + _LABELS_SECONDS
        lister = RepositoryLister(Narrowing(rules, keys=keys), self.copier.registries)
        # What can't be listed is noted where its changes are read.
        async for _ in lister.failures():
            pass
        self.labelled.extend(each for each in lister.wanted if rules.route(each).labels)

    def note(self, project: str, error: ReplicatorError | None) -> None:
        """Note whether a project could be listed; the first failure is logged."""
        if error is None:
            self.problems.pop(project, None)
        elif project not in self.problems:
            advice = "" if error.error_class is ErrorClass.TRANSIENT else _ADVICE
            self.problems[project] = f"{self.registry}/{project} can't be swept: {error}{advice}"
            _sweep_log.warning("sweep failed", source=f"{self.registry}/{project}", error=error)


async def changed_since(
    pages: AsyncGenerator[list[ListedRepository], None], oldest: int | None, overlap: int, on_page: Callable[[], None]
) -> AsyncGenerator[tuple[int, ListedRepository], None]:
    """Yield the repositories that changed since ``oldest``, and those that will be read again.

    Args:
        pages: the latest change first.
        oldest: in milliseconds since 1970; None for those alone that will be read again.
        overlap: milliseconds before the latest change whose changes will be read again.
        on_page: called for each page.
    """
    again: int | None = None
    async with contextlib.aclosing(pages):
        async for page in pages:
            on_page()
            for each in page:
                if each.changed is None:
                    return
                moment = milliseconds(each.changed)
                again = moment - overlap if again is None else again
                if moment < (again if oldest is None else min(again, oldest)):
                    return
                yield moment, each


class Neighbours:
    """Names the destinations of all rules, for copies that look for blobs there (`replicator.copy.Copier`).

    Destinations of rules without wildcards come from the rules alone. For the others Harbor is asked for its
    repositories, a hundred a request.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def renew(self, rules: Rules) -> None:
        """Use other rules from now on."""
        self._rules = rules

    async def __call__(self, registries: Registries, found: Callable[[Repository], object]) -> None:
        """Call ``found`` with each of them as soon as it is known; projects that can't be listed are left out."""
        rules, narrowing = self._rules, Narrowing(self._rules)

        def wanted(repository: Repository) -> None:
            for each in destinations(rules, [repository]):
                found(each)

        named = [source.repository for source in narrowing.sources() if source.repository is not None]
        for repository in named:
            wanted(repository)
        if len(named) < len(narrowing.sources()):
            async for failure in RepositoryLister(narrowing, registries, wanted).failures():
                _log.debug("neighbours not listed", source=failure.what, error=failure.error)
