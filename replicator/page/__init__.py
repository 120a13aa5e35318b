"""The status page that ``replicator serve`` has at ``/``: the queue, its past and its failures."""

from replicator.page.door import Door
from replicator.page.endpoint import StatusPage

__all__ = ["Door", "StatusPage"]
