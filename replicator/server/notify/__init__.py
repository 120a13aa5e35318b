"""Notifications to people, in DingTalk, Feishu, WeCom or Slack, or as JSON: what went wrong, and when it is over."""

from replicator.server.notify.decide import NotifyTiming
from replicator.server.notify.notifier import Notifier, open_notifier

__all__ = ["Notifier", "NotifyTiming", "open_notifier"]
