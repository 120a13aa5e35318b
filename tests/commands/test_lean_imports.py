"""What `replicator.imports` leaves out of an import is there when it is used."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import trustme

from replicator.imports import lean_imports

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import ssl, sys
from replicator.imports import lean_imports
with lean_imports():
    import aiohttp, redis.auth.token, structlog
assert not {"rich", "jwt.api_jwt"} & {*sys.modules}

import jwt
assert redis.auth.token.jwt.decode is jwt.decode is sys.modules["jwt"].api_jwt.decode
import rich.console

verified, unverified = aiohttp.connector._SSL_CONTEXT_VERIFIED, aiohttp.connector._SSL_CONTEXT_UNVERIFIED
authorities = lambda context: context.cert_store_stats()["x509_ca"]
assert (authorities(verified), authorities(unverified)) == (0, 0)
for context in (verified, unverified):
    context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="h")
    assert type(context) is ssl.SSLContext
# Without verification none is needed.
assert (authorities(verified), authorities(unverified)) == (1, 0)
assert (verified.verify_mode, verified.check_hostname) == (ssl.CERT_REQUIRED, True)

later = ssl.create_default_context()
assert (type(later), authorities(later)) == (ssl.SSLContext, 1)
"""


def test_what_an_import_leaves_out_is_there_when_it_is_used(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(authority))
    # Python's own certificates would count too.
    environ = {"SSL_CERT_FILE": str(authority), "SSL_CERT_DIR": str(tmp_path / "absent")}
    ended = subprocess.run([sys.executable, "-c", PROGRAM], env=environ, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr


def test_a_socket_is_wrapped_with_the_authorities_too_and_in_any_thread() -> None:
    with lean_imports():
        context = ssl.create_default_context()
    assert context.cert_store_stats()["x509"] == 0
    expected = ssl.create_default_context().cert_store_stats()
    found = []

    def wrap() -> None:
        with socket.socket() as bare, context.wrap_socket(bare, server_hostname="h"):
            found.append(context.cert_store_stats())

    threads = [threading.Thread(target=wrap) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4
