from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.standins.fixtures"]

# How long an example takes is the machine's affair: no test asserts a time.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


def pytest_xdist_auto_num_workers() -> int:
    """Run three tests on two cores: many wait for a timer or another process most of their time."""
    cores = len(os.sched_getaffinity(0))
    return cores + (cores + 1) // 2
