"""Copying one image between two registries; usable without Harbor, ACR, rules or queue."""

from replicator.copy.comparing import Comparison
from replicator.copy.engine import Copier
from replicator.copy.errors import AttestationsFound, SourceNotFound
from replicator.copy.forms import wanted_key
from replicator.copy.memory import Memory
from replicator.copy.outcome import Outcome, Result
from replicator.copy.sharing import Sharing, Turn

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
