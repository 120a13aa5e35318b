"""Logins of both stand-ins: accounts, tokens with scopes, and a record of leaked credentials."""

from __future__ import annotations

import base64
import binascii
import json
import re
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PULL, PUSH, DELETE = "pull", "push", "delete"
READ = frozenset({PULL})
WRITE = frozenset({PULL, PUSH})
ALL = frozenset({PULL, PUSH, DELETE})

_PATH = re.compile(r"/v2/(?P<repository>.+)/(?P<kind>manifests|blobs|tags|referrers)/(?P<rest>.*)\Z")
_SCOPE = re.compile(r"(?P<type>[a-z]+)(?:\([a-z]+\))?:(?P<name>.+):(?P<actions>[a-z*,-]*)\Z")


@dataclass(frozen=True, slots=True)
class Account:
    """Who may log in.

    Attributes:
        secret: the password.
        actions: what it may do at the most, of pull, push, delete.
        administers: whether it may manage webhook policies.
    """

    secret: str = field(repr=False)
    actions: frozenset[str] = ALL
    administers: bool = True


def accounts(users: Mapping[str, str | Account]) -> dict[str, Account]:
    """Return accounts by name; a secret alone stands for an account that may do all."""
    return {name: user if isinstance(user, Account) else Account(user) for name, user in users.items()}


@dataclass(frozen=True, slots=True)
class Route:
    """A registry path, taken apart.

    Attributes:
        repository: the name between ``/v2/`` and the last of the known kinds.
        kind: manifests, blobs, tags or referrers.
        rest: what follows: a tag, a digest, ``uploads/…``, ``list``.
    """

    repository: str
    kind: str
    rest: str

    @classmethod
    def parse(cls, path: str) -> Route | None:
        """Take a path apart; None if it names no repository."""
        match = _PATH.match(path)
        return cls(**match.groupdict()) if match else None


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token as it was given out.

    Attributes:
        value: the text of it.
        subject: the account's name, empty for anonymous.
        grants: actions by repository.
        expires: when it ends, on the monotonic clock.
    """

    value: str
    subject: str
    grants: Mapping[str, frozenset[str]]
    expires: float


class TokenStore:
    """The tokens of one registry, which it can have end at any time.

    Args:
        seconds: how long a new token lives.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.issued: dict[str, Token] = {}

    def issue(self, subject: str, grants: Mapping[str, frozenset[str]]) -> Token:
        """Give out a new token."""
        # A JWT, whose subject is empty for anonymous; nobody but the stand-in checks the signature.
        parts = (json.dumps({"typ": "JWT", "alg": "RS256"}), json.dumps({"sub": subject}), secrets.token_hex(24))
        value = ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts)
        token = Token(value, subject, grants, time.monotonic() + self.seconds)
        self.issued[token.value] = token
        return token

    def find(self, value: str) -> Token | None:
        """Return a token that still holds."""
        token = self.issued.get(value)
        return token if token is not None and time.monotonic() < token.expires else None

    def revoke_all(self) -> None:
        """Have all tokens given out so far end now; they are still known as tokens of this registry."""
        now = time.monotonic()
        self.issued = {value: Token(value, token.subject, token.grants, now) for value, token in self.issued.items()}


@dataclass(frozen=True, slots=True)
class Credentials:
    """An ``Authorization`` header.

    Attributes:
        scheme: ``basic`` or ``bearer``, lower-case; empty if there is no header.
        username: of Basic.
        secret: Basic's password, or the bearer token.
    """

    scheme: str = ""
    username: str = ""
    secret: str = field(default="", repr=False)

    @classmethod
    def of(cls, request: web.BaseRequest) -> Credentials:
        """Read a request's header; what can't be read counts as credentials of nobody."""
        header = request.headers.get("Authorization")
        if header is None:
            return cls()
        scheme, _, value = header.partition(" ")
        if scheme.lower() != "basic":
            return cls(scheme.lower(), secret=value)
        try:
            username, _, password = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return cls("basic")
        return cls("basic", username, password)

    def account(self, known: Mapping[str, Account]) -> Account | None:
        """Return the account whose name and secret these are."""
        account = known.get(self.username) if self.scheme == "basic" else None
        return account if account is not None and secrets.compare_digest(account.secret, self.secret) else None


@dataclass(frozen=True, slots=True)
class Leak:
    """A request with credentials that were not for its receiver.

    Attributes:
        method: of the request.
        path: of the request.
        scheme: basic, bearer, or whatever was sent.
        username: of Basic.
        why: what is wrong with it.
    """

    method: str
    path: str
    scheme: str
    username: str
    why: str


def leak(
    request: web.BaseRequest, known: Mapping[str, Account], tokens: TokenStore, *, basic_allowed: bool
) -> Leak | None:
    """Tell whether a request carries credentials that were meant for someone else.

    A wrong password under a known name is a mistake, not a leak; an expired token is one of ours.
    """
    found = Credentials.of(request)
    why = None
    if found.scheme == "basic" and not basic_allowed:
        why = "a password was sent where only tokens are for"
    elif found.scheme == "basic" and found.username not in known:
        why = "a name that is not known here"
    elif found.scheme == "bearer" and found.secret not in tokens.issued:
        why = "a token that was not given out here"
    elif found.scheme not in ("", "basic", "bearer"):
        why = "an unknown scheme"
    return Leak(request.method, request.path, found.scheme, found.username, why) if why else None


def requested(scopes: Iterable[str]) -> dict[str, frozenset[str]]:
    """Read the ``scope`` values of a token request into actions by repository; other resources are left out."""
    wanted: dict[str, frozenset[str]] = {}
    for scope in " ".join(scopes).split():
        match = _SCOPE.match(scope)
        if match is not None and match["type"] == "repository":
            actions = frozenset(filter(None, match["actions"].split(",")))
            wanted[match["name"]] = wanted.get(match["name"], frozenset()) | (ALL if "*" in actions else actions)
    return wanted


def action_of(method: str) -> str:
    """Return what a request on a repository needs: pull, push or delete."""
    return {"GET": PULL, "HEAD": PULL, "DELETE": DELETE}.get(method, PUSH)


def answer(document: object, *, headers: Mapping[str, str] | None = None) -> web.Response:
    """Answer with JSON, without the charset that only errors name."""
    return web.Response(body=json.dumps(document).encode(), content_type="application/json", headers=headers)


def unauthorized(message: str, challenge: str) -> web.Response:
    """Refuse a request as Harbor's registry does; it says everything twice."""
    headers = {"WWW-Authenticate": challenge, "Docker-Distribution-Api-Version": "registry/2.0"}
    return errors(401, "UNAUTHORIZED", f"{message}: {message}", headers=headers)


def errors(
    status: int, code: str, message: str, *, detail: object = None, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Answer with an error body (distribution specification, "Error Codes")."""
    error: dict[str, object] = {"code": code, "message": message}
    if detail is not None:
        error["detail"] = detail
    return web.json_response({"errors": [error]}, status=status, headers=headers)


class ApiError(Exception):
    """An answer other than the one asked for.

    Attributes:
        response: what is answered.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.response = errors(status, code, message)
