"""Alibaba Cloud's OpenAPI for ACR: temporary logins, and repositories created on demand.

Its libraries are optional (``pip install 'replicator[aliyun]'``) and are imported at the first request.
"""

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
