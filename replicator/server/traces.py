"""The spans, and how one becomes the child of another across the queue.

Whether there are traces, as OpenTelemetry's own variables say it.

See https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/.

OpenTelemetry traces: from a delivery to the webhook, through the queue, to the copy and its requests to registries.

Off unless the environment names where they go. Nothing else knows OpenTelemetry, and without it nothing is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import structlog
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from replicator import __version__
from replicator.harbor.policy import PATH
from replicator.replication.job import trace_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from opentelemetry.trace import Span, Tracer
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from replicator.queue import JsonValue, Running
    from replicator.registry import RequestObserver

    Handle = Callable[[Running], Awaitable[Mapping[str, JsonValue]]]

__all__ = ["open_traces"]

_SERVER_ERROR = 500
_CLIENT_ERROR = 400
_PROPAGATOR = TraceContextTextMapPropagator()
_OUTCOME = ("result", "digest", "bytes", "blobs_copied", "blobs_mounted", "blobs_present", "manifests")


class Traces:
    """Puts spans around what is done, each under the one that caused it.

    Args:
        tracer: makes the spans.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def carrier(self) -> str | None:
        """Return the current span as a ``traceparent`` (https://www.w3.org/TR/trace-context/), to be given on."""
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier)
        return carrier.get("traceparent")

    def around_app(self, app: ASGIApp) -> ASGIApp:
        """Put a span around each delivery to the webhook. A sender's own trace is not gone on with: it is anyone's."""

        async def traced(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or not f"{scope['path']}/".startswith(f"{PATH}/"):
                await app(scope, receive, send)
                return
            about = {"http.request.method": scope["method"], "url.path": scope["path"]}
            # Without the registry that it may name: few names of spans, whatever is asked for.
            name = f"{scope['method']} {PATH}"
            with self._tracer.start_as_current_span(name, kind=SpanKind.SERVER, attributes=about) as span:

                async def noted(message: Message) -> None:
                    if message["type"] == "http.response.start":
                        _note_status(span, message["status"], failed_from=_SERVER_ERROR)
                    await send(message)

                await app(scope, receive, noted)

        return traced

    def around_handler(self, handler: Handle) -> Handle:
        """Put a span around each try of a copy, under the delivery that asked for it."""

        async def traced(running: Running) -> Mapping[str, JsonValue]:
            parent = trace_of(running.payload)
            context = _PROPAGATOR.extract({} if parent is None else {"traceparent": parent})
            about: dict[str, Any] = {
                "replicator.destination": running.id,
                "replicator.source": str(running.payload.get("source", "")),
                "replicator.rule": str(running.payload.get("rule", "")),
                "replicator.lane": str(running.lane),
                "replicator.tries": running.tries,
            }
            with self._tracer.start_as_current_span(
                "copy", context, kind=SpanKind.CONSUMER, attributes=about, record_exception=False
            ) as span:
                outcome = await handler(running)
                span.set_attributes({f"replicator.{name}": _plain(outcome.get(name)) for name in _OUTCOME})
            return outcome

        return traced

    def around_observer(self, observer: RequestObserver) -> RequestObserver:
        """Add a span for each request to a registry, under the copy that sends it.

        The requests themselves carry nothing of a trace: it is none of a registry's business.
        """

        def answered(registry: str, method: str, status: int | None, seconds: float) -> None:
            observer.answered(registry, method, status, seconds)
            if not trace.get_current_span().is_recording():
                return
            ended = time.time_ns()
            span = self._tracer.start_span(
                method,
                kind=SpanKind.CLIENT,
                attributes={"http.request.method": method, "server.address": registry},
                start_time=ended - int(seconds * 1e9),
            )
            if status is None:
                span.set_status(Status(StatusCode.ERROR, "no answer"))
            else:
                _note_status(span, status, failed_from=_CLIENT_ERROR)
            span.end(ended)

        return replace(observer, answered=answered)


def _note_status(span: Span, status: int, *, failed_from: int) -> None:
    """Note an HTTP status, and whether it is a failure to this side (https://opentelemetry.io/docs/specs/semconv/http/)."""
    span.set_attribute("http.response.status_code", status)
    if status >= failed_from:
        span.set_status(Status(StatusCode.ERROR))


def _plain(value: JsonValue) -> str | int | float | bool:
    return value if isinstance(value, str | int | float | bool) else ""


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
