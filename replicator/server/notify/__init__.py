"""Notifications to people: what went wrong and is right again, told once for all processes of an installation.

One process of all looks at the queue, decides what is new, and sends it; what was told, and what is still to be sent,
is kept in the queue's Redis, so that a restart neither repeats nor loses it. Nothing here is waited for by a copy.
"""

from replicator.server.notify.decide import NotifyTiming
from replicator.server.notify.notifier import Notifier, open_notifier

__all__ = ["Notifier", "NotifyTiming", "open_notifier"]
