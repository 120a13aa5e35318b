"""The status page that ``replicator serve`` has at ``/``: the queue, its past and its failures."""

from replicator.server.auth import PageAuth
from replicator.server.page.endpoint import StatusPage

__all__ = ["PageAuth", "StatusPage"]
