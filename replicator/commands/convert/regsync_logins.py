"""Logins of a converted file: regsync's ``creds`` with its templates, and variables for logins that are in no file.

Strings of regsync may be Go templates (``text/template``) with regclient's functions, of which the common ones are
supported.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replicator.commands.convert.draft import Entry, known_fields
from replicator.reference import full_host
from replicator.rules.node import join

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from replicator.commands.convert.draft import Draft
    from replicator.rules.node import Node

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
        registry = full_host(registry)
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
            self._remark(path, "contains ${, which would start a variable here; the value is moved to a variable")
            return self._draft.variable(name, registry)
        return value if name == "USERNAME" else self._draft.secret(value, name, registry)

    def _way(self, registry: str) -> None:
        """Add the way to reach the registry."""
        value = self._entry.value
        hostname = self._text("hostname")
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


_ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)
_CALL = re.compile(r"""(env|file)\s+(?:"([^"\\]*)"|`([^`]*)`)\Z""")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_TRIMMED = re.compile(r"\{\{-|-\}\}")


def is_template(text: str) -> bool:
    """Tell whether ``text`` contains a template."""
    return "{{" in text


def file_of(text: str) -> str | None:
    """Return the path if all of ``text`` is ``{{file "path"}}``; else None."""
    match = _ACTION.fullmatch(text.strip())
    call = _CALL.match(match[1]) if match else None
    return (call[2] or call[3]) if call and call[1] == "file" else None


def with_variables(text: str) -> str:
    """Return ``text`` with ``${NAME}`` for each ``{{env "NAME"}}``.

    Raises:
        ValueError: there is another template, or a name that can't be a variable here.
    """

    def variable(name: str) -> str:
        if not _VARIABLE_NAME.match(name):
            raise ValueError(f"has no equivalent: {name!r} can't be the name of a variable here")
        return f"${{{name}}}"

    if "${" in text:
        raise ValueError("has no equivalent: ${ in the same string would be a variable here")
    return _replaced(text, variable, {})


def filled_in(text: str, environ: Mapping[str, str], values: Mapping[str, str]) -> str:
    """Return ``text`` with its templates replaced by their values.

    Args:
        text: a string of the file.
        environ: the values of ``{{env "NAME"}}``.
        values: the values of fields such as ``.Sync.Source``.

    Raises:
        ValueError: a variable is not set, or there is another template.
    """

    def variable(name: str) -> str:
        if not environ.get(name):
            raise ValueError(f"the environment variable {name} is not set; set it for the conversion")
        return environ[name]

    return _replaced(text, variable, values)


def _replaced(text: str, variable: Callable[[str], str], values: Mapping[str, str]) -> str:
    def action(match: re.Match[str]) -> str:
        call = _CALL.match(match[1])
        if call and call[1] == "env":
            return variable(call[2] or call[3] or "")
        if match[1] in values:
            return values[match[1]]
        raise ValueError(f"has no equivalent: the template {match[0]!r} is not supported")

    if _TRIMMED.search(text):
        raise ValueError("has no equivalent: templates with {{- or -}} are not supported")
    return _ACTION.sub(action, text)
