"""Errors of the API, in one form: problem details (RFC 9457) with what, why and do."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse

from replicator.server.api.models import Problem, to_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from replicator.errors import ErrorText


class ApiError(Exception):
    """A request that is not answered as it was asked.

    Attributes:
        status: of the answer.
        text: what, why and do.
        headers: further ones.
    """

    def __init__(
        self,
        status: int,
        text: ErrorText,
        *,
        headers: Mapping[str, str] | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(str(text))
        self.status = status
        self.text = text.bounded()
        self.headers = {**(headers or {}), **({"Retry-After": str(retry_after)} if retry_after is not None else {})}

    def response(self) -> JSONResponse:
        """Return the answer."""
        title = HTTPStatus(self.status).phrase
        problem = Problem(title=title, status=self.status, detail=str(self.text), **self.text.to_json())
        return JSONResponse(to_json(problem), self.status, self.headers, media_type="application/problem+json")
