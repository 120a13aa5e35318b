"""The stand-ins as pytest fixtures: take them with ``pytest_plugins = ["tests.standins.fixtures"]``, never by import.

All are a test's own; the real registries behind them have been emptied after another test. `tests.standins.logins` has
the users that they let in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.standins.acr import AcrStandIn
from tests.standins.distribution import end_idle, reused_distribution
from tests.standins.harbor import HarborStandIn
from tests.standins.logins import ACR_USER, HARBOR_ADMIN, HARBOR_ROBOT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

QUICK_BACKOFF = (0.02, 0.05)
"""Seconds between the attempts to deliver an event, instead of Harbor's minutes."""

PATIENCE = 30.0
"""Seconds that a receiver has, instead of Harbor's three: a machine that is busy must not make one event two."""


@pytest.fixture(scope="session", autouse=True)
def no_registry_is_left() -> Iterator[None]:
    yield
    end_idle()


@pytest.fixture
async def harbor_upstream() -> AsyncIterator[str]:
    """The registry behind `harbor`: what is put there was not pushed through Harbor, and no event tells of it."""
    async with reused_distribution() as host:
        yield host


@pytest.fixture
async def acr_upstream() -> AsyncIterator[str]:
    """The registry behind `acr`."""
    async with reused_distribution() as host:
        yield host


@pytest.fixture
async def harbor(harbor_upstream: str) -> AsyncIterator[HarborStandIn]:
    """A Harbor with the public project ``library`` and the private ``team``."""
    async with HarborStandIn(
        harbor_upstream,
        users=dict([HARBOR_ADMIN, HARBOR_ROBOT]),
        projects={"library": True, "team": False},
        webhook_timeout=PATIENCE,
        webhook_backoff=QUICK_BACKOFF,
    ) as stand_in:
        yield stand_in


@pytest.fixture
async def acr(acr_upstream: str) -> AsyncIterator[AcrStandIn]:
    """A Personal ACR where ``image-syncer`` and ``cache`` create repositories by push and ``manual`` does not."""
    async with AcrStandIn(
        acr_upstream, users=dict([ACR_USER]), namespaces={"image-syncer": True, "cache": True, "manual": False}
    ) as stand_in:
        yield stand_in
