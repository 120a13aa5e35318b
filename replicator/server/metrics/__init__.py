"""What the program counts of itself, for Prometheus.

The parts that are counted know nothing of it: they tell observers, which are here.
"""

from replicator.server.metrics.exposition import Metrics
from replicator.server.metrics.families import FAMILIES, Family

__all__ = ["FAMILIES", "Family", "Metrics"]
