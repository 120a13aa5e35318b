"""The logins in Docker's ``config.json``; podman's ``auth.json`` has the same form. Pure: text in, values out.

Sources: Docker's documentation, "docker login" and "Credential helpers"; containers-auth.json(5) for keys with paths.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass, field
from typing import Any

from replicator.errors import Problem
from replicator.reference import HUB, full_host
from replicator.registry.credentials import IDENTITY_TOKEN

_HUB_SERVER = "https://index.docker.io/v1/"
"""Docker Hub's name towards credential helpers."""
_HELPER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}\Z")


@dataclass(frozen=True, slots=True)
class StoredLogin:
    """A login in the file itself; the username is `IDENTITY_TOKEN` for a refresh token."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class HelperLogin:
    """A login in a credential helper.

    Attributes:
        helper: the program's name without ``docker-credential-``.
        server: the helper's name for the registry.
    """

    helper: str
    server: str


_Login = StoredLogin | HelperLogin | Problem


@dataclass(frozen=True, slots=True)
class DockerConfig:
    """The content of the file.

    Attributes:
        logins: by ``host`` or ``host/path``, hosts in lower case; a Problem for an invalid one.
    """

    logins: dict[str, _Login]

    def find(self, path: str) -> tuple[str, _Login] | None:
        """Return the longest key that is a prefix of ``path``, whole segments only, and its login; None if none is.

        Args:
            path: ``host`` or ``host/path``, the host in lower case.
        """
        host, slash, rest = path.partition("/")
        key = f"{full_host(host)}{slash}{rest}"
        while key not in self.logins:
            key, slash, _ = key.rpartition("/")
            if not slash:
                return None
        return key, self.logins[key]


def parse_config(text: str) -> DockerConfig:
    """Read the file.

    For each host the helper under ``credHelpers`` wins, then that of ``credsStore`` if the host is under ``auths`` (as
    ``docker login`` leaves it), then the entry itself.

    Raises:
        ValueError: Docker could not read it either; the message says why, and quotes nothing of the file.
    """
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
    except RecursionError:
        raise ValueError("not valid JSON: nested too deep") from None
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    auths, helpers = _mapping(document, "auths"), _mapping(document, "credHelpers")
    store = document.get("credsStore")
    logins: dict[str, _Login] = {}
    # Docker writes keys without a scheme today, so they win over those with one.
    for written in sorted(auths, key=lambda key: "://" in key):
        key = _key(written)
        if not _has_host(key):
            continue
        login: _Login | None
        # An empty name under credHelpers disables the store for this host.
        if store and "/" not in key and helpers.get(written) != "":
            login = _helper(store, key, written, "credsStore")
        else:
            login = _stored(auths[written], f'auths["{_shown(written)}"]')
        if login is not None:
            logins.setdefault(key, login)
    for written, helper in helpers.items():
        key = _key(written)
        if helper != "" and _has_host(key):
            logins[key] = _helper(helper, key, written, f'credHelpers["{_shown(written)}"]')
    return DockerConfig(logins)


def _mapping(document: dict[str, Any], name: str) -> dict[str, Any]:
    value = document.get(name)
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{name} is not a JSON object")
    return value or {}


def _key(written: str) -> str:
    """Return ``host`` or ``host/path``; with a scheme only the host counts, as for Docker and podman."""
    bare = re.sub(r"^https?://", "", written, flags=re.IGNORECASE)
    host, slash, path = bare.partition("/")
    if bare != written or path.rstrip("/") == "" or path in ("v1/", "v2/"):
        return full_host(host)
    return f"{full_host(host)}{slash}{path.rstrip('/')}"


def _has_host(key: str) -> bool:
    """Whether a key names a registry; other keys are ignored, since nothing can match them."""
    return not key.startswith("/") and key != ""


def _helper(name: Any, key: str, written: str, path: str) -> HelperLogin | Problem:
    server = _HUB_SERVER if key == HUB else written
    if not isinstance(name, str) or not _HELPER.match(name):
        return Problem(path, "is not a credential helper's name (the part after docker-credential-)")
    if not _is_sendable(server):
        return Problem(path, "its key is not a registry's host")
    return HelperLogin(name, server)


def _stored(entry: Any, path: str) -> StoredLogin | Problem | None:
    """Return the login of an entry; None if it is empty, as ``docker login`` leaves it if a helper has the login."""
    if not isinstance(entry, dict):
        return Problem(path, "is not a JSON object")
    names = ("auth", "username", "password", "identitytoken", "registrytoken")
    texts = {name: entry[name] for name in names if entry.get(name) not in (None, "")}
    for name, value in texts.items():
        if not isinstance(value, str):
            return Problem(f"{path}.{name}", "is not a string")
    if texts.get("identitytoken"):
        return _login(IDENTITY_TOKEN, texts["identitytoken"], path)
    if "auth" in texts:
        pair = _decoded(texts["auth"])
        if pair is None:
            return Problem(f"{path}.auth", "is not username:password in base64")
        return _login(*pair, path)
    if "username" in texts and "password" in texts:
        return _login(texts["username"], texts["password"], path)
    if "registrytoken" in texts:
        return Problem(f"{path}.registrytoken", "is not supported; log in with a name and a password")
    if texts:
        return Problem(path, "has a username or a password, but not both")
    return None


def _decoded(text: str) -> tuple[str, str] | None:
    try:
        # Docker pads the password with NUL bytes.
        username, colon, password = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return None
    password = password.rstrip("\0")
    return (username, password) if colon and username and password else None


def _login(username: str, password: str, path: str) -> StoredLogin | Problem:
    problem = login_problem(username, password)
    return Problem(path, problem) if problem is not None else StoredLogin(username, password)


def login_problem(username: str, password: str) -> str | None:
    """Return why a login can't be sent, quoting nothing of it; None if it can."""
    if not username or not password:
        return "holds no username, or no password"
    if ":" in username:
        return "holds a username with a colon, which can't be sent (RFC 7617, section 2)"
    if not (_is_sendable(username) and _is_sendable(password)):
        return "holds a line break or another control character, which can't be sent"
    return None


def _is_sendable(text: str) -> bool:
    return not any(
        ord(character) < 32 or ord(character) == 127 or 0xD800 <= ord(character) < 0xE000 for character in text
    )


def _shown(key: str) -> str:
    """Return a key for a message, without a login in front of the host (``user:secret@``)."""
    return "".join(c if c.isprintable() else " " for c in key.rpartition("@")[2])[:100]
