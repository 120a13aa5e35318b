"""Spans around deliveries, copies and registry requests, each a child of the one that caused it.

Imports OpenTelemetry, which is an optional dependency: `replicator.server.traces` imports this module only if tracing
is configured.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from replicator.harbor.policy import PATH
from replicator.replication.job import trace_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from opentelemetry.trace import Span, Tracer
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from replicator.queue import JsonValue, Running
    from replicator.registry import RequestObserver

    Handle = Callable[[Running], Awaitable[Mapping[str, JsonValue]]]

_SERVER_ERROR = 500
_CLIENT_ERROR = 400
_PROPAGATOR = TraceContextTextMapPropagator()
_OUTCOME = ("result", "digest", "bytes", "blobs_copied", "blobs_mounted", "blobs_present", "manifests")
"""Fields of a copy's outcome that become attributes of its span."""


class Traces:
    """Wraps the webhook, the job handler and the request observer in spans."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def carrier(self) -> str | None:
        """Return the current span as a ``traceparent`` header (https://www.w3.org/TR/trace-context/)."""
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier)
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
            with self._tracer.start_as_current_span(name, kind=SpanKind.SERVER, attributes=attributes) as span:

                async def send_and_record(message: Message) -> None:
                    if message["type"] == "http.response.start":
                        _set_status(span, message["status"], error_from=_SERVER_ERROR)
                    await send(message)

                await app(scope, receive, send_and_record)

        return traced

    def around_handler(self, handler: Handle) -> Handle:
        """Put a span around each attempt of a copy, under the delivery that queued it."""

        async def traced(running: Running) -> Mapping[str, JsonValue]:
            parent = trace_of(running.payload)
            context = _PROPAGATOR.extract({} if parent is None else {"traceparent": parent})
            attributes: dict[str, Any] = {
                "replicator.destination": running.id,
                "replicator.source": str(running.payload.get("source", "")),
                "replicator.rule": str(running.payload.get("rule", "")),
                "replicator.lane": str(running.lane),
                "replicator.tries": running.tries,
            }
            with self._tracer.start_as_current_span(
                "copy", context, kind=SpanKind.CONSUMER, attributes=attributes, record_exception=False
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
            if not trace.get_current_span().is_recording():
                return
            # The observer hears of a request only at its end, so the span is backdated.
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
                _set_status(span, status, error_from=_CLIENT_ERROR)
            span.end(ended)

        return replace(observer, answered=answered)


def _set_status(span: Span, status: int, *, error_from: int) -> None:
    """Set the HTTP status, and mark the span failed from ``error_from`` on.

    A 4xx is an error of the client but not of the server (https://opentelemetry.io/docs/specs/semconv/http/).
    """
    span.set_attribute("http.response.status_code", status)
    if status >= error_from:
        span.set_status(Status(StatusCode.ERROR))


def _attribute(value: JsonValue) -> str | int | float | bool:
    return value if isinstance(value, str | int | float | bool) else ""
