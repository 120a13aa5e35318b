"""OpenTelemetry traces: from a delivery to the webhook, through the queue, to the copy and its requests to registries.

Off unless the environment names where they go. Nothing else knows OpenTelemetry, and without it nothing is missing.
"""

from replicator.traces.opening import open_traces

__all__ = ["open_traces"]
