"""OpenTelemetry tracing: from a webhook delivery through the queue to the copy and its registry requests.

Off unless OpenTelemetry's own environment variables name a collector
(https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/). Its packages are an optional
dependency, imported only then: spans around deliveries, copies and requests, each a child of the one that caused it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import structlog

from replicator import __version__
from replicator.harbor.policy import PATH
from replicator.replication.enqueue import trace_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from opentelemetry.trace import Span, Tracer
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from replicator.queue import JsonValue, Running
    from replicator.registry import RequestObserver

    Handle = Callable[[Running], Awaitable[Mapping[str, JsonValue]]]

log = structlog.get_logger("replicator.traces")

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_FLUSH_SECONDS = 5.0
"""For sending the last spans when the process ends."""
_SERVER_ERROR = 500
_CLIENT_ERROR = 400
_OUTCOME = ("result", "digest", "bytes", "blobs_copied", "blobs_mounted", "blobs_present", "manifests")
"""Fields of a copy's outcome that become attributes of its span."""


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
    except ModuleNotFoundError as error:
        log.warning("no traces", reason=f"{error.name} is not installed: in a checkout, pip install '.[otlp]'")
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


class Traces:
    """Wraps the webhook, the job handler and the request observer in spans."""

    def __init__(self, tracer: Tracer) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = tracer
        self._api = trace
        self._propagator = TraceContextTextMapPropagator()

    def carrier(self) -> str | None:
        """Return the current span as a ``traceparent`` header (https://www.w3.org/TR/trace-context/)."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        return carrier.get("traceparent")

    def around_app(self, app: ASGIApp) -> ASGIApp:
        """Put a span around each webhook delivery."""

        # The sender's own traceparent is ignored: anyone who reaches the port could join their trace to ours.
        async def traced(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or not f"{scope['path']}/".startswith(f"{PATH}/"):
                await app(scope, receive, send)
                return
            attributes = {"http.request.method": scope["method"], "url.path": scope["path"]}
            # The name leaves out the registry at the end of the path, so that callers can't create span names.
            name = f"{scope['method']} {PATH}"
            with self._tracer.start_as_current_span(
                name, kind=self._api.SpanKind.SERVER, attributes=attributes
            ) as span:

                async def send_and_record(message: Message) -> None:
                    if message["type"] == "http.response.start":
                        self._set_status(span, message["status"], error_from=_SERVER_ERROR)
                    await send(message)

                await app(scope, receive, send_and_record)

        return traced

    def around_handler(self, handler: Handle) -> Handle:
        """Put a span around each attempt of a copy, under the delivery that queued it."""

        async def traced(running: Running) -> Mapping[str, JsonValue]:
            parent = trace_of(running.payload)
            context = self._propagator.extract({} if parent is None else {"traceparent": parent})
            attributes: dict[str, Any] = {
                "replicator.destination": running.id,
                "replicator.source": str(running.payload.get("source", "")),
                "replicator.rule": str(running.payload.get("rule", "")),
                "replicator.lane": str(running.lane),
                "replicator.tries": running.tries,
            }
            with self._tracer.start_as_current_span(
                "copy", context, kind=self._api.SpanKind.CONSUMER, attributes=attributes, record_exception=False
            ) as span:
                outcome = await handler(running)
                span.set_attributes({f"replicator.{name}": _attribute(outcome.get(name)) for name in _OUTCOME})
            return outcome

        return traced

    def around_observer(self, observer: RequestObserver) -> RequestObserver:
        """Add a span for each registry request, under the copy that sends it.

        Registries get no trace header: it is none of their business.
        """

        def answered(registry: str, method: str, status: int | None, seconds: float) -> None:
            observer.answered(registry, method, status, seconds)
            # A request that belongs to no copy, such as a reconcile's, gets no span.
            if not self._api.get_current_span().is_recording():
                return
            # The observer is called only at the end of a request, so the span is backdated.
            ended = time.time_ns()
            span = self._tracer.start_span(
                method,
                kind=self._api.SpanKind.CLIENT,
                attributes={"http.request.method": method, "server.address": registry},
                start_time=ended - int(seconds * 1e9),
            )
            if status is None:
                span.set_status(self._api.StatusCode.ERROR, "no answer")
            else:
                self._set_status(span, status, error_from=_CLIENT_ERROR)
            span.end(ended)

        return replace(observer, answered=answered)

    def _set_status(self, span: Span, status: int, *, error_from: int) -> None:
        """Set the HTTP status, and mark the span failed from ``error_from`` on.

        A 4xx is an error of the client but not of the server (https://opentelemetry.io/docs/specs/semconv/http/).
        """
        span.set_attribute("http.response.status_code", status)
        if status >= error_from:
            span.set_status(self._api.StatusCode.ERROR)


def _attribute(value: JsonValue) -> str | int | float | bool:
    return value if isinstance(value, str | int | float | bool) else ""
