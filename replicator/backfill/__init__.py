"""The full reconcile: every tag that the rules name is at its destination when this has run."""

from replicator.backfill.command import run_backfill
from replicator.backfill.files import IN_PLACE, ImagesFile, ListFormat, Output, RowFormat, RowsFile
from replicator.backfill.manner import Manner
from replicator.backfill.report import Report, Row, RowOutcome
from replicator.backfill.run import Backfill

__all__ = [
    "IN_PLACE",
    "Backfill",
    "ImagesFile",
    "ListFormat",
    "Manner",
    "Output",
    "Report",
    "Row",
    "RowFormat",
    "RowOutcome",
    "RowsFile",
    "run_backfill",
]
