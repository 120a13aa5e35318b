"""One repository of a registry: where it is, and what its requests have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from replicator.reference import Repository
    from replicator.registry.abilities import Abilities
    from replicator.registry.limits import HostLimits
    from replicator.registry.timing import Timing
    from replicator.registry.transport import Transport


class Endpoint:
    """A repository, and the way there.

    Args:
        repository: its name and registry.
        transport: the way there.
        actions: what tokens are asked for, ``pull`` or ``pull,push``; one token then serves all requests here.
        manifest_agent: what is sent as ``User-Agent`` with each GET of a manifest; None for the usual one.
    """

    def __init__(
        self, repository: Repository, transport: Transport, actions: str, manifest_agent: str | None = None
    ) -> None:
        self.repository = repository
        self._transport = transport
        self._path = f"/v2/{repository.name}"
        self._scope = f"repository:{repository.name}:{actions}"
        self._scopes = frozenset({self._scope})
        self._manifest_agent = manifest_agent

    @property
    def abilities(self) -> Abilities:
        """What the registry was seen to do."""
        return self._transport.abilities

    @property
    def limits(self) -> HostLimits:
        """What may be in flight at the registry's host."""
        return self._transport.limits

    @property
    def timing(self) -> Timing:
        """The deadlines and tries that hold here."""
        return self._transport.timing

    async def pause(self) -> None:
        """Wait while the registry wants peace, so that what comes next is sent without delay."""
        await self._transport.pause()
