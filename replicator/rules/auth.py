"""The ``auth`` section: who we are at which registry, and how it is reached.

What Harbor counts as a pull: a GET of a manifest, from anyone but itself (``src/server/registry/manifest.go``).

``aliyun`` in an entry of ``auth``: temporary logins on behalf of an account, and what it creates.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from replicator.aliyun import INSTALL, Account, Creates, MissingRepositories, TemporaryLogins, Visibility, is_installed
from replicator.aliyun.acr import endpoint_of
from replicator.errors import ConfigError, Problem
from replicator.reference import Repository, is_registry, is_repository_name
from replicator.registry.credentials import Access
from replicator.rules.node import expand_variables, is_endpoint
from replicator.rules.patterns import shorten

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from replicator.rules.node import Node

UNCOUNTED_AGENT = "harbor-registry-client"
"""The ``User-Agent`` of Harbor's own client, compared to the letter: such a GET makes no pull event at all."""

ALIYUN_KEYS = (
    "access_key_id",
    "access_key_secret",
    "security_token",
    "region",
    "instance_id",
    "openapi_endpoint",
    "create",
)
"""What ``aliyun`` can have."""
CREATE = ("repositories", "namespaces")
"""What ``create`` in it can have."""
_FORMS = {
    "region": (re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\Z"), "must be a region's id, e.g. cn-beijing"),
    "instance_id": (re.compile(r"cri-[a-z0-9]+\Z"), "must be the id of an Enterprise instance: cri-…"),
}


def read_account(place: Node, environ: Mapping[str, str]) -> Account | None:
    """Read the mapping; None if something is wrong, which is noted at its place.

    Args:
        place: the mapping; empty for the default chain of credentials.
        environ: what ``${NAME}`` is taken from.
    """
    fields = place.mapping(ALIYUN_KEYS)
    if fields is None:
        return None
    sound = len(fields) == len(place.value)
    creates = None
    if (wanted := fields.pop("create", None)) is not None:
        creates = _read_creates(wanted)
        sound = sound and creates is not None
    if not is_installed():
        place.wrong(f"needs more libraries: {INSTALL}")
        sound = False
    values: dict[str, str] = {}
    for name, field in fields.items():
        text = field.text()
        value = expand_variables(field, text, environ) if text is not None else None
        if value is None:
            sound = False
            continue
        values[name] = value
        if not value or not value.isprintable():
            field.wrong("is empty; leave it out" if not value else "holds a control character, which can't be sent")
            sound = False
        elif name in _FORMS and not _FORMS[name][0].match(value):
            field.wrong(_FORMS[name][1])
            sound = False
        elif name == "openapi_endpoint" and not is_endpoint(value):
            field.wrong("must be host, host:port, http://host:port or https://host:port, no more")
            sound = False
    if ("access_key_id" in fields) != ("access_key_secret" in fields):
        place.wrong("access_key_id and access_key_secret go together")
        sound = False
    elif "security_token" in fields and "access_key_id" not in fields:
        place.wrong("a security_token without the access key it belongs to")
        sound = False
    return Account(**values, creates=creates) if sound else None


def _read_creates(place: Node) -> Creates | None:
    """Read what is created where a push needs it; None if something is wrong, which is noted at its place."""
    fields = place.mapping(CREATE)
    if fields is None:
        return None
    if "repositories" not in fields:
        words = " or ".join(Visibility)
        place.wrong(f"says nothing of repositories: {words}, what is created is to be")
        return None
    visibility = fields["repositories"].choice(Visibility)
    namespaces = fields["namespaces"].boolean() if "namespaces" in fields else False
    # A mistake about namespaces is noted, and then nothing starts.
    return Creates(Visibility(visibility), namespaces) if visibility is not None else None


AUTH_KEYS = ("username", "password", "aliyun", "insecure", "ca_file", "endpoint", "anonymous", "quiet_pulls")
"""What an entry can have."""
_FORGOTTEN_BRACES = re.compile(r"\$[A-Z_][A-Z0-9_]*\Z")


class Elsewhere(Protocol):
    """Logins that stand elsewhere, for what the file has none for; `docker_logins.DockerLogins` is one."""

    @property
    def problem(self) -> Problem | None:
        """What is wrong with all of them."""

    def find(self, path: str) -> tuple[Access, str] | None:
        """Return the login for ``registry`` or ``registry/…``, and where it is from, in words.

        Raises:
            ConfigError: there is one, perhaps, that can't be used.
        """


class Credentials:
    """Logins by registry, project or repository: the longest key that fits wins.

    Args:
        entries: by ``registry``, ``registry/project`` or a longer path.
        broken: further keys that stand in the file with mistakes of their own.
        elsewhere: asked where no key fits.
        lent: where the logins of entries are from that have none of their own, by key.
    """

    def __init__(
        self,
        entries: Mapping[str, Access],
        broken: Iterable[str] = (),
        elsewhere: Elsewhere | None = None,
        lent: Mapping[str, str] | None = None,
    ) -> None:
        self._entries = dict(entries)
        self._declared = frozenset(entries) | frozenset(broken)
        self._elsewhere = elsewhere
        self._lent = dict(lent or {})

    @property
    def keys(self) -> frozenset[str]:
        """The keys, hosts in lower case."""
        return frozenset(self._entries)

    def find(self, repository: Repository, *, elsewhere: bool = True) -> Access | None:
        """Return how ``repository`` is reached, or None if no key fits, here and elsewhere.

        Args:
            repository: what is to be reached.
            elsewhere: whether logins that stand elsewhere may be used.

        Raises:
            ConfigError: no key fits here, and what is elsewhere can't be used.
        """
        found = self.search(f"{repository.registry.lower()}/{repository.name}", elsewhere=elsewhere)
        return found[0] if found is not None else None

    def search(self, path: str, *, elsewhere: bool = True) -> tuple[Access, str] | None:
        """Return the login for ``registry/…``, the host in lower case, and where it is from; see `find`."""
        key, slash = path, "/"
        while slash:
            access = self._entries.get(key)
            if access is not None:
                said = "anonymous in the rules" if access.is_anonymous else "the rules"
                return access, self._lent.get(key, said)
            key, slash, _ = key.rpartition("/")
        return self._elsewhere.find(path) if self._elsewhere is not None and elsewhere else None

    def fitting(self, beginning: str, *, whole: bool) -> frozenset[str]:
        """Return the keys that fit everything that begins like this.

        Args:
            beginning: ``registry/…``, the repository's name or as much of it as is certain.
            whole: whether ``beginning`` is a whole repository.
        """
        fitting = {key for key in self._declared if beginning.startswith(f"{key}/")}
        return frozenset(fitting | ({beginning} & self._declared if whole else set()))


def read_auth(
    place: Node,
    environ: Mapping[str, str],
    folder: Path | None,
    warnings: list[Problem],
    elsewhere: Elsewhere | None = None,
) -> Credentials:
    """Read the ``auth`` mapping; what is wrong is noted at its place.

    Args:
        place: the mapping.
        environ: what ``${NAME}`` is taken from.
        folder: what a relative ``ca_file`` is relative to; None for the working directory.
        warnings: gets what is allowed but looks like a mistake.
        elsewhere: has logins for what has none here.
    """
    entries: dict[str, Access] = {}
    lent: dict[str, str] = {}
    broken: set[str] = set()
    for written, entry in (place.mapping() or {}).items():
        registry, slash, path = written.partition("/")
        key = f"{registry.lower()}{slash}{path}"
        if not is_registry(registry):
            entry.wrong(f"{shorten(registry)} is no registry's host: write it with a dot or a port, without http://")
        elif slash and not is_repository_name(path):
            entry.wrong(f"{shorten(path)} is no project or repository; wildcards and tags have no place here")
        elif key in entries or key in broken:
            entry.wrong("the same registry stands here twice; capitals make no difference in a host")
        reader = _Entry(registry.lower(), entry, environ, folder, warnings)
        access = reader.read()
        if access is not None and reader.lacks_login:
            access = _borrowed(entry, key, access, elsewhere, lent)
        if access is None:
            broken.add(key)
        else:
            entries.setdefault(key, access)
    return Credentials(entries, broken, elsewhere, lent)


def _borrowed(place: Node, key: str, way: Access, elsewhere: Elsewhere | None, lent: dict[str, str]) -> Access | None:
    """Return the way to a registry with the login that it has elsewhere; None if there is none, which is noted."""
    missing = "no login; give username and password, or say anonymous: true"
    try:
        found = elsewhere.find(key) if elsewhere is not None else None
    except ConfigError as error:
        place.wrong(f"{missing}; {describe_problem(error)}")
        return None
    if found is None:
        place.wrong(missing)
        return None
    login, lent[key] = found
    return replace(way, username=login.username, password=login.password, logins=login.logins)


def describe_problem(error: ConfigError) -> str:
    """Return an error about logins elsewhere as a part of a problem here."""
    return f"what {error.source} has can't be used: {'; '.join(map(str, error.problems))}"


class _Entry:
    """One login, as it is read."""

    def __init__(
        self,
        registry: str,
        place: Node,
        environ: Mapping[str, str],
        folder: Path | None,
        warnings: list[Problem],
    ) -> None:
        self._registry = registry
        self._place = place
        self._environ = environ
        self._folder = folder
        self._warnings = warnings
        self._fields: dict[str, Node] = {}
        self.lacks_login = False

    def read(self) -> Access | None:
        fields = self._place.mapping(AUTH_KEYS)
        if fields is None:
            return None
        self._fields = fields
        username, password = self._text("username"), self._text("password")
        insecure, anonymous = self._boolean("insecure"), self._boolean("anonymous")
        ca_file, endpoint = self._ca_file(), self._endpoint()
        way = Access(None, None, insecure, ca_file, endpoint, manifest_agent=self._manifest_agent())
        if "aliyun" in fields:
            return self._temporary(way, anonymous=anonymous)
        if not self._login_is_complete(username, password, anonymous=anonymous):
            return None
        return replace(way, username=username or None, password=password or None)

    def _temporary(self, access: Access, *, anonymous: bool) -> Access | None:
        place = self._fields["aliyun"]
        if anonymous or "username" in self._fields or "password" in self._fields:
            place.wrong("stands in place of username, password and anonymous: remove one of them")
            read_account(place, self._environ)
            return None
        account = read_account(place, self._environ)
        if account is None:
            return None
        creates = account.creates
        creator = MissingRepositories(self._registry, account, creates) if creates is not None else None
        return replace(access, logins=TemporaryLogins(self._registry, account), creator=creator)

    def _login_is_complete(self, username: str | None, password: str | None, *, anonymous: bool) -> bool:
        named = "username" in self._fields, "password" in self._fields
        if anonymous:
            if any(named):
                self._place.wrong("anonymous: true and a login exclude each other; remove one")
            return not any(named)
        if named == (True, False):
            self._place.wrong("a username without a password")
        elif named == (False, True):
            self._place.wrong("a password without a username")
        elif named == (False, False):
            # Said to be wrong only when nobody else has one.
            self.lacks_login = True
            return True
        elif username == "" and password == "":
            self._place.wrong("no login; give username and password, or say anonymous: true")
        elif username == "" or password == "":
            self._place.child("username" if username == "" else "password", None).wrong("is empty")
        elif username is not None and ":" in username:
            self._fields["username"].wrong("a colon can't be sent in a username (RFC 7617, section 2)")
        else:
            return username is not None and password is not None
        return False

    def _text(self, name: str) -> str | None:
        place = self._fields.get(name)
        if place is None:
            return None
        text = place.text()
        if text is None:
            return None
        if name == "password" and _FORGOTTEN_BRACES.match(text):
            message = "looks like a variable, but is taken as it stands; a variable is written ${NAME}"
            self._warnings.append(Problem(place.path, message))
        expanded = expand_variables(place, text, self._environ)
        if expanded is not None and any(ord(character) < 32 or ord(character) == 127 for character in expanded):
            place.wrong("holds a line break or another control character, which can't be sent")
            return None
        return expanded

    def _boolean(self, name: str) -> bool:
        place = self._fields.get(name)
        return place.boolean() if place is not None else False

    def _manifest_agent(self) -> str | None:
        if not self._boolean("quiet_pulls"):
            return None
        if endpoint_of(self._registry) is not None:
            self._fields["quiet_pulls"].wrong("is for a Harbor: no other registry goes by who pulls; remove it")
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
            self._fields["ca_file"].wrong(f"can't read {path}: {reason}")
            return None
        try:
            ssl.create_default_context().load_verify_locations(cafile=path)
        except (OSError, ValueError):
            self._fields["ca_file"].wrong(f"{path} holds no certificates in PEM form")
            return None
        return path

    def _endpoint(self) -> str | None:
        text = self._unless_empty("endpoint")
        if text is None:
            return None
        if not is_endpoint(text):
            self._fields["endpoint"].wrong("must be host, host:port, http://host:port or https://host:port, no more")
            return None
        return text

    def _unless_empty(self, name: str) -> str | None:
        text = self._text(name)
        if text == "":
            self._fields[name].wrong("is empty; leave it out")
        return text or None
