"""Logins of a converted file: regsync's ``creds``, and placeholders for registries without a login in the source."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from replicator.commands.convert.draft import Entry, known_fields
from replicator.commands.convert.patterns import HUB, file_of, filled_in, is_template, registry_of, with_variables
from replicator.rules.node import join

if TYPE_CHECKING:
    from replicator.commands.convert.draft import Draft
    from replicator.rules.node import Node

HUB_ENDPOINT = "registry-1.docker.io"
"""Where the registry of Docker Hub answers."""
ANONYMOUS = "has no login in the file; to use one of Docker's config.json, remove anonymous: true"
"""The remark on a registry that is only a source."""


def add_missing(draft: Draft, origin: str) -> None:
    """Add an entry for each registry of the rules that has no login.

    Args:
        draft: a draft with all rules.
        origin: the path in the source where such entries belong.
    """
    pushed: dict[str, bool] = {}
    for host, is_destination in draft.hosts():
        pushed[host] = pushed.get(host, False) or is_destination
    for host, is_destination in pushed.items():
        if not host or draft.has_login(host):
            continue
        login: dict[str, Any]
        if is_destination:
            login = {"username": draft.variable("USERNAME", host), "password": draft.variable("PASSWORD", host)}
            message = (
                "has no login in the file; set the variables, or remove username and password to use Docker's login"
            )
        else:
            login = {"anonymous": True}
            message = ANONYMOUS
        draft.auth[host] = Entry(login, origin)
        if host == HUB:
            draft.auth[host].value["endpoint"] = HUB_ENDPOINT
        draft.remark(host, message, draft.auth[host])


_LEFT_OUT = {
    "credHelper": "left out: add it to credHelpers in Docker's config.json, and remove username and password here",
    "mirrors": "has no equivalent; left out",
    "clientCert": "has no equivalent; left out",
    "clientKey": "has no equivalent; left out",
    "token": "has no equivalent: a login has a username and a password; left out",
}
_WITHOUT_EQUIVALENT = (
    *("credExpire", "credHost", "pathPrefix", "priority", "repoAuth", "api", "apiOpts", "blobChunk", "blobMax"),
    *("reqPerSec", "reqConcurrent", "scheme"),
)
_KNOWN = ("registry", "user", "pass", "tls", "hostname", "regcert", *_LEFT_OUT, *_WITHOUT_EQUIVALENT)


def add_logins(creds: Node | None, draft: Draft) -> None:
    """Add ``creds`` and all missing logins to a draft with all rules."""
    for item in creds.items() if creds is not None and creds.value is not None else ():
        _Login(item, draft).read()
    add_missing(draft, "creds")


class _Login:
    """One entry of ``creds``."""

    def __init__(self, node: Node, draft: Draft) -> None:
        self._node = node
        self._draft = draft
        self._entry = Entry({}, node.path)
        self._fields = known_fields(node, _KNOWN, self._remark)

    def read(self) -> None:
        registry = self._text("registry")
        if registry is None:
            self._node.wrong('"registry" is missing')
            return
        try:
            registry = filled_in(registry, self._draft.options.environ, {})
        except ValueError as error:
            self._fields["registry"].wrong(str(error))
            return
        registry = registry_of(registry)
        if registry in self._draft.auth:
            self._fields["registry"].wrong("duplicate registry; remove one")
        self._draft.auth[registry] = self._entry
        value = self._entry.value
        user, password = self._text("user"), self._text("pass")
        if user or password:
            value["username"] = self._secret("user", user or "", "USERNAME", registry)
            value["password"] = self._secret("pass", password or "", "PASSWORD", registry)
        elif "credHelper" in self._fields or "token" in self._fields:
            value["username"] = self._draft.variable("USERNAME", registry)
            value["password"] = self._draft.variable("PASSWORD", registry)
        else:
            value["anonymous"] = True
            self._remark(self._node.path, ANONYMOUS)
        self._way(registry)
        for name, field in self._fields.items():
            if name in _LEFT_OUT or name in _WITHOUT_EQUIVALENT:
                self._remark(field.path, _LEFT_OUT.get(name, "has no equivalent; left out"))

    def _remark(self, path: str, message: str) -> None:
        self._draft.remark(path, message, self._entry)

    def _text(self, name: str) -> str | None:
        return self._fields[name].text() if name in self._fields else None

    def _secret(self, field: str, value: str, name: str, registry: str) -> str:
        """Return the text to write for a user name or a password; templates become variables."""
        path = join(self._node.path, field)
        if is_template(value):
            stored = file_of(value)
            if stored is not None:
                variable = self._draft.variable(name, registry)
                self._remark(path, f"files are not read: set {variable[2:-1]} to the content of {stored}")
                return variable
            try:
                text = with_variables(value)
                return text if name == "USERNAME" else self._draft.secret(text, name, registry)
            except ValueError:
                # The template may contain the secret itself, so it is not quoted.
                variable = self._draft.variable(name, registry)
                self._remark(path, f"the template is not supported: set {variable[2:-1]}")
                return variable
        if "${" in value:
            self._remark(path, "contains ${, which would be a variable here, so the value moves to a variable")
            return self._draft.variable(name, registry)
        return value if name == "USERNAME" else self._draft.secret(value, name, registry)

    def _way(self, registry: str) -> None:
        """Add the way to reach the registry."""
        value = self._entry.value
        hostname = self._text("hostname") or (HUB_ENDPOINT if registry == HUB else "")
        tls = self._fields["tls"].choice(("enabled", "insecure", "disabled")) if "tls" in self._fields else None
        if tls in ("insecure", "disabled"):
            value["insecure"] = True
        if tls == "disabled":
            value["endpoint"] = f"http://{hostname or registry}"
        elif hostname and hostname != registry:
            value["endpoint"] = hostname
        certificate = self._text("regcert")
        if certificate:
            stored: Any = file_of(certificate)
            if stored and Path(stored).is_absolute() and Path(stored).is_file():
                value["ca_file"] = stored
            else:
                message = "left out: write the certificate to a file, and name the file as ca_file"
                self._remark(self._fields["regcert"].path, message)
