"""Copying one image between two registries; usable without Harbor, ACR, rules or queue."""

from replicator.copy.compare import Comparison
from replicator.copy.engine import Copier
from replicator.copy.ledger import Sharing, Turn
from replicator.copy.outcome import AttestationsFound, Outcome, Result, SourceNotFound
from replicator.copy.selection_cache import Memory, wanted_key

__all__ = [
    "AttestationsFound",
    "Comparison",
    "Copier",
    "Memory",
    "Outcome",
    "Result",
    "Sharing",
    "SourceNotFound",
    "Turn",
    "wanted_key",
]
