"""The kinds of requests in a log, named briefly enough for a table."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.standins.tokens import Route

if TYPE_CHECKING:
    from tests.standins.faults import Entry

_API = re.compile(r"/api/v2\.0/(?:(?P<of>projects)/[^/]+/)?(?:repositories/[^/]+/)?(?P<what>[a-z]+)\Z")


def kind(entry: Entry) -> str:
    """Name what a request is about; what was refused or not found is told apart."""
    parts = Route.parse(entry.path)
    if parts is None:
        about = "token" if entry.path.endswith("/token") else _of_api(entry.path)
    elif parts.rest.startswith("uploads/"):
        about = "mount" if "mount=" in entry.query else "upload"
    else:
        about = {"manifests": "manifest", "blobs": "blob"}.get(parts.kind, parts.kind)
    refused = f": {entry.status}" if entry.status is not None and entry.status >= 400 else ""
    return f"{entry.method} {about}{refused}"


def is_api(entry: Entry) -> bool:
    """Tell whether a request is for Harbor's REST API, rather than for its registry or a token."""
    return entry.path.startswith("/api/")


def _of_api(path: str) -> str:
    """Name a list of Harbor's API without the names in its path; any other path stays as it is."""
    match = _API.match(path)
    if match is None:
        return path
    of_project = match["of"] and match["what"] == "artifacts" and "/repositories/" not in path
    return "artifacts of a project" if of_project else match["what"]
