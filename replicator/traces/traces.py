"""The spans, and how one becomes the child of another across the queue."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from replicator.harbor.webhooks import PATH
from replicator.replication import trace_of

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
        """Have a span for each request to a registry, too, under the copy that sends it."""
        return _RequestSpans(self._tracer, observer)


class _RequestSpans:
    """A `replicator.registry.RequestObserver` before another.

    The requests themselves carry nothing of a trace: it is none of a registry's business.
    """

    def __init__(self, tracer: Tracer, observer: RequestObserver) -> None:
        self._tracer = tracer
        self._observer = observer
        self.received = observer.received
        self.sent = observer.sent
        self.throttled = observer.throttled

    def answered(self, registry: str, method: str, status: int | None, seconds: float) -> None:
        """Note a request under what it was sent for; what is sent for nothing in particular has no span."""
        self._observer.answered(registry, method, status, seconds)
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


def _note_status(span: Span, status: int, *, failed_from: int) -> None:
    """Note an HTTP status, and whether it is a failure to this side (https://opentelemetry.io/docs/specs/semconv/http/)."""
    span.set_attribute("http.response.status_code", status)
    if status >= failed_from:
        span.set_status(Status(StatusCode.ERROR))


def _plain(value: JsonValue) -> str | int | float | bool:
    return value if isinstance(value, str | int | float | bool) else ""
