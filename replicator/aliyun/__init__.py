"""Alibaba Cloud's OpenAPI for ACR: temporary logins, and repositories created on demand.

Its libraries are optional (``pip install 'replicator[aliyun]'``) and are imported at the first request.
"""

from typing import TYPE_CHECKING

from replicator import lazy_exports

if TYPE_CHECKING:
    from replicator.aliyun.logins import TemporaryLogins
    from replicator.aliyun.operations import INSTALL, Account, Creates, Visibility, is_installed
    from replicator.aliyun.repositories import MissingRepositories

__all__ = [
    "INSTALL",
    "Account",
    "Creates",
    "MissingRepositories",
    "TemporaryLogins",
    "Visibility",
    "is_installed",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "TemporaryLogins": "logins",
        "Account": "operations",
        "Creates": "operations",
        "INSTALL": "operations",
        "Visibility": "operations",
        "is_installed": "operations",
        "MissingRepositories": "repositories",
    },
)
