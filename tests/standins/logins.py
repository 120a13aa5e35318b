"""User names and passwords of the stand-ins."""

import aiohttp

HARBOR_ADMIN = ("admin", "Harbor12345")
"""May do everything at Harbor."""

HARBOR_ROBOT = ("robot$replicator", "harbor-secret")
"""May pull and push in all of Harbor's projects."""

ACR_USER = ("acr_pusher@1938562138124787", "acr-secret")
"""May do everything at ACR."""


def basic(account: tuple[str, str]) -> dict[str, str]:
    """Return the headers of a request with HTTP Basic."""
    return {"Authorization": aiohttp.encode_basic_auth(*account)}
