from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
import structlog

from replicator.server.traces import is_configured, open_traces

if TYPE_CHECKING:
    from collections.abc import Mapping

WHERE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
        ({"OTEL_SERVICE_NAME": "x", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://h"}, False),
        (WHERE, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://h/v1/traces"}, True),
        (WHERE | {"OTEL_TRACES_EXPORTER": "otlp"}, True),
        (WHERE | {"OTEL_TRACES_EXPORTER": "none"}, False),
        (WHERE | {"OTEL_SDK_DISABLED": "True"}, False),
    ],
)
def test_tracing_is_on_only_if_the_environment_names_a_collector(environ: Mapping[str, str], expected: bool) -> None:
    assert is_configured(environ) is expected


async def test_missing_packages_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", WHERE["OTEL_EXPORTER_OTLP_ENDPOINT"])
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with structlog.testing.capture_logs() as logs:
        async with open_traces() as traces:
            assert traces is None
    assert "in a checkout, pip install '.[otlp]'" in logs[0]["reason"]


async def test_an_invalid_variable_is_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", WHERE["OTEL_EXPORTER_OTLP_ENDPOINT"])
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "0")
    with structlog.testing.capture_logs() as logs:
        async with open_traces() as traces:
            assert traces is None
    assert "max_queue_size" in logs[0]["reason"]
