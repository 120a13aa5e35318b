"""Temporary logins at ACR, given out by Alibaba Cloud's OpenAPI; its libraries are imported when one is asked for.

They come with ``pip install 'replicator[aliyun]'``.
"""

from replicator.aliyun.account import INSTALL, Account, is_installed
from replicator.aliyun.logins import TemporaryLogins

__all__ = ["INSTALL", "Account", "TemporaryLogins", "is_installed"]
