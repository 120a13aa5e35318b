"""Alibaba Cloud's OpenAPI for ACR: temporary logins, repositories created on demand, and their types.

Its libraries are optional (``pip install '.[aliyun]'``) and are imported at the first request.
"""

from typing import TYPE_CHECKING

from replicator import lazy_exports

if TYPE_CHECKING:
    from replicator.aliyun.on_demand import MissingRepositories, RepositoryTypes, TemporaryLogins
    from replicator.aliyun.operations import INSTALL, Account, Creates, Visibility, is_installed

__all__ = [
    "INSTALL",
    "Account",
    "Creates",
    "MissingRepositories",
    "RepositoryTypes",
    "TemporaryLogins",
    "Visibility",
    "is_installed",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "TemporaryLogins": "on_demand",
        "Account": "operations",
        "Creates": "operations",
        "INSTALL": "operations",
        "Visibility": "operations",
        "is_installed": "operations",
        "MissingRepositories": "on_demand",
        "RepositoryTypes": "on_demand",
    },
)
