"""The number of series is bounded, however many names come from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from replicator.harbor.events import Fate
from replicator.queue import AttemptEnd, Lane, Queue
from replicator.rules import parse
from replicator.server.metrics import Metrics
from replicator.server.metrics.counters import MOST_VALUES, OTHER, BoundedLabels
from tests.server.metrics.test_conventions import ACR, attempt, exposed, use

if TYPE_CHECKING:
    from replicator.rules import Rules

HOSTILE = ['"', "\\", "\n", '"} 1\nreplicator_up{x="', "\x00", "\u202e", "\udcff", "é" * 5000, "", "other", " "]


def names() -> list[str]:
    return [f"{HOSTILE[number % len(HOSTILE)]}{number}" for number in range(1000)] + HOSTILE


async def test_a_thousand_unknown_names_make_no_series(metrics: Metrics) -> None:
    use(metrics)
    for name in names():
        break_in(metrics, name)
    before = await exposed(metrics)
    for name in names():
        break_in(metrics, name)
    after = await exposed(metrics)
    assert sum(len(family.samples) for family in after.families) == sum(len(f.samples) for f in before.families)
    own = [family for family in after.families if family.name.startswith("replicator_")]
    assert sum(len(family.samples) for family in own) < 400
    assert after.value("replicator_copies_total", rule=OTHER) == 2 * len(names())
    assert after.value("replicator_registry_throttled_total", host=OTHER) == 2 * len(names())


def break_in(metrics: Metrics, name: str) -> None:
    """Use a name wherever one can come from outside."""
    metrics.deliveries.delivered(name, Fate.IGNORED)
    metrics.attempts.attempt_ended(attempt(AttemptEnd.DEAD, rule=name))
    for count in (metrics.requests.received, metrics.requests.sent):
        count(name, 1)
    metrics.requests.throttled(name)
    metrics.requests.answered(name, "GET", 200, 0.1)


@pytest.mark.parametrize("rule", [None, 7, ["a"], {"a": 1}])
async def test_a_stored_job_whose_rule_is_not_text_is_counted_as_other(metrics: Metrics, rule: object) -> None:
    metrics.attempts.attempt_ended(attempt(rule=rule))
    assert (await exposed(metrics)).counted("replicator_copies_total") == {(ACR, "events", "copied", OTHER): 1}


async def test_every_status_that_http_does_not_define_is_one_series(metrics: Metrics) -> None:
    for status in range(100, 1000):
        metrics.requests.answered("harbor.example.com", "GET", status, 0.1)
    found = (await exposed(metrics)).counted("replicator_registry_requests_total")
    assert len(found) < 70
    assert found["harbor.example.com", "GET", OTHER] > 800


@pytest.mark.scale
async def test_a_rules_file_of_ten_thousand_rules_does_not_make_as_many_series(queue: Queue) -> None:
    rules = many_rules(10_000, ACR)
    metrics = Metrics(rules, queue, None)
    for key in rules.keys:
        metrics.attempts.attempt_ended(attempt(rule=key, lane=Lane.BACKFILL))
    found = await exposed(metrics)
    series = found.counted("replicator_copies_total")
    assert len(series) == MOST_VALUES + 1
    assert series[ACR, "backfill", "copied", OTHER] == 10_000 - MOST_VALUES
    assert series[ACR, "backfill", "copied", rules.keys[0]] == 1
    assert len(found.series("replicator_copies_total", outcome="failed")) == 2 * (MOST_VALUES + 2)


def many_rules(number: int, host: str = "registry.example.com") -> Rules:
    images = "\n".join(f"  harbor.example.com/team/a{n}: {host}/team/a{n}" for n in range(number))
    auth = f"{{harbor.example.com: {{anonymous: true}}, {host}: {{anonymous: true}}}}"
    return parse(f"auth: {auth}\nimages:\n{images}\n", "rules", environ={})


@pytest.mark.parametrize("name", HOSTILE)
def test_a_known_name_is_a_label_that_can_be_encoded(name: str) -> None:
    label = BoundedLabels([name]).label(name)
    label.encode()
    assert len(label) <= 200


async def test_new_rules_get_series_of_their_own_after_a_reload(metrics: Metrics) -> None:
    metrics.attempts.attempt_ended(attempt(rule="harbor.example.com/team/a1"))
    metrics.add_labels(many_rules(3))
    metrics.attempts.attempt_ended(attempt(rule="harbor.example.com/team/a1"))
    metrics.requests.throttled("registry.example.com")
    found = await exposed(metrics)
    assert found.value("replicator_copies_total", rule="harbor.example.com/team/a1") == 1
    assert found.value("replicator_copies_total", rule=OTHER) == 1
    assert found.value("replicator_registry_throttled_total", host="registry.example.com") == 1
