"""Probes of who is told what goes wrong; nothing is sent."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

from replicator.checking.findings import Finding, State
from replicator.receivers import Format

if TYPE_CHECKING:
    from replicator.receivers import Receiver

_SIGNED = frozenset({Format.DINGTALK, Format.FEISHU})


async def reach_receiver(receiver: Receiver) -> list[Finding]:
    """Connect to a receiver, with TLS where its address says so, and close the connection again.

    Args:
        receiver: who it is; no part of its address but the host is told.
    """

    def found(state: State, message: str) -> list[Finding]:
        return [Finding("notify", receiver.host, state, message)]

    url = receiver.url
    assert url.host is not None  # noqa: S101 - no receiver is made without one
    assert url.port is not None  # noqa: S101 - the same
    try:
        _, writer = await asyncio.open_connection(url.host, url.port, ssl=url.scheme == "https" or None)
    except ssl.SSLCertVerificationError:
        return found(State.FAILED, "its TLS certificate is not trusted here: SSL_CERT_FILE can name its authority")
    except ssl.SSLError:
        return found(State.FAILED, "no TLS there: is it plain http://?")
    except OSError:
        return found(State.FAILED, "can't connect: is its name right, and is it reachable from here?")
    writer.transport.abort()
    signed = ""
    if receiver.format in _SIGNED:
        signed = ", signed" if receiver.secret is not None else ", not signed"
    return found(State.OK, f"reached, as {receiver.format}{signed}; replicator notify test sends a sample")
