"""The OpenAPI document: the API answers as it says, whatever is asked."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from replicator.queue import Queue
from replicator.server.api.openapi import ENDPOINTS, document
from tests.server.api.conftest import OPERATE, served

if TYPE_CHECKING:
    import httpx

    from tests.queue.servers import RedisServer
    from tests.server.api.conftest import Site

EXAMPLES = 8
CHECKED = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
"""That what a document allows is accepted is not among them: a reference has a grammar of its own."""
SCHEMA = schemathesis.openapi.from_dict(document())
OPERATIONS: dict[str, Any] = {
    found.ok().definition.raw["operationId"]: found.ok()  # type: ignore[union-attr]  # the document is valid
    for found in SCHEMA.get_all_operations()
}


async def test_the_document_is_served_to_anyone_and_names_every_request(site: Site) -> None:
    found = (await site.ask("GET", "/openapi.json", None)).json()
    assert found == document()
    assert found["openapi"].startswith("3.1")
    named = {(method.upper(), path) for path, methods in found["paths"].items() for method in methods}
    assert named == {(each.method, each.path) for each in ENDPOINTS}


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
@pytest.mark.parametrize("name", [each.name for each in ENDPOINTS])
def test_each_request_is_answered_as_the_document_says(
    server: RedisServer, name: str, mode: schemathesis.GenerationMode
) -> None:
    loop = asyncio.new_event_loop()
    operation = OPERATIONS[name]

    async def ask(case: schemathesis.Case[Any]) -> httpx.Response:
        given = case.as_transport_kwargs(base_url="http://api.example")
        path = given["url"].removeprefix("http://api.example").removeprefix("/api/v1")
        more = {key: value for key, value in given.items() if key in ("params", "json", "data", "cookies") and value}
        if isinstance(more.get("data"), bytes):
            more["content"] = more.pop("data")
        headers = {key: value for key, value in (given.get("headers") or {}).items() if key != "Authorization"}
        async with await Queue.connect(server.url, prefix=uuid4().hex) as queue, served(queue) as site:
            return await site.ask(case.method, path, OPERATE, headers=dict(headers), **more)

    @seed(1)
    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=False
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case[Any]) -> None:
        answer = loop.run_until_complete(ask(case))
        case.validate_response(answer, checks=CHECKED)

    try:
        check()
    finally:
        loop.close()
