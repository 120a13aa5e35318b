"""What Alibaba Cloud's OpenAPI does for ACR: temporary logins, and repositories that are created.

Its libraries are imported when it is asked.

They come with ``pip install 'replicator[aliyun]'``.
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
