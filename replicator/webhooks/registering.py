"""Webhook policies made unattended: each reconcile makes sure of those in all projects that the rules name.

What fails is no reason to stop, and is told once a project and cause, by the process that met it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from replicator.errors import ConfigError, Problem
from replicator.webhooks.managing import Change, Policies

if TYPE_CHECKING:
    from replicator.registry import Registries
    from replicator.rules import Rules
    from replicator.settings import Settings
    from replicator.webhooks.managing import Done

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

    def _tell(self, news: list[Done]) -> None:
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
