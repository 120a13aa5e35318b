"""What each rule did lately."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from replicator.queue import Ended


@dataclass(frozen=True, slots=True)
class RuleActivity:
    """A rule: its key, how many of the recent copies by it ended how, and when the last one did (UTC)."""

    key: str
    results: Mapping[str, int]
    last: datetime | None


def activity(keys: Iterable[str], ended: Sequence[Ended]) -> list[RuleActivity]:
    """Count for each rule, in the order of ``keys``.

    Args:
        keys: the rules'.
        ended: recent copies, the newest first.
    """
    counts: dict[str, Counter[str]] = {}
    last: dict[str, datetime] = {}
    for entry in ended:
        counts.setdefault(entry.rule, Counter())[entry.result] += 1
        last.setdefault(entry.rule, entry.at)
    return [RuleActivity(key, counts.get(key, Counter()), last.get(key)) for key in keys]
