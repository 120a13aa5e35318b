"""The registration of webhook policies: one in each project that the rules name, on command or at each reconcile.

An error in one project does not stop the others. At reconciles it is logged once for each project and cause, by the
process that met it.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

import structlog

from replicator.errors import ConfigError, Problem, ReplicatorError
from replicator.harbor.api import SILENT, CircuitBreaker, HarborApi, NoHarbor, SystemInfo, advised
from replicator.harbor.policy import (
    NAME,
    PolicyTarget,
    WebhookApi,
    canonical,
    for_registry,
    named_registry,
    new_policy,
    payload_format,
)
from replicator.reference import Repository
from replicator.registry.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable

    from replicator.harbor.policy import Delivery, Policy
    from replicator.registry import Registries
    from replicator.rules import Rules, Source
    from replicator.settings import Settings

log = structlog.get_logger("replicator.webhooks")

_SHOWN_FAILURES = 20
_DELETE_PAUSE = 2.0
"""Seconds between two attempts to delete a policy whose deliveries have not ended."""
_WHY = "REPLICATOR_WEBHOOK_REGISTER=true needs it: "


class Change(StrEnum):
    """What was done to a project's policy."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    REMOVED = "removed"
    ABSENT = "absent"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """The result for one project.

    Attributes:
        registry: the Harbor.
        project: empty if the projects could not be listed.
        note: why it failed and what to do, or anything else worth knowing; may be empty.
        is_harbor: False if it failed because the registry is not a Harbor.
    """

    registry: str
    project: str
    change: Change
    note: str = ""
    is_harbor: bool = True


@dataclass(frozen=True, slots=True)
class PolicyStatus:
    """One of our policies, with its last deliveries; None if Harbor has no list of them."""

    registry: str
    project: str
    policy: Policy
    deliveries: list[Delivery] | None


async def named_projects(
    sources: Iterable[Source], registries: Registries, only: Collection[str] = ()
) -> tuple[list[tuple[str, str]], dict[str, ReplicatorError]]:
    """Find the projects that sources of rules name; those of a pattern over projects come from Harbor's list.

    Args:
        sources: see `Rules.sources`.
        registries: the connections to the Harbors.
        only: projects to keep, of those that the rules name; empty for all.

    Returns:
        Registry and project of each, sorted; and the error of each registry whose projects could not be listed.
    """
    found: set[tuple[str, str]] = set()
    failed: dict[str, ReplicatorError] = {}
    listed: dict[str, list[str]] = {}
    for source in sources:
        project = source.project
        # A repository without a project is not at a Harbor, and has no policy.
        if project is None and source.repository is not None:
            project = source.repository.name.partition("/")[0] if "/" in source.repository.name else None
            if project is None:
                continue
        if project is not None:
            found.add((source.registry, project))
            continue
        # Projects in ``only`` need no list, which not every login may read.
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


class Policies:
    """The policies of all projects that the rules name.

    Args:
        registries: the connections to the Harbors, with logins that may manage policies.
        only: the projects to manage; empty for all.
        user: replaces the user names of the rules; empty for none.
    """

    def __init__(self, rules: Rules, registries: Registries, only: Collection[str] = (), user: str = "") -> None:
        self._user = user
        self._rules = rules
        self._registries = registries
        self._only = only
        self._systems: dict[str, SystemInfo] = {}
        # The first of the rules' spellings of each Harbor: with another, each would correct the policy of the other.
        self._spellings: dict[str, str] = {}
        for source in rules.sources():
            self._spellings.setdefault(canonical(source.registry), source.registry)
        self._several = len(self._spellings) > 1

    async def register(
        self, url: str, token: str | None, *, skip_cert_verify: bool | None = False
    ) -> list[PolicyChange]:
        """Create the policies that are missing, and correct those of ours that differ.

        If the rules have several sources, each Harbor's address names it, so that its events are known as its own.

        Args:
            url: the webhook's address, as Harbor reaches it.
            token: to send as ``Authorization``; None for none.
            skip_cert_verify: whether Harbor accepts any certificate of the webhook; None to leave a policy as it is.
        """

        async def step(api: WebhookApi, registry: str) -> tuple[Change, str]:
            named = self._several or named_registry(url) is not None
            address = for_registry(url, self._spellings[canonical(registry)]) if named else url
            form = payload_format((await self._system(api, registry)).version)
            policies = await api.policies()
            # The one with our name first: that one is corrected, and the others are mentioned.
            ours = sorted((each for each in policies if each.is_ours(url)), key=lambda each: each.name != NAME)
            skip = skip_cert_verify
            if skip is None:
                skip = bool(ours) and any(target.skip_cert_verify for target in ours[0].targets if target.is_at(url))
            target = PolicyTarget(address, f"Bearer {token}" if token else "", form, skip)
            note = ""
            if len(ours) > 1:
                note = f"{', '.join(each.title for each in ours[1:])} also sends here, and stays unchanged"
            if not ours:
                await api.create(new_policy(target))
                return Change.CREATED, note
            if not ours[0].differs(target):
                return Change.UNCHANGED, note
            await api.update(ours[0].corrected(target))
            return Change.UPDATED, note

        return await self._each(step)

    async def unregister(
        self, url: str | None, *, patience: float = 60.0, on_wait: Callable[[int], None] | None = None
    ) -> list[PolicyChange]:
        """Remove our policies: those with our name, and those that send to ``url`` and nowhere else.

        They are disabled first, since Harbor keeps a policy for a while after each event.

        Args:
            url: the webhook's address, as Harbor reaches it; None if it is not known.
            patience: seconds for which deletions are retried.
            on_wait: called with the number of projects before that.
        """
        kept: dict[tuple[str, str], tuple[WebhookApi, list[Policy]]] = {}

        async def step(api: WebhookApi, registry: str) -> tuple[Change, str]:
            await self._system(api, registry)
            ours = [each for each in await api.policies() if each.is_ours(url)]
            for policy in ours:
                # A policy that can't be changed may still be deletable.
                with contextlib.suppress(Refused):
                    await api.update(replace(policy, enabled=False))
            if remaining := [policy for policy in ours if not await api.delete(policy)]:
                kept[registry, api.project] = api, remaining
            return (Change.REMOVED if ours else Change.ABSENT), ", ".join(each.title for each in ours)

        done = await self._each(step)
        if kept and on_wait is not None:
            on_wait(len(kept))
        failed = await _delete_later(kept, patience)
        return [
            each
            if (note := failed.get((each.registry, each.project))) is None
            else replace(each, change=Change.FAILED, note=note)
            for each in done
        ]

    async def show(self, url: str | None) -> tuple[list[PolicyStatus], list[PolicyChange]]:
        """List the policies with our name or address (`is_receiver`), and the projects without one or that failed."""
        found: list[PolicyStatus] = []

        async def step(api: WebhookApi, registry: str) -> tuple[Change, str]:
            await self._system(api, registry)
            ours = [p for p in await api.policies() if p.name == NAME or any(t.is_receiver(url) for t in p.targets)]
            found.extend([PolicyStatus(registry, api.project, each, await api.deliveries(each)) for each in ours])
            return (Change.UNCHANGED if ours else Change.ABSENT), ""

        done = await self._each(step)
        return found, [each for each in done if each.change is not Change.UNCHANGED]

    def silent(self) -> list[str]:
        """Return the Harbors asked so far whose system settings switch webhooks off."""
        return sorted(registry for registry, system in self._systems.items() if not system.notifies)

    async def _system(self, api: WebhookApi, registry: str) -> SystemInfo:
        """Return Harbor's system information, which also shows that it is a Harbor; one request for each registry."""
        if registry not in self._systems:
            self._systems[registry] = await api.system()
        return self._systems[registry]

    async def _each(self, step: Callable[[WebhookApi, str], Awaitable[tuple[Change, str]]]) -> list[PolicyChange]:
        """Run ``step`` for every project once; an error in one does not stop the others."""
        places, failed = await named_projects(self._rules.sources(), self._registries, self._only)
        done: dict[tuple[str, str], PolicyChange] = {}
        for registry, error in failed.items():
            done[canonical(registry), ""] = self._failed(registry, "", error)
        breaker = CircuitBreaker()
        for registry, project in places:
            place = canonical(registry), project
            # Another spelling of the Harbor may have another login.
            if place in done and done[place].change is not Change.FAILED:
                continue
            try:
                breaker.check(registry)
                # Any repository represents the project: the rules may have a separate login for a project.
                transport = self._registries.transport(Repository(registry, f"{project}/x"))
                change, note = await step(WebhookApi(registry, project, transport), registry)
            except ReplicatorError as error:
                breaker.failed(registry, error)
                done[place] = self._failed(registry, project, error)
            else:
                breaker.answered(registry)
                done[place] = PolicyChange(registry, project, change, note)
        return list(done.values())

    def _failed(self, registry: str, place: str, error: ReplicatorError) -> PolicyChange:
        text, is_harbor = advised(error, place, self._user), not isinstance(error, NoHarbor)
        return PolicyChange(registry, place, Change.FAILED, text, is_harbor)


async def _delete_later(
    kept: dict[tuple[str, str], tuple[WebhookApi, list[Policy]]], patience: float
) -> dict[tuple[str, str], str]:
    """Delete disabled policies of projects, with retries for ``patience`` seconds; return the failures and why."""
    failed: dict[tuple[str, str], str] = {}
    clock = asyncio.get_running_loop().time
    until = clock() + patience
    while kept and (left := until - clock()) > 0:
        await asyncio.sleep(min(left, _DELETE_PAUSE))
        for place, (api, policies) in list(kept.items()):
            try:
                remaining = [policy for policy in policies if not await api.delete(policy)]
            except ReplicatorError as error:
                failed[place] = advised(error, place[1])
                remaining = []
            kept[place] = api, remaining
            if not remaining:
                del kept[place]
    for place, (_, policies) in kept.items():
        failed[place] = (
            f"{', '.join(policy.title for policy in policies)} is disabled and sends nothing, but still exists: "
            f"deliveries had not ended after {patience:g} s, and Harbor deletes it after the last; run this again later"
        )
    return failed


def registration_problems(settings: Settings) -> list[Problem]:
    """Return what keeps reconciles from registering policies; nothing if the settings do not ask for that."""
    if not settings.webhook_register:
        return []
    problems = []
    if settings.webhook_url is None:
        what = "the webhook's URL as Harbor reaches it, e.g. https://replicator.example.com/webhooks/harbor"
        problems.append(Problem("REPLICATOR_WEBHOOK_URL", f"{_WHY}set it to {what}"))
    problems += _missing_token(settings)
    if settings.schedule is None:
        what = "policies are registered by reconciles, which are off"
        problems.append(Problem("REPLICATOR_RECONCILE", f"{_WHY}{what}; set it to e.g. 24h"))
    return problems


def needed_for_policies(settings: Settings) -> None:
    """Check that settings which ask for policies have all that it takes.

    Raises:
        ConfigError: with everything that is missing.
    """
    if problems := registration_problems(settings):
        raise ConfigError("settings", problems)


def open_registrar(settings: Settings, rules: Rules, registries: Registries) -> Registrar | None:
    """Return the registrar for reconciles; None if the settings do not ask for one."""
    if not settings.webhook_register or settings.webhook_url is None:
        return None
    return Registrar(rules, registries, settings.webhook_url, settings.token)


class Registrar:
    """Registers the policies at each reconcile, with the rules' own logins.

    Args:
        url: the webhook's address, as Harbor reaches it.
        token: to send as ``Authorization``; None for none.
    """

    def __init__(self, rules: Rules, registries: Registries, url: str, token: str | None) -> None:
        self._rules = rules
        self._registries = registries
        self._url = url
        self._token = token
        self._reported: dict[tuple[str, str], str] = {}
        self._silent: list[str] = []

    def renew(self, settings: Settings, rules: Rules) -> None:
        """Use other rules, and the token of the settings, from the next run on.

        Raises:
            ConfigError: the token is gone; nothing is changed.
        """
        # Without this check Harbor would get a policy without a token, and every delivery would be refused.
        if problems := _missing_token(settings):
            raise ConfigError("settings", problems)
        self._rules = rules
        self._token = settings.token

    async def run(self) -> int:
        """Create or correct what is missing or differs, and log it.

        Whether Harbor verifies the webhook's certificate stays as a person has decided.

        Returns:
            The number of projects that failed; a Harbor whose projects can't be listed counts as one. A source that
            is not a Harbor has no policies to miss.
        """
        policies = Policies(self._rules, self._registries)
        done = await policies.register(self._url, self._token, skip_cert_verify=None)
        silent = policies.silent()
        for registry in sorted({*silent} - {*self._silent}):
            log.warning("webhooks switched off", registry=registry, error=SILENT)
        self._silent = silent
        failed = {(each.registry, each.project): each for each in done if each.change is Change.FAILED}
        for each in done:
            recovered = (each.registry, each.project) in self._reported.keys() - failed.keys()
            if recovered or each.change in (Change.CREATED, Change.UPDATED):
                log.info("webhook registered", registry=each.registry, project=each.project, change=str(each.change))
        self._report([each for place, each in failed.items() if self._reported.get(place) != each.note])
        self._reported = {place: each.note for place, each in failed.items()}
        return sum(each.is_harbor for each in failed.values())

    def _report(self, failures: list[PolicyChange]) -> None:
        """Log failures that the last run did not have, or not in the same words."""
        for each in failures[:_SHOWN_FAILURES]:
            # A source that can't have policies is no fault that anybody has to mend.
            say = log.warning if each.is_harbor else log.info
            say("webhook not registered", registry=each.registry, project=each.project, error=each.note)
        if len(failures) > _SHOWN_FAILURES:
            advice = "replicator webhook list shows all"
            log.warning("webhooks not registered", more=len(failures) - _SHOWN_FAILURES, advice=advice)


def _missing_token(settings: Settings) -> list[Problem]:
    if settings.token is not None or settings.webhook_anonymous:
        return []
    what = "set it to the token of replicator serve, in every process that may run a reconcile: Harbor has to send it"
    return [Problem("REPLICATOR_WEBHOOK_TOKEN", _WHY + what)]
