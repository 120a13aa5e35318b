"""Prometheus metrics. Nothing outside of this package imports ``prometheus_client``."""

from replicator.server.metrics.exposition import Metrics
from replicator.server.metrics.families import FAMILIES, Family

__all__ = ["FAMILIES", "Family", "Metrics"]
