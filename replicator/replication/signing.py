"""Signatures of statements: DSSE envelopes, and the keys, which are Ed25519 or, as cosign's, ECDSA with P-256.

The library is imported when a key is used: most backfills sign nothing.

Sources: DSSE protocol 1.0; in-toto Attestation Framework, "Envelope" v1.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from replicator.errors import ConfigError, Problem, ReplicatorError

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

PAYLOAD_TYPE = "application/vnd.in-toto+json"
_MAX_SIGNATURES = 16
_MAX_FILE = 64 * 1024
_ENCRYPTED = ("ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY", "ENCRYPTED PRIVATE KEY")
_WANTED = "a PEM file with an Ed25519 key, or with one of ECDSA and P-256"


class NotGenuine(ReplicatorError):
    """An attestation is damaged, was changed, or was signed with another key."""


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A public key.

    Attributes:
        pem: it as a PEM file (SubjectPublicKeyInfo).
        id: SHA-256 over its DER form, as hex.
    """

    pem: str
    id: str
    _key: ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey

    @classmethod
    def of(cls, key: Any) -> VerifyingKey:
        """Return the public key of a key of the library.

        Raises:
            ValueError: it is of another kind.
        """
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        is_ecdsa = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
        if not is_ecdsa and not isinstance(key, ed25519.Ed25519PublicKey):
            raise ValueError("it is of another kind")
        kind = PublicFormat.SubjectPublicKeyInfo
        pem, der = key.public_bytes(Encoding.PEM, kind), key.public_bytes(Encoding.DER, kind)
        return cls(pem.decode("ascii"), sha256(der).hexdigest(), key)

    def verifies(self, signature: bytes, content: bytes) -> bool:
        """Tell whether a signature is this key's over the content."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519
        from cryptography.hazmat.primitives.hashes import SHA256

        try:
            if isinstance(self._key, ed25519.Ed25519PublicKey):
                self._key.verify(signature, content)
            else:
                self._key.verify(signature, content, ec.ECDSA(SHA256()))
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key; it is never shown.

    Attributes:
        public: its public half.
        is_new: whether it was just made.
    """

    public: VerifyingKey
    _key: Any
    is_new: bool = False

    def __repr__(self) -> str:
        return f"SigningKey({self.public.id})"

    def sign(self, content: bytes) -> bytes:
        """Return a signature: of Ed25519 64 bytes, of ECDSA over SHA-256 in DER."""
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.hashes import SHA256

        if isinstance(self._key, ec.EllipticCurvePrivateKey):
            return self._key.sign(content, ec.ECDSA(SHA256()))
        signature: bytes = self._key.sign(content)
        return signature


def public_file(file: Path) -> Path:
    """Return where the public half of a key is written."""
    return file.with_suffix(".pub")


def open_signing_key(file: Path) -> SigningKey:
    """Read a private key; if there is no such file, make an Ed25519 key, with its public half beside it.

    Raises:
        ConfigError: the file is no such key, or can't be read or written.
    """
    try:
        content = _read(file)
    except FileNotFoundError:
        return _make(file)
    except OSError as error:
        raise _problem(f"{file} can't be read: {error.strerror or error}") from None
    key = _private(file, content)
    return SigningKey(VerifyingKey.of(key.public_key()), key)


def open_verifying_key(file: Path) -> VerifyingKey:
    """Read a public key, or the public half of a private one.

    Raises:
        ConfigError: the file is no such key, or can't be read.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        content = _read(file)
    except OSError as error:
        raise _problem(f"{file} can't be read: {error.strerror or error}") from None
    if b"PRIVATE KEY-----" in content:
        return VerifyingKey.of(_private(file, content).public_key())
    try:
        return VerifyingKey.of(load_pem_public_key(content))
    except (ValueError, UnsupportedAlgorithm):
        raise _problem(f"{file} is not a usable public key: give {_WANTED}") from None


def _private(file: Path, content: bytes) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if any(f"-----BEGIN {label}-----".encode() in content for label in _ENCRYPTED):
        raise _problem(
            f"{file} is encrypted, like all keys of cosign, and can't be used: give a file that does not exist, and "
            "a key is created there; cosign can import it with cosign import-key-pair --key FILE"
        )
    try:
        key = load_pem_private_key(content, None)
        VerifyingKey.of(key.public_key())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The library's own words might quote the file.
        raise _problem(f"{file} is not a usable private key: give {_WANTED}") from None
    return key


def _make(file: Path) -> SigningKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = Ed25519PrivateKey.generate()
    made = SigningKey(VerifyingKey.of(key.public_key()), key, is_new=True)
    content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        # Never readable for others, not for a moment; and never over a file that somebody else has just made.
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
            opened.write(content)
        public_file(file).write_text(made.public.pem, encoding="ascii")
    except OSError as error:
        raise _problem(f"{error.filename or file} can't be written: {error.strerror or error}") from None
    return made


def _read(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(_MAX_FILE)


def _problem(message: str) -> ConfigError:
    return ConfigError("command line", [Problem("--key", message)])


def envelope(payload: bytes, key: SigningKey) -> str:
    """Return a signed DSSE envelope as one line of JSON."""
    # Without a hint at the key, as cosign writes it: some programs skip a signature whose hint is not made their way.
    signature = {"keyid": "", "sig": _base64(key.sign(pre_authentication(payload)))}
    document = {"payloadType": PAYLOAD_TYPE, "payload": _base64(payload), "signatures": [signature]}
    return json.dumps(document, separators=(",", ":"))


def pre_authentication(payload: bytes, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """Return the bytes that are signed for a payload (DSSE, "Signature Definition")."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def open_envelope(line: bytes, file: Path, key: VerifyingKey) -> dict[str, Any]:
    """Verify an envelope and return its statement.

    Raises:
        NotGenuine: it is none, or has no signature of the key.
    """
    no_envelope = NotGenuine(
        f"{file} has no signature", "its last line is no DSSE envelope", "get the whole file again"
    )
    try:
        document = json.loads(line)
        payload = base64.b64decode(document["payload"], validate=True)
        signatures = [base64.b64decode(each["sig"], validate=True) for each in document["signatures"][:_MAX_SIGNATURES]]
        if document["payloadType"] != PAYLOAD_TYPE:
            raise no_envelope
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error) as error:
        raise no_envelope from error
    if not any(key.verifies(signature, pre_authentication(payload)) for signature in signatures):
        raise NotGenuine(
            f"the signature of {file} does not fit",
            f"it was changed, or signed with another key than {key.id[:16]}…",
            "check that --key is the public key of its signer",
        )
    try:
        statement = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise NotGenuine(f"{file} holds no statement", "what is signed is no JSON") from error
    if not isinstance(statement, dict):
        raise NotGenuine(f"{file} holds no statement", "what is signed is no JSON object")
    return statement
