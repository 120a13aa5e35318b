"""Memory and open files of a process, sampled over time, and whether they grow."""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_MIB = 2**20
MOST_GROWTH = 0.2
"""Of the memory of the first quarter: what the last may have more, beside `TOLERATED_BYTES`."""
TOLERATED_BYTES = 16 * _MIB
TOLERATED_DESCRIPTORS = 16
"""Connections come and go with the faults."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process held at one moment.

    Attributes:
        at: seconds on the monotonic clock.
        memory: bytes of resident memory.
        descriptors: open file descriptors.
    """

    at: float
    memory: int
    descriptors: int


def sample(process: int) -> Sample:
    """Look at a process of this user (proc(5)).

    Raises:
        OSError: there is none.
    """
    place = Path(f"/proc/{process}")
    pages = int((place / "statm").read_text().split()[1])
    descriptors = sum(1 for _ in (place / "fd").iterdir())
    return Sample(time.monotonic(), pages * os.sysconf("SC_PAGE_SIZE"), descriptors)


@dataclass(frozen=True, slots=True)
class Course:
    """How one figure went.

    Attributes:
        first: its mean in the first quarter of the time, the warm-up left aside.
        last: its mean in the last quarter.
        slope: what it gained in an hour, by least squares over all but the warm-up.
    """

    first: float
    last: float
    slope: float


def course(samples: Sequence[Sample], figure: str) -> Course:
    """Sum up how a figure of the samples went; the first tenth is warm-up.

    Args:
        samples: four at least, in order of time.
        figure: ``memory`` or ``descriptors``.
    """
    began, ended = samples[0].at, samples[-1].at
    warm = [one for one in samples if one.at >= began + (ended - began) / 10]
    quarter = (ended - warm[0].at) / 4
    values = {one.at: float(getattr(one, figure)) for one in warm}
    first = [value for at, value in values.items() if at <= warm[0].at + quarter]
    last = [value for at, value in values.items() if at >= ended - quarter]
    slope, _ = statistics.linear_regression(list(values), list(values.values()))
    return Course(statistics.fmean(first), statistics.fmean(last), slope * 3600)


def growth(samples: Sequence[Sample]) -> list[str]:
    """Return what has grown by more than is tolerated, a sentence each."""
    memory, descriptors = course(samples, "memory"), course(samples, "descriptors")
    found = []
    if memory.last > memory.first * (1 + MOST_GROWTH) + TOLERATED_BYTES:
        found.append(f"memory grew from {memory.first / _MIB:.0f} to {memory.last / _MIB:.0f} MiB")
    if descriptors.last > descriptors.first + TOLERATED_DESCRIPTORS:
        found.append(f"open descriptors grew from {descriptors.first:.0f} to {descriptors.last:.0f}")
    return found
