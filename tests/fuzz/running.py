"""Runs a target on numbered inputs, with a time limit for each."""

from __future__ import annotations

import signal
import time
import traceback
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from tests.fuzz.mutating import mutated

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import FrameType

    from tests.fuzz.targets import Target

SLOW_SECONDS = 1.0
"""CPU time of one input above which it is a finding: at most 64 KiB are to be read."""
_GIVEN_UP_SECONDS = 20
_MOST_FINDINGS = 5


class _Overrun(BaseException):
    """An input took far too long; no parser catches it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """An input that breaks a promise.

    Attributes:
        number: by which it can be made again.
        text: the input.
        what: what it did.
    """

    number: int
    text: str
    what: str


@dataclass(frozen=True, slots=True)
class Run:
    """What a number of inputs did.

    Attributes:
        inputs: how many there were.
        taken: how many of them were understood.
        slowest: CPU seconds of the slowest, and its number.
        findings: what is wrong, a few at the most.
    """

    inputs: int
    taken: int
    slowest: tuple[float, int]
    findings: tuple[Finding, ...]


def made(target: Target, seed: int, number: int) -> str:
    """Return the input of a number."""
    return mutated(target.seeds, Random(seed << 48 | number))


def run(target: Target, seed: int, numbers: Iterable[int]) -> Run:
    """Give a target inputs, and stop after a few findings. In the main thread of a process alone."""
    inputs = taken = 0
    slowest = (0.0, -1)
    findings: list[Finding] = []
    with _bounded():
        for number in numbers:
            text = made(target, seed, number)
            inputs += 1
            signal.setitimer(signal.ITIMER_VIRTUAL, _GIVEN_UP_SECONDS)
            began = time.process_time()
            try:
                target.attempt(text)
                taken += 1
            except target.refusals:
                pass
            except (Exception, _Overrun):  # noqa: BLE001 - whatever is not documented is what is looked for
                findings.append(Finding(number, text, traceback.format_exc(limit=-6)))
            seconds = time.process_time() - began
            slowest = max(slowest, (seconds, number))
            if seconds > SLOW_SECONDS:
                findings.append(Finding(number, text, f"took {seconds:.1f} s for {len(text)} characters"))
            if len(findings) >= _MOST_FINDINGS:
                break
    return Run(inputs, taken, slowest, tuple(findings))


@contextmanager
def _bounded() -> Iterator[None]:
    def give_up(_: int, __: FrameType | None) -> None:
        raise _Overrun

    before = signal.signal(signal.SIGVTALRM, give_up)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
