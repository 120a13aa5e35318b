"""One copy and one image on the status page: the facts about a destination, and the rules for a source."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from replicator.aliyun.acr import Network, endpoint_of
from replicator.harbor.policy import canonical
from replicator.queue import (
    EndedFilter,
    QueueUnavailable,
    list_attempts,
    list_heard,
    look_up,
    read_ended,
)
from replicator.queue.job import share_of
from replicator.queue.records import moment
from replicator.reference import Reference, full_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from replicator.queue import Ended, HeardProject, KnownDestination, Queue
    from replicator.queue.attempt import Failure
    from replicator.rules import CopyRequest, Rules
    from replicator.rules.request import Explanation

MAX_REFERENCE = 600
"""Characters of a reference that a form or an address names."""
MOST_ATTEMPTS = 50
"""Ends, and failed attempts, of one copy on its page."""
MOST_EXPLAINED = 20
"""Rules without a match that an explanation names."""
_DEADLINE = 5.0


@dataclass(frozen=True, slots=True)
class CopyFacts:
    """The facts about one destination.

    Attributes:
        destination: its reference.
        now: the time of Redis (UTC).
        known: its job, its dead letter, and what it was observed to hold.
        ended: how its jobs ended lately, the newest first.
        attempts: its failed attempts that another followed, the newest first.
        heard: the projects that have sent events.
    """

    destination: str
    now: datetime
    known: KnownDestination
    ended: Sequence[Ended]
    attempts: Sequence[Failure]
    heard: Sequence[HeardProject]

    @classmethod
    async def read(cls, queue: Queue, destination: str) -> CopyFacts:
        """Read the queue.

        Raises:
            QueueUnavailable: Redis does not answer within a few seconds.
        """
        try:
            async with asyncio.timeout(_DEADLINE):
                now, *_ = await queue.ask("clock_show")
                (known,) = await look_up(queue, [destination])
                page = await read_ended(queue, EndedFilter(destination=destination), most=1000)
                ended = [each for each in page.jobs if each.id == destination][:MOST_ATTEMPTS]
                attempts = (await list_attempts(queue, destination))[:MOST_ATTEMPTS]
                return cls(destination, moment(now), known, ended, attempts, await list_heard(queue))
        except TimeoutError:
            raise QueueUnavailable(f"{queue.where} did not answer everything within {_DEADLINE:g} s") from None

    @property
    def source(self) -> str:
        """The source that it was last copied from, or is to be; empty where nothing is known."""
        job, letter = self.known.job, self.known.letter
        payloads = [job.payload if job is not None else {}, (letter.payload if letter is not None else None) or {}]
        sources = [str(payload.get("source", "")) for payload in payloads] + [each.source for each in self.ended]
        return next(filter(None, sources), "")

    @property
    def state(self) -> str:
        """``queued``, ``running``, ``waiting``, ``paused``, ``dead``, ``ended``, ``seen`` or ``unknown``."""
        if self.known.job is not None:
            return self.known.job.state
        if self.known.letter is not None:
            return "dead"
        if self.ended:
            return "ended"
        return "seen" if self.known.observed is not None else "unknown"

    @property
    def seen(self) -> datetime | None:
        """When the destination was last observed to hold its image (UTC); None where that is not certain."""
        observed = self.known.observed
        return moment(observed.time) if observed is not None else None

    @property
    def share(self) -> float | None:
        """How much of the running attempt is done, from 0 to 1; None where that is unknown."""
        running = self.known.job.running if self.known.job is not None else None
        return share_of(running.bytes, running.size) if running is not None else None


def links(facts: CopyFacts, rules: Rules) -> dict[str, str]:
    """Return the addresses of a copy's ends in their own consoles, by ``harbor`` and ``acr``; only sure ones.

    Harbor's pages go by the number of a project, which its events tell in the CloudEvents format. ACR's console has a
    page of instances for each region.
    """
    found = {}
    source, destination = _parsed(facts.source), _parsed(facts.destination)
    if source is not None:
        project, _, rest = source.repository.name.partition("/")
        host = canonical(source.registry)
        numbers = [each.number for each in facts.heard if (each.host, each.project) == (host, project)]
        access = rules.credentials(source.repository)
        if rest and numbers and numbers[0] is not None and not (access is not None and access.insecure):
            name = quote(rest, safe="")
            found["harbor"] = f"https://{source.registry}/harbor/projects/{numbers[0]}/repositories/{name}"
    if destination is not None:
        endpoint = endpoint_of(destination.registry)
        if endpoint is not None and endpoint.network is not Network.INTERNATIONAL:
            found["acr"] = f"https://cr.console.aliyun.com/{endpoint.region}/instances"
    return found


@dataclass(frozen=True, slots=True)
class Explained:
    """The explanation of an image by the rules.

    Attributes:
        image: as it was asked for.
        problem: why that is no reference of an image; empty if it is one.
        matching: the decisions of the rules that match.
        others: those of rules that do not, first the ones of its registry.
        more: how many of these are left out.
        copies: the copies that the rules request.
    """

    image: str
    problem: str = ""
    matching: Sequence[Explanation] = ()
    others: Sequence[Explanation] = ()
    more: int = 0
    copies: Sequence[CopyRequest] = ()

    @property
    def copied(self) -> list[CopyRequest]:
        """The copies that can be made."""
        return [each for each in self.copies if each.problem is None]

    def to(self, destination: str) -> list[CopyRequest]:
        """Return those to one destination, or all if it is empty."""
        return [each for each in self.copied if destination in ("", str(each.destination))]


def explain(rules: Rules, image: str) -> Explained:
    """Apply the rules to an image at its source; no request is sent."""
    try:
        reference = Reference.parse(full_name(image))
    except ValueError as error:
        return Explained(image, str(error))
    decisions, copies = rules.explain(reference), rules.destinations(reference)
    others = [each for each in decisions if not each.matches]
    others.sort(key=lambda each: not each.rule.startswith(f"{reference.registry}/"))
    return Explained(
        str(reference),
        matching=[each for each in decisions if each.matches],
        others=others[:MOST_EXPLAINED],
        more=max(0, len(others) - MOST_EXPLAINED),
        copies=copies,
    )


def _parsed(text: str) -> Reference | None:
    try:
        return Reference.parse(text)
    except ValueError:
        return None
