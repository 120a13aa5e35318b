"""Copies of one image between two registries; usable as a library without Harbor, ACR, rules or queue."""

from typing import TYPE_CHECKING

from replicator import lazy_exports

if TYPE_CHECKING:
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

__getattr__ = lazy_exports(
    __name__,
    {
        "Comparison": "compare",
        "Copier": "engine",
        "BlobLock": "ledger",
        "BlobLocks": "ledger",
        "AttestationsFound": "outcome",
        "Outcome": "outcome",
        "Result": "outcome",
        "SourceNotFound": "outcome",
        "SelectionStore": "selection_cache",
        "selection_key": "selection_cache",
    },
)
