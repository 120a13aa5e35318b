"""Looking into the queue from outside: what ``replicator status`` and ``replicator failures`` print and do."""

from replicator.inspection.failures import drop_failures, list_failures, retry_failures
from replicator.inspection.status import Status, show_status

__all__ = ["Status", "drop_failures", "list_failures", "retry_failures", "show_status"]
