"""The status page that ``replicator serve`` has at ``/``: the queue, its history and its dead letters."""

from replicator.server.page.endpoint import StatusPage

__all__ = ["StatusPage"]
