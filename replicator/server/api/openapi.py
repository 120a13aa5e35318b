"""The requests of the API, and their OpenAPI 3.1 document, generated from the models."""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal

from pydantic.json_schema import models_json_schema

from replicator import __version__
from replicator.server.api import models
from replicator.server.auth import Scope

if TYPE_CHECKING:
    from pydantic import BaseModel

_REFERENCES = "#/components/schemas/{model}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A request.

    Attributes:
        name: its id.
        method: GET or POST.
        path: below the root, with its parameter in braces.
        scope: the scope that its token must have.
        summary: its effect.
        answer: the model of its answer.
        query: its query; None for none.
        body: its body; None for none.
        status: of the answer.
        problems: statuses of its own problems, beside those of every request.
    """

    name: str
    method: str
    path: str
    scope: Scope
    summary: str
    answer: type[BaseModel]
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    status: int = 200
    problems: tuple[int, ...] = ()

    @property
    def route(self) -> str:
        """Its path as Starlette writes it: a reference has slashes."""
        return re.sub(r"\{(\w+)\}", r"{\1:path}", self.path)


_BODY = (408, 413, 415)
ENDPOINTS = (
    Endpoint(
        "image",
        "GET",
        "/images/{reference}",
        Scope.READ,
        "Show the state of an image at its destinations",
        models.Image,
        query=models.ImageQuery,
        problems=(502, 504),
    ),
    Endpoint(
        "failures",
        "GET",
        "/failures",
        Scope.READ,
        "List dead letters (failed copies that are not retried)",
        models.Failures,
        query=models.FailuresQuery,
    ),
    Endpoint(
        "retry",
        "POST",
        "/failures/retry",
        Scope.OPERATE,
        "Retry dead letters",
        models.Done,
        body=models.Selected,
        problems=_BODY,
    ),
    Endpoint(
        "drop",
        "POST",
        "/failures/drop",
        Scope.OPERATE,
        "Drop dead letters",
        models.Done,
        body=models.Selected,
        problems=_BODY,
    ),
    Endpoint(
        "copies",
        "GET",
        "/copies",
        Scope.READ,
        "List recent copies",
        models.Copies,
        query=models.CopiesQuery,
    ),
    Endpoint(
        "reconcile",
        "POST",
        "/reconcile",
        Scope.OPERATE,
        "Start a reconcile now",
        models.Reconcile,
        status=202,
    ),
    Endpoint(
        "copy",
        "POST",
        "/copies",
        Scope.OPERATE,
        "Copy an image now",
        models.Queued,
        body=models.CopyNow,
        status=202,
        problems=(422, *_BODY),
    ),
)
_PROBLEMS = (400, 401, 403, 404, 429, 503)


def document() -> dict[str, Any]:
    """Return the OpenAPI document."""
    wanted: dict[tuple[type[BaseModel], Literal["validation", "serialization"]], None] = {}
    for each in ENDPOINTS:
        wanted[each.answer, "serialization"] = None
        if each.body is not None:
            wanted[each.body, "validation"] = None
    wanted[models.Problem, "serialization"] = None
    _, schemas = models_json_schema(list(wanted), ref_template=_REFERENCES)
    paths: dict[str, Any] = {}
    for each in ENDPOINTS:
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each)
    return {
        "openapi": "3.1.0",
        "info": {"title": "replicator", "version": __version__},
        "servers": [{"url": "/api/v1"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": "registry/repository:tag, or @digest; slashes may be encoded",
            "schema": {"type": "string", "minLength": 1},
        }
        for name in re.findall(r"\{(\w+)\}", endpoint.path)
    ]
    if endpoint.query is not None:
        for name, schema in endpoint.query.model_json_schema(ref_template=_REFERENCES)["properties"].items():
            parameters.append({"name": name, "in": "query", "required": False, "schema": schema})
    operation: dict[str, Any] = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "description": f"Scope of the token: {endpoint.scope}.",
        "parameters": parameters,
        "responses": {
            str(endpoint.status): _response(endpoint.status, endpoint.answer, "application/json"),
            **{
                str(status): _response(status, models.Problem, "application/problem+json")
                for status in sorted((*_PROBLEMS, *endpoint.problems))
            },
        },
    }
    if endpoint.body is not None:
        schema = {"$ref": _REFERENCES.format(model=endpoint.body.__name__)}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation


def _response(status: int, model: type[BaseModel], kind: str) -> dict[str, Any]:
    schema = {"$ref": _REFERENCES.format(model=model.__name__)}
    return {"description": HTTPStatus(status).phrase, "content": {kind: {"schema": schema}}}
