"""The ``auth`` section: who we are at which registry, and how it is reached."""

from __future__ import annotations

import re
import ssl
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from replicator.acr import endpoint_of
from replicator.aliyun import MissingRepositories, TemporaryLogins
from replicator.errors import ConfigError, Problem
from replicator.harbor.pulls import UNCOUNTED_AGENT
from replicator.reference import Repository, is_registry, is_repository_name
from replicator.registry.access import Access
from replicator.rules.aliyun import read_account
from replicator.rules.patterns import shorten
from replicator.rules.variables import expand_variables, is_endpoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from replicator.rules.place import Place

KEYS = ("username", "password", "aliyun", "insecure", "ca_file", "endpoint", "anonymous", "quiet_pulls")
"""What an entry can have."""
_FORGOTTEN_BRACES = re.compile(r"\$[A-Z_][A-Z0-9_]*\Z")


class Elsewhere(Protocol):
    """Logins that stand elsewhere, for what the file has none for; `replicator.docker.DockerLogins` is one."""

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

    def find(self, repository: Repository) -> Access | None:
        """Return how ``repository`` is reached, or None if no key fits, here and elsewhere.

        Raises:
            ConfigError: no key fits here, and what is elsewhere can't be used.
        """
        found = self.search(f"{repository.registry.lower()}/{repository.name}")
        return found[0] if found is not None else None

    def search(self, path: str) -> tuple[Access, str] | None:
        """Return the login for ``registry/…``, the host in lower case, and where it is from; see `find`."""
        key, slash = path, "/"
        while slash:
            access = self._entries.get(key)
            if access is not None:
                said = "anonymous in the rules" if access.is_anonymous else "the rules"
                return access, self._lent.get(key, said)
            key, slash, _ = key.rpartition("/")
        return self._elsewhere.find(path) if self._elsewhere is not None else None

    def fitting(self, beginning: str, *, whole: bool) -> frozenset[str]:
        """Return the keys that fit everything that begins like this.

        Args:
            beginning: ``registry/…``, the repository's name or as much of it as is certain.
            whole: whether ``beginning`` is a whole repository.
        """
        fitting = {key for key in self._declared if beginning.startswith(f"{key}/")}
        return frozenset(fitting | ({beginning} & self._declared if whole else set()))


def read_auth(
    place: Place,
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


def _borrowed(place: Place, key: str, way: Access, elsewhere: Elsewhere | None, lent: dict[str, str]) -> Access | None:
    """Return the way to a registry with the login that it has elsewhere; None if there is none, which is noted."""
    missing = "no login; give username and password, or say anonymous: true"
    try:
        found = elsewhere.find(key) if elsewhere is not None else None
    except ConfigError as error:
        place.wrong(f"{missing}; {told(error)}")
        return None
    if found is None:
        place.wrong(missing)
        return None
    login, lent[key] = found
    return replace(way, username=login.username, password=login.password, logins=login.logins)


def told(error: ConfigError) -> str:
    """Return an error about logins elsewhere as a part of a problem here."""
    return f"what {error.source} has can't be used: {'; '.join(map(str, error.problems))}"


class _Entry:
    """One login, as it is read."""

    def __init__(
        self,
        registry: str,
        place: Place,
        environ: Mapping[str, str],
        folder: Path | None,
        warnings: list[Problem],
    ) -> None:
        self._registry = registry
        self._place = place
        self._environ = environ
        self._folder = folder
        self._warnings = warnings
        self._fields: dict[str, Place] = {}
        self.lacks_login = False

    def read(self) -> Access | None:
        fields = self._place.mapping(KEYS)
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
