"""Reader of the ``auth`` section: the login for each registry, and how the registry is reached.

An entry has a username and a password, or ``aliyun`` for temporary logins of Alibaba Cloud, or says that it is
anonymous. The longest key that is a prefix of ``registry/repository`` wins. Where the file has no login, one from
Docker's configuration may be used, see `Elsewhere`.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replicator.aliyun import INSTALL, Account, Creates, Visibility, is_installed
from replicator.aliyun.acr import endpoint_of
from replicator.aliyun.on_demand import MissingRepositories, RepositoryTypes, TemporaryLogins
from replicator.errors import ConfigError, Problem
from replicator.reference import full_host, is_registry, is_repository_name
from replicator.registry.credentials import Access
from replicator.registry.proxies import Proxies
from replicator.rules.credentials import Credentials, describe_problem
from replicator.rules.node import (
    expand_name,
    expand_secret,
    expand_variables,
    is_endpoint,
    named_variable,
    without_login,
)
from replicator.rules.patterns import shorten

if TYPE_CHECKING:
    from collections.abc import Mapping

    from replicator.rules.credentials import Elsewhere
    from replicator.rules.node import Node

UNCOUNTED_AGENT = "harbor-registry-client"
"""The ``User-Agent`` of Harbor's own client.

Harbor counts each GET of a manifest as a pull, except those with exactly this header
(``src/server/registry/manifest.go``).
"""

ALIYUN_KEYS = (
    *("access_key_id", "access_key_secret", "security_token"),
    *("region", "instance_id", "openapi_endpoint", "create"),
)
"""Keys of ``aliyun``."""
_SECRETS = ("access_key_secret", "security_token")
CREATE = ("repositories", "namespaces")
"""Keys of ``create`` in it."""
_OTHER_VARIABLE = re.compile(r"\$\(\w+\)|%\w+%|\{\{.*\}\}|<[\w -]+>")
"""A whole value in the form of Kubernetes, Windows, templates, or an unfilled placeholder of instructions."""
_FORMS = {
    "region": (re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\Z"), "must be a region's id, e.g. cn-beijing"),
    "instance_id": (re.compile(r"cri-[a-z0-9]+\Z"), "must be the id of an Enterprise instance: cri-…"),
}

_ENDPOINT_ADVICE = "must be host, host:port, http://host:port or https://host:port, without a path"


def read_account(node: Node, environ: Mapping[str, str]) -> Account | None:
    """Read ``aliyun``; return None after a mistake, which is noted at its node.

    Args:
        node: the mapping; an empty one means the default chain of credentials.
        environ: the values of ``${NAME}``.
    """
    fields = node.mapping(ALIYUN_KEYS)
    if fields is None:
        return None
    sound = len(fields) == len(node.value)
    creates = None
    if (wanted := fields.pop("create", None)) is not None:
        creates = _read_creates(wanted)
        sound = sound and creates is not None
    if not is_installed():
        node.wrong(f"needs additional libraries: {INSTALL}")
        sound = False
    values: dict[str, Any] = {}
    for name, field in fields.items():
        text = field.text()
        expand = expand_secret if name in _SECRETS else expand_variables
        value = expand(field, text, environ) if text is not None else None
        if value is None:
            sound = False
            continue
        values[name] = value
        if not value or not value.isprintable():
            field.wrong("contains a control character, which can't be sent" if value else "is empty; remove it")
            sound = False
        elif name in _FORMS and not _FORMS[name][0].match(value):
            field.wrong(_FORMS[name][1])
            sound = False
        elif name == "openapi_endpoint" and not is_endpoint(value):
            field.wrong(_ENDPOINT_ADVICE)
            sound = False
    if ("access_key_id" in fields) != ("access_key_secret" in fields):
        node.wrong("access_key_id and access_key_secret must be set together")
        sound = False
    elif "security_token" in fields and "access_key_id" not in fields:
        node.wrong("a security_token needs its access_key_id and access_key_secret")
        sound = False
    return Account(**values, creates=creates) if sound else None


def _read_creates(node: Node) -> Creates | None:
    """Read ``create``; return None after a mistake, which is noted at its node."""
    fields = node.mapping(CREATE)
    if fields is None:
        return None
    if "repositories" not in fields:
        words = " or ".join(Visibility)
        node.wrong(f'"repositories" is missing: {words}, the visibility of new ones')
        return None
    visibility = fields["repositories"].choice(Visibility)
    namespaces = fields["namespaces"].boolean() if "namespaces" in fields else False
    # A mistake in namespaces is noted already, so the value used here does not matter.
    return Creates(Visibility(visibility), namespaces) if visibility is not None else None


AUTH_KEYS = ("username", "password", "aliyun", "insecure", "ca_file", "endpoint", "proxy", "anonymous", "quiet_pulls")
"""Keys of an entry of ``auth``."""


def read_auth(
    node: Node,
    environ: Mapping[str, str],
    folder: Path | None,
    warnings: list[Problem],
    elsewhere: Elsewhere | None = None,
) -> Credentials:
    """Read the ``auth`` mapping; mistakes are noted at its nodes.

    Args:
        node: the mapping.
        environ: the values of ``${NAME}``.
        folder: the base of a relative ``ca_file``; None for the working directory.
        warnings: collects what is allowed but looks like a mistake.
        elsewhere: logins for registries that have none in the file.
    """
    entries: dict[str, Access] = {}
    lent: dict[str, str] = {}
    broken: set[str] = set()
    hosts: dict[str, list[str]] = {}
    for written, entry in (node.mapping() or {}).items():
        name = expand_name(entry, written, environ)
        registry, slash, path = (name or "").removesuffix("/").partition("/")
        if not isinstance(entry.value, dict) and (not is_registry(registry) or written.partition(":")[0] in AUTH_KEYS):
            # A piece of a login can become a key by a slip, so it is not shown.
            number = list(node.value).index(written) + 1
            node.wrong(f"key number {number} of {len(node.value)} must be a registry, with a mapping (key: value)")
            continue
        host, registry = registry.lower(), full_host(registry)
        key = f"{registry}{slash}{path}"
        former = hosts.setdefault(key, [])
        # Docker Hub has several names, of which image-syncer's files may have more than one.
        is_used = not former or (registry == host and host not in former)
        if name is None:
            pass
        elif not is_registry(registry):
            problem = f"{shorten(without_login(registry))} is not a registry host: it needs a dot or a port"
            entry.wrong(
                "an address is not a registry host: remove http:// or https://" if "://" in written else problem
            )
        elif slash and not is_repository_name(path):
            entry.wrong(f"{shorten(path)} is not a project or repository; wildcards and tags are not allowed here")
        elif host in former:
            entry.wrong(f"duplicate key: {key} is in the file already, in another spelling; remove one")
        elif former:
            used, unused = (host, former[0]) if is_used else (former[0], host)
            message = f"{used} and {unused} are one registry, and the entry of {used} is used; remove the other"
            warnings.append(Problem(entry.path, message))
        former.insert(0 if is_used else len(former), host)
        reader = _Entry(registry, entry, environ, folder, warnings)
        # An entry with a bad key is still read, to report the mistakes inside it.
        access = reader.read()
        origin: dict[str, str] = {}
        if access is not None and reader.lacks_login:
            access = _borrowed(entry, key, access, elsewhere, origin)
        if access is None:
            broken.add(key)
        elif is_used:
            lent.pop(key, None)
            lent |= origin
            entries[key] = access
    return Credentials(entries, broken, elsewhere, lent)


def _borrowed(node: Node, key: str, access: Access, elsewhere: Elsewhere | None, lent: dict[str, str]) -> Access | None:
    """Return ``access`` with the login from elsewhere; None if there is none, which is noted."""
    missing = "no login; set username and password, or anonymous: true"
    try:
        found = elsewhere.find(key) if elsewhere is not None else None
    except ConfigError as error:
        node.wrong(f"{missing}; {describe_problem(error)}")
        return None
    if found is None:
        node.wrong(missing)
        return None
    login, lent[key] = found
    return replace(access, username=login.username, password=login.password, logins=login.logins)


class _Entry:
    """Reads one entry."""

    def __init__(
        self,
        registry: str,
        node: Node,
        environ: Mapping[str, str],
        folder: Path | None,
        warnings: list[Problem],
    ) -> None:
        self._registry = registry
        self._node = node
        self._environ = environ
        self._folder = folder
        self._warnings = warnings
        self._fields: dict[str, Node] = {}
        self.lacks_login = False

    def read(self) -> Access | None:
        fields = self._node.mapping(AUTH_KEYS)
        if fields is None:
            return None
        self._fields = fields
        username, password = self._text("username"), self._text("password")
        insecure, anonymous = self._boolean("insecure"), self._boolean("anonymous")
        ca_file, endpoint = self._ca_file(), self._endpoint()
        agent, proxies = self._manifest_agent(), self._proxies()
        access = Access(None, None, insecure, ca_file, endpoint, manifest_agent=agent, proxies=proxies)
        if "aliyun" in fields:
            return self._temporary(access, anonymous=anonymous)
        if not self._login_is_complete(username, password, anonymous=anonymous):
            return None
        return replace(access, username=username or None, password=password or None)

    def _temporary(self, access: Access, *, anonymous: bool) -> Access | None:
        node = self._fields["aliyun"]
        if anonymous or "username" in self._fields or "password" in self._fields:
            node.wrong("replaces username, password and anonymous; remove these or aliyun")
            read_account(node, self._environ)
            return None
        account = read_account(node, self._environ)
        if account is None:
            return None
        account = replace(account, proxies=access.proxies or Proxies.from_environ(self._environ))
        creates = account.creates
        creator = MissingRepositories(self._registry, account, creates) if creates is not None else None
        logins, types = TemporaryLogins(self._registry, account), RepositoryTypes(self._registry, account)
        return replace(access, logins=logins, creator=creator, types=types)

    def _login_is_complete(self, username: str | None, password: str | None, *, anonymous: bool) -> bool:
        named = "username" in self._fields, "password" in self._fields
        if anonymous:
            if any(named):
                self._node.wrong("anonymous: true and a login are exclusive; remove one")
            return not any(named)
        if named == (True, False):
            self._node.wrong("a username without a password; set both")
        elif named == (False, True):
            self._node.wrong("a password without a username; set both")
        elif named == (False, False):
            # A mistake only if there is no login elsewhere, which the caller finds out.
            self.lacks_login = True
            return True
        elif username == "" and password == "":
            self._node.wrong("no login; set username and password, or anonymous: true")
        elif username == "" or password == "":
            self._node.child("username" if username == "" else "password", None).wrong("is empty")
        elif username is not None and ":" in username:
            self._fields["username"].wrong("a username can't contain a colon (RFC 7617, section 2)")
        else:
            return username is not None and password is not None
        return False

    def _text(self, name: str) -> str | None:
        node = self._fields.get(name)
        if node is None:
            return None
        text = node.text()
        if text is None:
            return None
        # image-syncer's README shows $NAME as a whole value, but $ is legal in passwords. Only the name of a variable
        # that is set is shown, since any other text may be a password.
        if name in ("username", "password") and (variable := named_variable(text)) is not None:
            message = "looks like a variable, but no variable has this name, so the text is used unchanged"
            if self._environ.get(variable):
                message, text = f"looks like a variable and {variable} is set, so its value is used", f"${{{variable}}}"
            self._warnings.append(Problem(node.path, f"{message}; write a variable as ${{NAME}}"))
        elif name in ("username", "password") and _OTHER_VARIABLE.fullmatch(text):
            message = "looks like a variable or placeholder of another program, and is used as it is"
            self._warnings.append(Problem(node.path, f"{message}; write a variable as ${{NAME}}"))
        expand = expand_secret if name == "password" else expand_variables
        expanded = expand(node, text, self._environ)
        if expanded is not None and any(ord(character) < 32 or ord(character) == 127 for character in expanded):
            node.wrong("contains a line break or control character, which can't be sent")
            return None
        return expanded

    def _boolean(self, name: str) -> bool:
        node = self._fields.get(name)
        return node.boolean() if node is not None else False

    def _manifest_agent(self) -> str | None:
        if not self._boolean("quiet_pulls"):
            return None
        if endpoint_of(self._registry) is not None:
            self._fields["quiet_pulls"].wrong("has an effect at a Harbor only; remove it")
            return None
        return UNCOUNTED_AGENT

    def _ca_file(self) -> Path | None:
        text = self._unless_empty("ca_file")
        if text is None:
            return None
        path = (self._folder or Path()) / text
        try:
            path.read_bytes()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a path"
            # Without the text itself: it may be a password in the wrong place.
            folder = (self._folder or Path()).absolute()
            base = "" if Path(text).is_absolute() else f"; a relative path counts from {folder}"
            self._fields["ca_file"].wrong(f"can't read this file: {reason}{base}")
            return None
        try:
            # Load it now: a mistake should show at the start, not at the first connection.
            ssl.create_default_context().load_verify_locations(cafile=path)
        except (OSError, ValueError):
            self._fields["ca_file"].wrong("the file contains no PEM certificates")
            return None
        return path

    def _endpoint(self) -> str | None:
        text = self._unless_empty("endpoint")
        if text is None:
            return None
        if not is_endpoint(text):
            self._fields["endpoint"].wrong(_ENDPOINT_ADVICE)
            return None
        return text

    def _proxies(self) -> Proxies | None:
        node = self._fields.get("proxy")
        # Unquoted, off is a word to this parser, but false to most others.
        text = "off" if node is not None and node.value is False else self._unless_empty("proxy")
        try:
            return Proxies.parse(text) if text is not None else None
        except ValueError as error:
            self._fields["proxy"].wrong(str(error))
        return None

    def _unless_empty(self, name: str) -> str | None:
        text = self._text(name)
        if text == "":
            self._fields[name].wrong("is empty; remove it")
        return text or None
