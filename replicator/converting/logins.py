"""Logins that a file of another program doesn't have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from replicator.converting.draft import Entry
from replicator.converting.names import HUB

if TYPE_CHECKING:
    from replicator.converting.draft import Draft

HUB_ENDPOINT = "registry-1.docker.io"
"""Where the registry of Docker Hub answers."""
ANONYMOUS = "has no login there; remove anonymous: true to use the one of Docker's config.json"
"""Told of a registry that is only read from."""


def add_missing(draft: Draft, where: str) -> None:
    """Add an entry for each registry that the rules name without a login.

    Args:
        draft: has the rules already; gets what is missing.
        where: the part of the source that could have had it.
    """
    pushed: dict[str, bool] = {}
    for host, is_destination in draft.hosts():
        pushed[host] = pushed.get(host, False) or is_destination
    for host, is_destination in pushed.items():
        if not host or draft.has_login(host):
            continue
        login: dict[str, Any]
        if is_destination:
            login = {"username": draft.variable("USERNAME", host), "password": draft.variable("PASSWORD", host)}
            message = "has no login there; set its variables, or remove username and password to use Docker's login"
        else:
            login = {"anonymous": True}
            message = ANONYMOUS
        draft.auth[host] = Entry(login, where)
        if host == HUB:
            draft.auth[host].value["endpoint"] = HUB_ENDPOINT
        draft.tell(host, message, draft.auth[host])
