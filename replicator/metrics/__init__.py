"""What the program counts of itself, for Prometheus.

The parts that are counted know nothing of it: they tell observers, which are here.
"""

from replicator.metrics.families import FAMILIES, Family
from replicator.metrics.metrics import Metrics

__all__ = ["FAMILIES", "Family", "Metrics"]
