"""Certificates as people make them on premises, which are not as RFC 5280 wants them."""

from __future__ import annotations

import functools
import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

_PEM = serialization.Encoding.PEM


def _builder(subject: x509.Name, issuer: x509.Name, key: rsa.RSAPublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number())
    return made.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=9))


def _key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


# Servers may share a key, which takes a tenth of a second to make; authorities may not, as one would do for another.
_of_servers = functools.cache(_key)


def harbors_recipe(
    folder: Path, name: str = "localhost", *, key_identifier: bool = True, only_common_name: bool = False
) -> ssl.SSLContext:
    """Make an authority and a certificate as Harbor's documentation tells (``openssl req -x509`` and ``openssl x509``).

    The authority has no key usage. ``ca.pem`` in the folder is the authority, ``leaf.pem`` the key and certificate.

    Args:
        folder: an existing one.
        name: the server's.
        key_identifier: whether the certificate has an authority key identifier.
        only_common_name: whether the name is in CN alone.

    Returns:
        The server's context.
    """
    authority, key = _key(), _of_servers()
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "MyRoot")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    root = (
        _builder(issuer, issuer, authority.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority.public_key()), critical=False)
        .sign(authority, hashes.SHA512())
    )
    leaf = _builder(subject, issuer, key.public_key())
    leaf = leaf.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=False)
    leaf = leaf.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    if key_identifier:
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
        leaf = leaf.add_extension(identifier, critical=False)
    if not only_common_name:
        leaf = leaf.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    private = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    certificate = leaf.sign(authority, hashes.SHA512()).public_bytes(_PEM)
    (folder / "ca.pem").write_bytes(root.public_bytes(_PEM))
    (folder / "leaf.pem").write_bytes(private + certificate)
    (folder / "certificate.pem").write_bytes(certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "leaf.pem")
    return context


def strict(patch: pytest.MonkeyPatch) -> None:
    """Have default contexts check as strictly on every version of Python as on 3.13 and newer."""
    original = ssl.create_default_context

    def made(*args: object, **kwargs: object) -> ssl.SSLContext:
        context = original(*args, **kwargs)  # type: ignore[arg-type]  # passed on as they are
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    patch.setattr(ssl, "create_default_context", made)
