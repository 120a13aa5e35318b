"""``Link`` headers (RFC 8288) as registries page with them (distribution specification, "Listing Tags")."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from replicator.registry.reply import Reply

_LINK = re.compile(r"<(?P<target>[^<>]*)>(?P<parameters>(?:\s*;\s*[^\s=;,]+\s*=\s*(?:\"[^\"]*\"|[^\s\";,]+))*)")
_NEXT = re.compile(r";\s*rel\s*=\s*(?:\"(?:[^\"]*\s)?next(?:\s[^\"]*)?\"|next(?=\s*(?:;|$)))", re.IGNORECASE)


def next_page(reply: Reply) -> str | None:
    """Return the target of the answer's ``rel="next"`` link, as it stands there; None on the last page."""
    for header in reply.headers.getall("Link", []):
        for link in _LINK.finditer(header):
            if _NEXT.search(link["parameters"]):
                return link["target"]
    return None
