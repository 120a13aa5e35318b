"""One webhook policy in each project that the rules name: made, corrected, or removed.

The Harbor projects that rules name.

Webhook policies made unattended: each reconcile makes sure of those in all projects that the rules name.

What fails is no reason to stop, and is told once a project and cause, by the process that met it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import structlog

from replicator.errors import ConfigError, ErrorClass, Problem, ReplicatorError
from replicator.harbor import HarborApi
from replicator.harbor.policy import NAME, PolicyTarget, for_registry, named_registry, new_policy, payload_format
from replicator.harbor.policy_api import NoHarbor, WebhookApi
from replicator.reference import Repository
from replicator.registry.errors import Denied, NotFound, Refused, RegistryError, Unauthorized

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable

    from replicator.harbor.policy import Policy
    from replicator.harbor.policy_api import Delivery
    from replicator.registry import Registries
    from replicator.rules import Rules, Source
    from replicator.settings import Settings


async def named_projects(
    sources: Iterable[Source], registries: Registries, only: Collection[str] = ()
) -> tuple[list[tuple[str, str]], dict[str, ReplicatorError]]:
    """Find the projects whose pushes rules are about.

    Args:
        sources: of the rules; the projects that a pattern over projects means are the ones that Harbor lists.
        registries: the way to the Harbors.
        only: projects that are meant, of those that the rules name; empty for all.

    Returns:
        Registry and project of each, sorted; and why a registry's projects could not be listed.
    """
    found: set[tuple[str, str]] = set()
    failed: dict[str, ReplicatorError] = {}
    listed: dict[str, list[str]] = {}
    for source in sources:
        project = source.project
        if project is None and source.repository is not None:
            project = source.repository.name.partition("/")[0] if "/" in source.repository.name else None
            if project is None:
                continue
        if project is not None:
            found.add((source.registry, project))
            continue
        # Those that are said need no list, which not every login may see.
        found |= {(source.registry, name) for name in only if source.may_be_in(name)}
        if only or source.registry in failed:
            continue
        try:
            if source.registry not in listed:
                api = HarborApi(source.registry, registries.transport(Repository(source.registry, "x")))
                listed[source.registry] = [name async for name in api.projects()]
        except ReplicatorError as error:
            failed[source.registry] = error
            continue
        found |= {(source.registry, name) for name in listed[source.registry] if source.may_be_in(name)}
    return sorted(place for place in found if not only or place[1] in only), failed


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
class PolicyChange:
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
class PolicyStatus:
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

    async def register(
        self, url: str, token: str | None, *, skip_cert_verify: bool | None = False
    ) -> list[PolicyChange]:
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
            target = PolicyTarget(address, f"Bearer {token}" if token else "", form, skip)
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

    async def unregister(self, url: str | None) -> list[PolicyChange]:
        """Remove the policies of ours: those of our name, and those that do nothing but send to ``url``."""

        async def step(api: WebhookApi, registry: str) -> tuple[Change, str]:
            await self._version(api, registry)
            ours = [each for each in await api.policies() if each.is_ours(url)]
            for policy in ours:
                await api.delete(policy)
            return (Change.REMOVED if ours else Change.ABSENT), ", ".join(each.name for each in ours)

        return await self._each(step)

    async def show(self, url: str | None) -> tuple[list[PolicyStatus], list[PolicyChange]]:
        """List the policies of our name or with our address; and the projects that have none, or can't be asked."""
        found: list[PolicyStatus] = []

        async def step(api: WebhookApi, registry: str) -> tuple[Change, str]:
            await self._version(api, registry)
            ours = [each for each in await api.policies() if each.name == NAME or each.sends_to(url)]
            found.extend([PolicyStatus(registry, api.project, each, await api.deliveries(each)) for each in ours])
            return (Change.UNCHANGED if ours else Change.ABSENT), ""

        done = await self._each(step)
        return found, [each for each in done if each.change is not Change.UNCHANGED]

    async def _version(self, api: WebhookApi, registry: str) -> str | None:
        if registry not in self._versions:
            self._versions[registry] = await api.version()
        return self._versions[registry]

    async def _each(self, step: Callable[[WebhookApi, str], Awaitable[tuple[Change, str]]]) -> list[PolicyChange]:
        """Do something for every project; what fails for one does not keep the others."""
        places, failed = await named_projects(self._rules.sources(), self._registries, self._only)
        done = [PolicyChange(registry, "", Change.FAILED, advised(error, "")) for registry, error in failed.items()]
        silent = _Silent()
        for registry, project in places:
            try:
                silent.unless_known(registry)
                transport = self._registries.transport(Repository(registry, f"{project}/x"))
                change, note = await step(WebhookApi(registry, project, transport), registry)
            except ReplicatorError as error:
                silent.failed(registry, error)
                is_harbor = not isinstance(error, NoHarbor)
                done.append(PolicyChange(registry, project, Change.FAILED, advised(error, project), is_harbor))
            else:
                silent.answered(registry)
                done.append(PolicyChange(registry, project, change, note))
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


log = structlog.get_logger("replicator.webhooks")

_SHOWN_FAILURES = 20
_WHY = "REPLICATOR_WEBHOOK_REGISTER=true needs it: "


def registration_problems(settings: Settings) -> list[Problem]:
    """Say what keeps reconciles from making policies though the settings want it; nothing where they don't."""
    if not settings.webhook_register:
        return []
    problems = []
    if settings.webhook_url is None:
        example = "say where Harbor reaches the webhook, e.g. https://replicator.example.com/webhooks/harbor"
        problems.append(Problem("REPLICATOR_WEBHOOK_URL", _WHY + example))
    problems += _lacking_token(settings)
    if settings.schedule is None:
        what = "policies are made by reconciles, and it is off"
        problems.append(Problem("REPLICATOR_RECONCILE", f"{_WHY}{what}; set it to e.g. 24h"))
    return problems


def needed_for_policies(settings: Settings) -> None:
    """Refuse settings that want policies made and lack what that needs.

    Raises:
        ConfigError: with all that is missing.
    """
    problems = registration_problems(settings)
    if problems:
        raise ConfigError("settings", problems)


def open_registrar(settings: Settings, rules: Rules, registries: Registries) -> Registrar | None:
    """Return who makes policies at each reconcile; None where the settings don't want that."""
    if not settings.webhook_register or settings.webhook_url is None:
        return None
    return Registrar(rules, registries, settings.webhook_url, settings.token)


class Registrar:
    """Makes sure of the policies again and again, under the rules' own logins.

    Args:
        rules: name the projects; those that patterns mean are listed anew each time.
        registries: the way to their Harbors.
        url: the webhook's address, as Harbor reaches it.
        token: what it wants as ``Authorization``; None for nothing.
    """

    def __init__(self, rules: Rules, registries: Registries, url: str, token: str | None) -> None:
        self._rules = rules
        self._registries = registries
        self._url = url
        self._token = token
        self._told: dict[tuple[str, str], str] = {}

    def renew(self, settings: Settings, rules: Rules) -> None:
        """Name the projects by other rules, and give Harbor the token of now, from the next run on.

        Raises:
            ConfigError: there is no token any more; nothing is changed.
        """
        # Harbor would be told to send none, and every delivery be refused.
        if problems := _lacking_token(settings):
            raise ConfigError("settings", problems)
        self._rules = rules
        self._token = settings.token

    async def run(self) -> int:
        """Make or correct what is missing or differs, and log that.

        Whether Harbor verifies the webhook's certificate stays as a person decided.

        Returns:
            In how many projects that failed; a Harbor whose projects can't be listed counts as one. A source that is
            no Harbor has no policies to miss.
        """
        done = await Policies(self._rules, self._registries).register(self._url, self._token, skip_cert_verify=None)
        failed = {(each.registry, each.project): each for each in done if each.change is Change.FAILED}
        for each in done:
            healed = (each.registry, each.project) in self._told.keys() - failed.keys()
            if healed or each.change in (Change.CREATED, Change.UPDATED):
                log.info("webhook registered", registry=each.registry, project=each.project, change=str(each.change))
        self._tell([each for place, each in failed.items() if self._told.get(place) != each.note])
        self._told = {place: each.note for place, each in failed.items()}
        return sum(each.is_harbor for each in failed.values())

    def _tell(self, news: list[PolicyChange]) -> None:
        """Log failures that were not there before in the same words."""
        for each in news[:_SHOWN_FAILURES]:
            # A source that never has policies is no fault: its owner is told, and need not do anything.
            say = log.warning if each.is_harbor else log.info
            say("webhook not registered", registry=each.registry, project=each.project, error=each.note)
        if len(news) > _SHOWN_FAILURES:
            more = len(news) - _SHOWN_FAILURES
            log.warning("webhooks not registered", more=more, advice="replicator webhook list shows all")


def _lacking_token(settings: Settings) -> list[Problem]:
    if settings.token is not None or settings.webhook_anonymous:
        return []
    what = "set it to what replicator serve has, so that Harbor sends it, in every process that may run a reconcile"
    return [Problem("REPLICATOR_WEBHOOK_TOKEN", _WHY + what)]
