"""The full reconcile: every tag that the rules name is at its destination when this has run."""

from replicator.backfill.command import run_backfill
from replicator.backfill.manner import Manner
from replicator.backfill.report import Report, Row, RowOutcome
from replicator.backfill.run import Backfill

__all__ = ["Backfill", "Manner", "Report", "Row", "RowOutcome", "run_backfill"]
