"""Harbor's robot accounts, as far as an account may see itself."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from replicator.errors import ReplicatorError

if TYPE_CHECKING:
    from replicator.harbor.api import HarborApi

MOST_PAGES = 10
"""Pages of robot accounts that are read for one."""


async def robot_end(api: HarborApi, name: str) -> float | None:
    """Return when the secret of a robot account ends, in Unix time (``GET /robots``).

    Args:
        api: a client with the account's login.
        name: of the account: ``robot$name``, or ``robot$project+name``.

    Returns:
        None if it never ends, if the account may not list robot accounts, as most may not, or if it is none.
    """
    owner, plus, _ = name.partition("+")
    project, query = owner.partition("$")[2], ""
    if not project:
        return None
    try:
        if plus:
            row = await api.json(f"/projects/{project}")
            number = row.get("project_id") if isinstance(row, dict) else None
            if not isinstance(number, int):
                return None
            query = f"&q=Level%3Dproject%2CProjectID%3D{number}"
        pages = 0
        async with contextlib.aclosing(api.pages("/robots", query)) as found:
            async for page in found:
                for row in page:
                    ends = row.get("expires_at")
                    if row.get("name") == name and isinstance(ends, int | float):
                        return float(ends) if ends > 0 else None
                pages += 1
                if pages == MOST_PAGES:
                    break
    except ReplicatorError:
        pass
    return None
