"""Which region and which instance the OpenAPI is asked about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replicator.acr import endpoint_of, service_of
from replicator.aliyun.errors import AccountRefused

if TYPE_CHECKING:
    from replicator.aliyun.account import Account


def find_place(registry: str, account: Account, service: str | None, action: str) -> tuple[str, str]:
    """Return region and instance id: what the rules say, else the challenge, else the host.

    Args:
        registry: the host the rules name.
        account: what the rules say.
        service: the ``service`` of the registry's token challenge, if it named one.
        action: the operation, for the error.

    Raises:
        AccountRefused: one of them is needed and nobody says it.
    """
    said, host = service_of(service or ""), endpoint_of(registry)
    region = account.region or (said.region if said else "") or (host.region if host else "")
    if not region:
        raise AccountRefused(registry, action, "the registry does not tell its region: name it under aliyun")
    instance_id = account.instance_id or (said.instance_id if said else "")
    if not instance_id and said is None and host is not None and host.edition == "Enterprise":
        missing = "the registry does not tell its instance id: name instance_id (cri-…) under aliyun"
        raise AccountRefused(registry, action, missing)
    return region, instance_id
