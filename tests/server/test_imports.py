"""Starting costs time and memory, so optional parts are imported only where they are used."""

from __future__ import annotations

import subprocess
import sys

import pytest

_WEB = {"jinja2", "opentelemetry", "prometheus_client", "starlette", "uvicorn"}


@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("replicator.server.process", {"jinja2", "opentelemetry"}),
        ("replicator.server.runtime", _WEB),
        ("replicator.commands.health", _WEB),
    ],
)
def test_a_part_is_imported_without_what_it_may_not_need(module: str, without: set[str]) -> None:
    program = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    imported = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert not without & set(imported.split())
