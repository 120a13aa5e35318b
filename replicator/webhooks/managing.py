"""One webhook policy in each project that the rules name: made, corrected, or removed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from replicator.errors import ErrorClass, ReplicatorError
from replicator.harbor.policies import NoHarbor, WebhookApi
from replicator.harbor.webhooks import NAME, Target, for_registry, named_registry, new_policy, payload_format
from replicator.reference import Repository
from replicator.registry.errors import Denied, NotFound, Refused, RegistryError, Unauthorized
from replicator.webhooks.projects import named_projects

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from replicator.harbor.policies import Delivery
    from replicator.harbor.webhooks import Policy
    from replicator.registry import Registries
    from replicator.rules import Rules


_GIVEN_UP_AFTER = 3
"""Projects in a row that a Harbor does not answer for before the others are not asked about."""


class Change(StrEnum):
    """What became of a project's policy."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    REMOVED = "removed"
    ABSENT = "absent"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Done:
    """What became of one project.

    Attributes:
        registry: the Harbor.
        project: its name; empty where the projects could not be listed.
        change: what was done.
        note: why it failed and what to do, or what else there is to know; may be empty.
        is_harbor: whether it failed for another reason than that there is no Harbor.
    """

    registry: str
    project: str
    change: Change
    note: str = ""
    is_harbor: bool = True


@dataclass(frozen=True, slots=True)
class Shown:
    """A policy of ours, and what it sent lately; None where Harbor does not tell."""

    registry: str
    project: str
    policy: Policy
    deliveries: list[Delivery] | None


class Policies:
    """The policies of all projects that the rules name.

    Args:
        rules: name the projects.
        registries: the way to their Harbors, with logins that may manage policies.
        only: projects that are meant; empty for all.
    """

    def __init__(self, rules: Rules, registries: Registries, only: Collection[str] = ()) -> None:
        self._rules = rules
        self._registries = registries
        self._only = only
        self._versions: dict[str, str | None] = {}
        self._several = len({source.registry for source in rules.sources()}) > 1

    async def register(self, url: str, token: str | None, *, skip_cert_verify: bool | None = False) -> list[Done]:
        """Make the policies that are missing, and correct those of ours that differ.

        With several sources each Harbor's address names it, so that its events are known for its own.

        Args:
            url: the webhook's address, as Harbor reaches it.
            token: what it wants as ``Authorization``; None for nothing.
            skip_cert_verify: let Harbor take any certificate of the webhook; None for what a policy says already.
        """

        async def step(api: WebhookApi, registry: str) -> tuple[Change, str]:
            address = for_registry(url, registry) if self._several or named_registry(url) is not None else url
            form = payload_format(await self._version(api, registry))
            policies = await api.policies()
            ours = sorted((each for each in policies if each.is_ours(url)), key=lambda each: each.name != NAME)
            skip = skip_cert_verify
            if skip is None:
                skip = bool(ours) and any(target.skip_cert_verify for target in ours[0].targets if target.is_at(url))
            target = Target(address, f"Bearer {token}" if token else "", form, skip)
            note = ""
            if len(ours) > 1:
                note = f"{', '.join(each.name for each in ours[1:])} sends here too, and is left as it is"
            if not ours:
                await api.create(new_policy(target))
                return Change.CREATED, note
            if not ours[0].differs(target):
                return Change.UNCHANGED, note
            await api.update(ours[0].corrected(target))
            return Change.UPDATED, note

        return await self._each(step)

    async def unregister(self, url: str | None) -> list[Done]:
        """Remove the policies of ours: those of our name, and those that do nothing but send to ``url``."""

        async def step(api: WebhookApi, registry: str) -> tuple[Change, str]:
            await self._version(api, registry)
            ours = [each for each in await api.policies() if each.is_ours(url)]
            for policy in ours:
                await api.delete(policy)
            return (Change.REMOVED if ours else Change.ABSENT), ", ".join(each.name for each in ours)

        return await self._each(step)

    async def show(self, url: str | None) -> tuple[list[Shown], list[Done]]:
        """List the policies of our name or with our address; and the projects that have none, or can't be asked."""
        found: list[Shown] = []

        async def step(api: WebhookApi, registry: str) -> tuple[Change, str]:
            await self._version(api, registry)
            ours = [each for each in await api.policies() if each.name == NAME or each.sends_to(url)]
            found.extend([Shown(registry, api.project, each, await api.deliveries(each)) for each in ours])
            return (Change.UNCHANGED if ours else Change.ABSENT), ""

        done = await self._each(step)
        return found, [each for each in done if each.change is not Change.UNCHANGED]

    async def _version(self, api: WebhookApi, registry: str) -> str | None:
        if registry not in self._versions:
            self._versions[registry] = await api.version()
        return self._versions[registry]

    async def _each(self, step: Callable[[WebhookApi, str], Awaitable[tuple[Change, str]]]) -> list[Done]:
        """Do something for every project; what fails for one does not keep the others."""
        places, failed = await named_projects(self._rules.sources(), self._registries, self._only)
        done = [Done(registry, "", Change.FAILED, advised(error, "")) for registry, error in failed.items()]
        silent = _Silent()
        for registry, project in places:
            try:
                silent.unless_known(registry)
                transport = self._registries.transport(Repository(registry, f"{project}/x"))
                change, note = await step(WebhookApi(registry, project, transport), registry)
            except ReplicatorError as error:
                silent.failed(registry, error)
                is_harbor = not isinstance(error, NoHarbor)
                done.append(Done(registry, project, Change.FAILED, advised(error, project), is_harbor))
            else:
                silent.answered(registry)
                done.append(Done(registry, project, change, note))
        return done


class _Silent:
    """Which registries are not asked about further projects: nothing would come of it but waiting."""

    def __init__(self) -> None:
        self._in_a_row: dict[str, int] = {}
        self._given_up: dict[str, ReplicatorError] = {}

    def unless_known(self, registry: str) -> None:
        """Raise why a registry is not to be asked, if it is not."""
        if registry in self._given_up:
            raise self._given_up[registry]

    def answered(self, registry: str) -> None:
        self._in_a_row[registry] = 0

    def failed(self, registry: str, error: ReplicatorError) -> None:
        passing = isinstance(error, RegistryError) and error.error_class is ErrorClass.TRANSIENT
        self._in_a_row[registry] = self._in_a_row.get(registry, 0) + 1 if passing else 0
        if isinstance(error, NoHarbor) or self._in_a_row[registry] >= _GIVEN_UP_AFTER:
            self._given_up[registry] = error


def advised(error: ReplicatorError, project: str) -> str:
    """Return what Harbor's refusal to manage a project's policies means, and what to do about it."""
    advice = ""
    if not isinstance(error, RegistryError):
        return str(error)
    if isinstance(error, NoHarbor):
        advice = "this is no Harbor: nothing tells of its pushes, and only the reconcile finds them"
    elif isinstance(error, Unauthorized):
        advice = (
            f"check username and password of {error.registry} under auth, and whether its robot account has expired; "
            "an anonymous login may not manage webhooks"
        )
    elif isinstance(error, Denied):
        advice = (
            f"the login may not do this in the project {project!r}, or there is no such project: use an administrator "
            "of the project (replicator webhook register --user NAME), or a robot account with all permissions of "
            "notification-policy"
            if project
            else "the login may not list projects: name them (replicator webhook register --project NAME), or use "
            "another login (--user NAME)"
        )
    elif isinstance(error, NotFound):
        advice = (
            f"there is no project {project!r} that this login sees, or this Harbor is older than 2.0 and has no "
            "webhook policies: make it in its UI"
        )
    elif error.status == 409:
        advice = "a policy of this name was made meanwhile: run it again"
    elif isinstance(error, Refused):
        advice = "Harbor does not take such a policy: is the address one that it can reach?"
    return f"{error}; {advice}" if advice else str(error)
