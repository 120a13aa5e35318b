from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.conftest import house
from tests.standins.images import image, push
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from tests.end_to_end.conftest import House

__all__ = ["house", "pushed"]


@pytest.fixture
async def pushed(house: House) -> House:
    """A house with one image in ``library``, nothing asked for since."""
    await push(house.harbor.host, "library/app", "v1", image(), HARBOR_ROBOT)
    house.harbor.pulls.clear()
    house.harbor.faults.log.clear()
    house.acr.faults.log.clear()
    return house
