"""Whether there are traces, as OpenTelemetry's own variables say it.

See https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/.
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

    from replicator.traces.traces import Traces

log = structlog.get_logger("replicator.traces")

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_LAST_WORDS_SECONDS = 5.0
"""For what is not sent yet at the end."""


def wanted(environ: Mapping[str, str]) -> bool:
    """Tell whether the environment asks for traces: it says where to, and nothing says that there are to be none."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() != "otlp":
        return False
    return any(environ.get(name, "").strip() for name in _ENDPOINTS)


@contextlib.asynccontextmanager
async def open_traces() -> AsyncIterator[Traces | None]:
    """Open the way to the collector, and send what is left at the end, in bounded time.

    Yields:
        The traces; None where nobody wants them, or the libraries for them are missing, which is told.
    """
    if not wanted(os.environ):
        yield None
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        from replicator.traces.traces import Traces
    except ModuleNotFoundError as error:
        # Such variables are set for whole clusters: that is no reason not to start.
        log.warning("no traces", reason=f"{error.name} is missing: pip install 'replicator[otlp]'")
        yield None
        return
    protocol = next((os.environ[name] for name in _PROTOCOLS if os.environ.get(name)), "http/protobuf")
    if protocol != "http/protobuf":
        log.warning("traces over HTTP", reason=f"they are sent as http/protobuf only, not as {protocol}")
    # The environment's own name for the service wins.
    resource = Resource.create({"service.name": "replicator", "service.version": __version__} | _named())
    try:
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    except ValueError as error:
        log.warning("no traces", reason=f"a variable of OpenTelemetry's can't be used: {error}")
        yield None
        return
    try:
        yield Traces(provider.get_tracer("replicator", __version__))
    finally:
        # A collector that is away is tried for long: it must not keep the process.
        ending = asyncio.get_running_loop().run_in_executor(None, provider.shutdown)
        await asyncio.wait({ending}, timeout=_LAST_WORDS_SECONDS)


def _named() -> dict[str, str]:
    name = os.environ.get("OTEL_SERVICE_NAME")
    return {"service.name": name} if name else {}
