"""Whose certificate a registry shows, and until when it is valid."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from replicator.checking.findings import Finding, State
from replicator.registry.connecting import explicit_base, tls_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from replicator.registry import Access

_SOON = timedelta(days=30)


async def look_at_certificate(registry: str, access: Access) -> list[Finding]:
    """Tell of a certificate that was verified; of plain HTTP, and where nothing is verified, there is none to tell of.

    Args:
        registry: the host the rules name, known to answer.
        access: how it is reached.
    """
    base = explicit_base(registry, access)
    tls = tls_of(access)
    if base is None or base.scheme != "https" or tls is False:
        return []
    context = tls if isinstance(tls, ssl.SSLContext) else ssl.create_default_context()
    try:
        _, writer = await asyncio.open_connection(base.host, base.port, ssl=context)
    except OSError:
        return [Finding("certificate", registry, State.NOT_TRIED, "no second connection to look at it")]
    try:
        certificate = writer.get_extra_info("peercert")
    finally:
        writer.transport.abort()
    return [Finding("certificate", registry, State.OK, certificate_words(certificate, datetime.now(UTC)))]


def certificate_words(certificate: Mapping[str, Any], now: datetime) -> str:
    """Say who issued a certificate, and when it ends if that is within 30 days.

    Args:
        certificate: as `ssl.SSLSocket.getpeercert` gives it.
        now: the moment to count from, UTC.
    """
    issuer = {name: value for part in certificate.get("issuer", ()) for name, value in part}
    whose = f"issued by {issuer.get('organizationName') or issuer.get('commonName') or 'nobody it names'}"
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate["notAfter"]), UTC)
    return whose if ends - now > _SOON else f"{whose}, ends on {ends:%Y-%m-%d}: renew it before"
