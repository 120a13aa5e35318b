from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from replicator.queue import LoadedConfig
from replicator.rules import parse
from replicator.server.metrics import Metrics
from tests.queue.conftest import prefix, queue, server, short_dir

if TYPE_CHECKING:
    from replicator.queue import Queue
    from replicator.rules import Rules

__all__ = ["prefix", "queue", "server", "short_dir"]

RULES = """
auth:
  harbor.example.com: {anonymous: true}
  registry.cn-beijing.aliyuncs.com: {anonymous: true}
images:
  harbor.example.com/team/**: registry.cn-beijing.aliyuncs.com/team/{flat}
"""
RULE = "harbor.example.com/team/**"


@pytest.fixture
def rules() -> Rules:
    return parse(RULES, "rules", environ={})


@pytest.fixture
def metrics(rules: Rules, queue: Queue) -> Metrics:
    metrics = Metrics(rules, queue, None)
    metrics.watch_process("serve", lambda: LoadedConfig(0.0, None))
    return metrics
