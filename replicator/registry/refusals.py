"""The 401s to one request: the meaning of each, and whether another attempt makes sense."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from replicator.registry.auth import SETTLING_SECONDS
from replicator.registry.errors import ForeignAnswer, StorageRefused, UploadLost
from replicator.retry import waiting

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

    from replicator.registry.auth import Authorizer
    from replicator.registry.connection import Request
    from replicator.registry.errors import RegistryError


class Refusals:
    """The 401s to one request: how many, whether a young token had its time, and whether the login was tried alone.

    Args:
        authorizer: gives the request its logins.
    """

    def __init__(self, authorizer: Authorizer) -> None:
        self._pause = 0.0
        self._authorizer = authorizer
        self._number = 0
        self._settled = False
        self._judged = False

    async def meet(
        self, error: RegistryError, headers: CIMultiDictProxy[str], request: Request, used: str | None
    ) -> None:
        """Learn from a 401, with a pause before another attempt if it needs one; raise what the 401 means if not.

        Args:
            error: of the 401.
            headers: of the 401.
            request: the request.
            used: its ``Authorization``.
        """
        self._number += used is not None and not self._pause
        if isinstance(error, StorageRefused | ForeignAnswer):
            # The login is not for the host of the redirect, so its challenge names no realm to trust.
            raise error
        challenges = headers.getall("WWW-Authenticate", [])
        young = not (request.streams or self._settled or "DENIED" in error.codes)
        self._pause = 0.0
        if young and self._authorizer.is_young(challenges, request.scopes, used):
            self._pause, self._settled = SETTLING_SECONDS, True
            return
        again = self._authorizer.challenged(challenges, request.scopes, used, basic=request.basic)
        if request.streams and not self._authorizer.upload_refused(request.scopes, used):
            # The stream is consumed: only its owner can start it again.
            raise error.recast(UploadLost)
        if request.streams or self._judged or self._number > 1 or not again:
            found = await self._authorizer.judge(error, challenges, request, used, tried=self._judged)
            if found is not None or request.streams:
                raise found or error
            self._judged = True

    async def pause(self) -> None:
        """Wait until a young token may be accepted, if that is what the last 401 was about."""
        if self._pause:
            with waiting():
                await asyncio.sleep(self._pause)
