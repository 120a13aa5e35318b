"""A soak tells growth from fluctuation, and ends well at a size that says nothing about an hour."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.measuring import RunFailed
from benchmarks.soak.flatness import Sample, course, growth, sample
from benchmarks.soak.program import Soak, judge, report, soak

MIB = 2**20


def samples(memory: list[float], descriptors: int = 20) -> list[Sample]:
    return [Sample(float(place), int(value * MIB), descriptors) for place, value in enumerate(memory)]


def test_a_process_holds_memory_and_descriptors() -> None:
    before = sample(os.getpid())
    nothing = Path(os.devnull)
    with nothing.open(), nothing.open():
        during = sample(os.getpid())
    assert before.memory > MIB
    assert during.descriptors == before.descriptors + 2


def test_a_course_leaves_the_warm_up_aside_and_tells_what_an_hour_adds() -> None:
    found = course(samples([1.0] * 10 + [100 + place for place in range(91)]), "memory")
    assert found.slope == pytest.approx(3600 * MIB)
    assert found.first == pytest.approx(111 * MIB, rel=0.01)
    assert found.last == pytest.approx(179 * MIB, rel=0.01)


def test_ups_and_downs_are_no_growth_and_a_leak_is() -> None:
    assert growth(samples([80 + place % 5 for place in range(200)])) == []
    (said,) = growth(samples([80 + place for place in range(200)]))
    assert said.startswith("memory grew from")
    leaking = [Sample(one.at, one.memory, int(one.at)) for one in samples([80] * 200)]
    (said,) = growth(leaking)
    assert said.startswith("open descriptors grew")


def test_a_tag_that_is_wrong_and_a_copy_that_was_given_up_end_a_soak_badly() -> None:
    flat = samples([80] * 20)
    judge(Soak(samples=flat))
    with pytest.raises(RunFailed, match="1 tags are not right: team/app0:v0"):
        judge(Soak(samples=flat, wrong=["team/app0:v0"]))
    with pytest.raises(RunFailed, match="given up: permanent: no"):
        judge(Soak(samples=flat, dead=["permanent: no"]))


async def test_every_tag_is_right_after_a_short_soak(tmp_path: Path) -> None:
    done = await soak(0.15, tmp_path)
    assert done.wrong == []
    assert done.dead == []
    assert done.counts["pushes"] > 0
    assert done.counts["faults"] > 0
    assert len(done.samples) > 3
    assert report(done).title == "soak of 0.15 minutes"
    assert not list(tmp_path.iterdir()), "something was left behind"
