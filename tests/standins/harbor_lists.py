"""The lists of Harbor's registry, which do not come from the registry behind: tags and referrers."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from aiohttp import web

from tests.standins.tokens import errors

if TYPE_CHECKING:
    from tests.standins.harbor_content import Content
    from tests.standins.tokens import Route

_INDEX = "application/vnd.oci.image.index.v1+json"


def bad_digest(reference: str) -> str:
    """Return what Harbor says of a tag where only a digest will do."""
    return f"unsupported digest {reference}: invalid checksum digest format"


async def list_tags(request: web.BaseRequest, content: Content, repository: str) -> web.Response:
    """Answer ``tags/list``, page by page."""
    tags = await content.tags(repository)
    if tags is None:
        return errors(404, "NOT_FOUND", f"repository {repository} not found")
    last = request.query.get("last", "")
    rest = [tag for tag in tags if tag > last] if last else tags
    number = request.query.get("n", "")
    page = rest[: int(number)] if number.isdigit() else rest
    headers = {}
    if page and len(page) < len(rest):
        following = f"/v2/{repository}/tags/list?n={number}&last={quote(page[-1], safe='')}"
        headers["Link"] = f'<{following}>; rel="next"'
    return web.json_response({"name": repository, "tags": page}, headers=headers)


async def list_referrers(request: web.BaseRequest, content: Content, route: Route) -> web.Response:
    """Answer the referrers API: all accessories, cosign's old signatures too, which name no subject.

    ``X-Total-Count`` counts those as well that a filter leaves out.
    """
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", route.rest):
        return errors(400, "BAD_REQUEST", bad_digest(route.rest))
    wanted = request.query.get("artifactType")
    found = await content.accessories(route.repository, route.rest)
    manifests = [
        {
            "mediaType": stored.media_type,
            "digest": stored.digest,
            "size": stored.size,
            **({"annotations": annotations} if (annotations := stored.document.get("annotations")) else {}),
            "artifactType": stored.artifact_type,
        }
        for _, stored, _ in found
        if wanted in (None, "", stored.artifact_type)
    ]
    document = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": manifests}
    filtered = {"OCI-Filters-Applied": "artifactType"} if wanted else {}
    return web.Response(
        body=json.dumps(document).encode(),
        content_type=_INDEX,
        headers={"X-Total-Count": str(len(found)), **filtered},
    )
