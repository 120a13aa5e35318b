"""The full reconcile: every tag that the rules name is at its destination when this has run."""

from replicator.backfill.display import Display, summary
from replicator.backfill.report import Report, Row, RowOutcome, check_writable
from replicator.backfill.run import Backfill

__all__ = ["Backfill", "Display", "Report", "Row", "RowOutcome", "check_writable", "summary"]
