from __future__ import annotations

import gc
import itertools
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from replicator.aliyun.acr import EDITIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["tests.standins.fixtures"]

# How long an example takes is the machine's affair: no test asserts a time.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


# Thousands of tests are collected, and nothing of them is ever garbage. To look for it took most of the time of that.
gc.disable()


def pytest_collection_finish() -> None:
    """Collect garbage from here on, but only among what the tests make."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _editions() -> Iterator[None]:
    """Forget what a test's registries have told of themselves: others use the same names."""
    yield
    EDITIONS.clear()


@pytest.fixture(params=["loop", "thread"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Bodies of uploads that the event loop moves, and the same that a thread moves."""
    monkeypatch.setattr("replicator.registry.upload_body.LEAST", 0 if request.param == "thread" else 10**12)
    monkeypatch.setattr("replicator.registry.pump.CHUNK", 16 * 1024)
    return str(request.param)


def pytest_xdist_auto_num_workers() -> int:
    """Run three tests on two cores: many wait for a timer or another process most of their time."""
    cores = len(os.sched_getaffinity(0))
    return cores + (cores + 1) // 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have half of the workers begin with the end-to-end tests, which mostly wait, beside tests that mostly compute.

    A worker gets a run of tests that follow each other, and others steal from its end. In the order of the files, one
    worker had nearly all of the slow ones, and they were all that was left at the end. They are dealt file by file: one
    whose tests share a fixture would make it in each worker.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    slow = [item for item in items if "end_to_end" in item.nodeid]
    if workers == 1 or len(slow) == len(items):
        return
    quick = [item for item in items if "end_to_end" not in item.nodeid]
    files = [list(file) for _, file in itertools.groupby(slow, lambda item: item.path)]
    share, first = len(items) // workers, workers // 2
    ordered: list[pytest.Item] = []
    for number in range(workers):
        begins = [item for file in files[number::first] for item in file] if number < first else []
        rest = max(0, share - len(begins))
        ordered += begins + quick[:rest]
        del quick[:rest]
    items[:] = ordered + quick
