"""OpenTelemetry tracing: from a webhook delivery through the queue to the copy and its registry requests.

Off unless OpenTelemetry's own environment variables name a collector
(https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/). Its packages are an optional
dependency, imported only then.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

import structlog

from replicator import __version__

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from replicator.server.spans import Traces

log = structlog.get_logger("replicator.traces")

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_FLUSH_SECONDS = 5.0
"""For sending the last spans when the process ends."""


def is_configured(environ: Mapping[str, str]) -> bool:
    """Tell whether the environment names a collector and does not switch tracing off."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() != "otlp":
        return False
    return any(environ.get(name, "").strip() for name in _ENDPOINTS)


@contextlib.asynccontextmanager
async def open_traces() -> AsyncIterator[Traces | None]:
    """Open the exporter, and flush it at the end within bounded time.

    Yields:
        The traces; None where tracing is not configured, or can't be: the packages are missing, or a variable has a
        value that they refuse. Such variables are often set for a whole cluster, so that is a warning, not an error.
    """
    if not is_configured(os.environ):
        yield None
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        from replicator.server.spans import Traces
    except ModuleNotFoundError as error:
        log.warning("no traces", reason=f"{error.name} is not installed: pip install 'replicator[otlp]'")
        yield None
        return
    protocol = next((os.environ[name] for name in _PROTOCOLS if os.environ.get(name)), "http/protobuf")
    if protocol != "http/protobuf":
        log.warning("traces over HTTP", reason=f"only http/protobuf is supported, not {protocol}")
    service = os.environ.get("OTEL_SERVICE_NAME") or "replicator"
    resource = Resource.create({"service.name": service, "service.version": __version__})
    try:
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    except ValueError as error:
        log.warning("no traces", reason=f"an OTEL_ variable has an invalid value: {error}")
        yield None
        return
    try:
        yield Traces(provider.get_tracer("replicator", __version__))
    finally:
        # The exporter retries an unreachable collector for a long time, in a thread that can't be cancelled.
        flushing = asyncio.get_running_loop().run_in_executor(None, provider.shutdown)
        await asyncio.wait({flushing}, timeout=_FLUSH_SECONDS)
