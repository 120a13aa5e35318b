"""The headline of the status page: the most important fact, as a sentence in the page's language."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from replicator.harbor.api import SILENT
from replicator.queue.job import login_of

if TYPE_CHECKING:
    from replicator.queue import KeySilence, Pause
    from replicator.server.page.facts import Facts
    from replicator.server.page.language import Messages


@dataclass(frozen=True, slots=True)
class Health:
    """The headline: how serious it is (``good``, ``warning`` or ``bad``), a sentence, the stored error behind it."""

    level: str
    sentence: str
    detail: str = ""


def health(facts: Facts, t: Messages) -> Health:
    """Return the most important fact: what has stopped, then what needs a person, then what is in progress."""
    looks = (_stopped, _misconfigured, _unheard, _given_up)
    return next((found for look in looks if (found := look(facts, t)) is not None), _in_progress(facts, t))


def _stopped(facts: Facts, t: Messages) -> Health | None:
    """Report copies that can't start at all."""
    status = facts.status
    if not any(not worker.stopping for worker in status.workers):
        queued = sum(lane.queued for lane in status.counts.lanes.values())
        return Health("bad", t("health.no_worker_queued", number=queued) if queued else t("health.no_worker"))
    if status.unserved:
        lanes = [
            t("health.lane_queued", lane=lane, number=status.counts.lanes[lane].queued) for lane in status.unserved
        ]
        return Health("bad", t("health.unserved", lanes=f" {t('or')} ".join(lanes)))
    if status.pauses:
        sentence = paused(status.pauses[0], t)
        return Health("warning", _with_others(sentence[0].upper() + sentence[1:], len(status.pauses), t))
    return None


def _misconfigured(facts: Facts, t: Messages) -> Health | None:
    """Report processes that do not use the current files, or not the same rules."""
    status = facts.status
    if refused := [process for process in facts.processes if process.problem]:
        number = f"{t('health.processes', number=len(refused))}{t('colon')}" if len(refused) > 1 else ""
        sentence = t("health.config")
        if out := sorted({name for process in refused for name in process.out}):
            key = "health.rules_out_more" if len(out) > 1 else "health.rules_out"
            sentence = t(key, file=out[0], number=len(out) - 1)
        return Health("warning", sentence, f"{number}{refused[0].problem}")
    if status.differing is not None and status.differing.is_old:
        return Health("warning", t("health.differing"), status.differing.sentence)
    if status.ownerless:
        return Health("warning", t("health.ownerless", number=status.ownerless))
    return None


def _unheard(facts: Facts, t: Messages) -> Health | None:
    """Report registries that do not answer, or send no webhooks."""
    status = facts.status
    if status.silent:
        first = status.silent[0]
        return Health("warning", _with_others(silence(first, t), len(status.silent), t), first.why)
    if off := status.sweep.switched_off:
        key = "health.webhooks_off_more" if len(off) > 1 else "health.webhooks_off"
        return Health("warning", t(key, host=off[0], number=len(off) - 1), SILENT)
    return None


def _given_up(facts: Facts, t: Messages) -> Health | None:
    """Report results that need a person."""
    status = facts.status
    last, dead = status.reconcile.last, status.counts.dead
    if status.reconcile.awaits_approval and last is not None:
        held = t("health.held", number=last.findings.held, compared=last.findings.compared)
        return Health("warning", held, t("health.held_advice"))
    if dead:
        return Health("warning", t("health.dead", number=dead))
    if status.public:
        copy = status.public[0]
        which = t("health.public_which", source=copy.source, destination=copy.destination)
        return Health("warning", t("health.public", number=len(status.public)), which)
    if last is not None and last.findings.error is not None:
        return Health("warning", t("health.reconcile_failed"), last.findings.error)
    if last is not None and not last.findings.complete:
        detail = "".join(f"{each.what}: {each.why}" for each in last.findings.failures[:1])
        return Health("warning", t("health.reconcile_incomplete", what=last.findings.shortfall), detail)
    return None


def _in_progress(facts: Facts, t: Messages) -> Health:
    lanes = facts.status.counts.lanes.values()
    queued, running = sum(lane.queued for lane in lanes), sum(lane.running for lane in lanes)
    if waiting := sum(lane.waiting for lane in lanes):
        return Health("warning", t("health.retrying", number=waiting))
    if queued or running:
        return Health("good", t("health.busy", running=running, queued=queued))
    return Health("good", t("health.idle"))


def paused(pause: Pause, t: Messages) -> str:
    """Say what is paused, since when and by whom."""
    what = pause.selection.sentence if pause.selection.to_json() else t("health.everything")
    since = f"{pause.since:%Y-%m-%d %H:%M}"
    return t("health.paused", what=what, since=since, by=pause.by, number=pause.held)


def silence(found: KeySilence, t: Messages) -> str:
    """Say which registry does not answer, or refuses a login, since when, and how many copies wait for it."""
    values = {"since": f"{found.since:%Y-%m-%d %H:%M}", "number": found.total}
    login = login_of(found.key)
    if login is None:
        return t("health.silent", host=found.key, **values)
    host, account = login
    return t("health.login", host=host, account=account, **values)


def awaited(key: str, t: Messages) -> str:
    """Name the cause of a copy's wait: an answer of a registry, or a login."""
    login = login_of(key)
    return t("waiting.registry", host=key) if login is None else t("waiting.login", host=login[0])


def _with_others(sentence: str, number: int, t: Messages) -> str:
    return f"{sentence} {t('health.others', number=number - 1)}" if number > 1 else sentence
