"""What can go wrong with the queue itself.

QueueError              the queue can't do what was asked; also the base of all below
├── QueueUnavailable    Redis is away, refuses the login or can't take writes: nothing was durably taken
└── LeaseLost           another worker runs this job now: stop, write nothing more
"""

from __future__ import annotations

from replicator.errors import ErrorClass, ReplicatorError


class QueueError(ReplicatorError):
    """The queue can't take or give work."""

    error_class = ErrorClass.TRANSIENT


class QueueUnavailable(QueueError):
    """Redis did not confirm within the deadline, or said that it can't: take nothing as queued."""


class LeaseLost(QueueError):
    """The lease of a running job belongs to another worker now, or the job is finished: write nothing more."""
