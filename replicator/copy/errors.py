"""What only a copy as a whole can find wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replicator.errors import ErrorClass, ReplicatorError

if TYPE_CHECKING:
    from replicator.reference import Reference
    from replicator.registry import RegistryError


class SourceNotFound(ReplicatorError):
    """The source has no such tag or digest: not yet, or not any more.

    Attributes:
        source: what was asked for.
    """

    error_class: ErrorClass = ErrorClass.NOT_YET

    def __init__(self, source: Reference, cause: RegistryError) -> None:
        self.source = source
        super().__init__(f"{source} is not there ({cause.detail}): is the tag right, and may this login pull it?")


class AttestationsFound(ReplicatorError):
    """The image has attestations, and its rule says that there must be none."""

    def __init__(self, registry: str, digest: str) -> None:
        super().__init__(
            f"{registry}: the image has attestations, {digest} among them, and its rule says attestations: fail; build "
            "it without them (--provenance=false --sbom=false), or let the rule strip or keep them"
        )
