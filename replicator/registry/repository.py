"""One repository of a registry, whole: manifests, blobs, tags, referrers (OCI distribution specification 1.1)."""

from __future__ import annotations

from replicator.registry.blobs import Blobs
from replicator.registry.manifests import Manifests
from replicator.registry.referrers import Referrers
from replicator.registry.tags import Tags


class RemoteRepository(Manifests, Blobs, Tags, Referrers):
    """Requests about one repository."""
