"""What a run would need, tried before it: registries, logins, lists, pushes, the queue and the webhook."""

from replicator.checking.command import check

__all__ = ["check"]
