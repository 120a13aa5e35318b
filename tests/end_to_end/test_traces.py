"""Traces as their collector receives them; copies do not depend on the collector."""

from __future__ import annotations

import socket
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.running import TOKEN, running
from tests.standins.faults import Answer, Fault
from tests.standins.images import image, push
from tests.standins.logins import ACR_USER, HARBOR_ROBOT
from tests.standins.server import serve

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    from tests.end_to_end.conftest import House
    from tests.running import Serving

EVERYTHING = {"HARBOR/library/**": "ACR/image-syncer/{name}"}


class Collector:
    """Takes what is exported over OTLP/HTTP."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.services: set[str] = set()
        self.raw = b""

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        assert request.path == "/v1/traces"
        body = await request.read()
        self.raw += body
        export = ExportTraceServiceRequest.FromString(body)
        for resource in export.resource_spans:
            self.services |= {
                each.value.string_value for each in resource.resource.attributes if each.key == "service.name"
            }
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return web.Response(content_type="application/x-protobuf")


def about(span: Span) -> dict[str, object]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value") or "string_value") for each in span.attributes}


async def copied(house: House, serving: Serving, tag: str = "v1", number: int = 1) -> None:
    if not house.harbor.webhooks.of("library"):
        # With the Harbor's name behind it a delivery is the same to traces.
        house.harbor.add_policy("library", f"{serving.url}/webhooks/harbor/{house.harbor.host}", auth_header=TOKEN)
    await push(house.harbor.host, "library/app", tag, image(number), HARBOR_ROBOT)
    await serving.until("copy done", destination=f"{house.acr.host}/image-syncer/app:{tag}")


async def test_a_push_is_one_trace_from_the_delivery_over_the_copy_to_its_requests(house: House) -> None:
    collector = Collector()
    async with serve(collector) as host:
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{host}"}
        async with running("serve", "--config", house.rules(EVERYTHING), cwd=house.directory, settings=settings) as run:
            house.harbor.faults.log.clear()
            house.acr.faults.log.clear()
            await copied(house, run)
            assert await run.stop() == 0
    assert collector.services == {"replicator"}
    (delivery,) = [span for span in collector.spans if span.name == "POST /webhooks/harbor"]
    (copy,) = [span for span in collector.spans if span.name == "copy"]
    requests = [span for span in collector.spans if span not in (delivery, copy)]
    assert not delivery.parent_span_id
    assert about(delivery)["http.response.status_code"] == 202
    assert copy.parent_span_id == delivery.span_id
    assert {span.parent_span_id for span in requests} == {copy.span_id}
    assert {span.trace_id for span in collector.spans} == {delivery.trace_id}
    told = about(copy)
    assert told["replicator.destination"] == f"{house.acr.host}/image-syncer/app:v1"
    assert (told["replicator.result"], told["replicator.digest"]) == ("copied", image(1).digest)
    # Every request of the copy, and at its time.
    seen = Counter(entry.method for entry in house.acr.faults.log if "/v2/" in entry.path)
    there = Counter(span.name for span in requests if about(span)["server.address"] == house.acr.host)
    assert all(there[method] >= count for method, count in seen.items())
    assert all(copy.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano for span in requests)
    for secret in (TOKEN, HARBOR_ROBOT[1], ACR_USER[1]):
        assert secret.encode() not in collector.raw
    # No registry hears of traces.
    assert not [entry for entry in (*house.acr.faults.log, *house.harbor.faults.log) if "traceparent" in entry.headers]


async def test_a_failed_copy_is_marked_as_one(house: House) -> None:
    collector = Collector()
    house.acr.faults.add(Fault(Answer(403, "DENIED"), method="PUT", path="/manifests/", times=None))
    async with serve(collector) as host:
        settings = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://{host}/v1/traces", "OTEL_SERVICE_NAME": "mine"}
        async with running("serve", "--config", house.rules(EVERYTHING), cwd=house.directory, settings=settings) as run:
            house.harbor.add_policy("library", f"{run.url}/webhooks/harbor", auth_header=TOKEN)
            await push(house.harbor.host, "library/app", "v1", image(1), HARBOR_ROBOT)
            await run.until("copy failed")
            assert await run.stop() == 0
    assert collector.services == {"mine"}
    copies = [span for span in collector.spans if span.name == "copy"]
    assert {span.status.code for span in copies} == {2}


@pytest.mark.parametrize("kind", ["nobody", "silent"])
async def test_a_collector_that_is_away_delays_neither_copies_nor_the_end(house: House, kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = silent.getsockname()
        if kind == "nobody":
            silent.close()
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{address[0]}:{address[1]}"}
        async with running("serve", "--config", house.rules(EVERYTHING), cwd=house.directory, settings=settings) as run:
            for number in (1, 2, 3):
                await copied(house, run, f"v{number}", number)
            assert await run.stop(timeout=20) == 0
            await run.until("stopped")
