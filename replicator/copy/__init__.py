"""Copying one image between two registries; usable without Harbor, ACR, rules or queue."""

from replicator.copy.engine import Copier
from replicator.copy.errors import SourceNotFound
from replicator.copy.outcome import Outcome, Result

__all__ = ["Copier", "Outcome", "Result", "SourceNotFound"]
