"""Copies of one image between two registries; usable as a library without Harbor, ACR, rules or queue."""

from typing import TYPE_CHECKING

from replicator import lazy_exports

if TYPE_CHECKING:
    from replicator.copy.compare import Comparison
    from replicator.copy.context import AttestationsFound, Outcome, Result, SourceNotFound
    from replicator.copy.engine import Copier
    from replicator.copy.ledger import BlobLock, BlobLocks, SelectionStore
    from replicator.copy.options import Accessories, selection_key

__all__ = [
    "Accessories",
    "AttestationsFound",
    "BlobLock",
    "BlobLocks",
    "Comparison",
    "Copier",
    "Outcome",
    "Result",
    "SelectionStore",
    "SourceNotFound",
    "held_warning",
    "selection_key",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "Accessories": "options",
        "Comparison": "compare",
        "Copier": "engine",
        "BlobLock": "ledger",
        "BlobLocks": "ledger",
        "AttestationsFound": "context",
        "Outcome": "context",
        "held_warning": "context",
        "Result": "context",
        "SourceNotFound": "context",
        "SelectionStore": "ledger",
        "selection_key": "options",
    },
)
