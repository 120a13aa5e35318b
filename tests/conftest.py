from __future__ import annotations

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.standins.fixtures"]

# How long an example takes is the machine's affair: no test asserts a time.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")
