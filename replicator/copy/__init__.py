"""Copies of one image between two registries; usable as a library without Harbor, ACR, rules or queue."""

from replicator.copy.compare import Comparison
from replicator.copy.engine import Copier
from replicator.copy.ledger import BlobLock, BlobLocks
from replicator.copy.outcome import AttestationsFound, Outcome, Result, SourceNotFound
from replicator.copy.selection_cache import SelectionStore, selection_key

__all__ = [
    "AttestationsFound",
    "BlobLock",
    "BlobLocks",
    "Comparison",
    "Copier",
    "Outcome",
    "Result",
    "SelectionStore",
    "SourceNotFound",
    "selection_key",
]
