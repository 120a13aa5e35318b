"""Logins by registry, project or repository, from the rules or from a source outside of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from replicator.aliyun import TemporaryLogins
from replicator.errors import ConfigError, Problem
from replicator.reference import HUB
from replicator.rules.node import join

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from replicator.reference import Repository
    from replicator.registry.credentials import Access


class Elsewhere(Protocol):
    """A source of logins outside the rules file, e.g. `docker_logins.DockerLogins`."""

    @property
    def problem(self) -> Problem | None:
        """A mistake that makes all of them unusable."""

    def find(self, path: str) -> tuple[Access, str] | None:
        """Return the login for ``registry`` or ``registry/…``, and its origin in words.

        Raises:
            ConfigError: there may be a login, but it can't be read.
        """


class Credentials:
    """Logins by registry, project or repository; the longest matching key wins.

    Attributes:
        entries: by ``registry``, ``registry/project`` or a longer path, hosts in lower case.
        broken: further keys of the file whose entries have mistakes.
        elsewhere: asked if no key matches.
        lent: the origins of logins that entries take from elsewhere, by key.
    """

    def __init__(
        self,
        entries: Mapping[str, Access],
        broken: Iterable[str] = (),
        elsewhere: Elsewhere | None = None,
        lent: Mapping[str, str] | None = None,
    ) -> None:
        self.entries = dict(entries)
        self.broken = frozenset(broken)
        self.elsewhere = elsewhere
        self.lent = dict(lent or {})

    def find(self, repository: Repository, *, elsewhere: bool = True) -> Access | None:
        """Return the access to ``repository``, or None if no key matches here or elsewhere.

        Args:
            repository: the repository to reach.
            elsewhere: whether logins from outside the file may be used.

        Raises:
            ConfigError: no key matches here, and the logins elsewhere can't be read.
        """
        found = self.search(f"{repository.registry.lower()}/{repository.name}", elsewhere=elsewhere)
        return found[0] if found is not None else None

    def search(self, path: str, *, elsewhere: bool = True) -> tuple[Access, str] | None:
        """Return the access to ``registry/…``, with the host in lower case, and its origin; see `find`."""
        key, slash = path, "/"
        while slash:
            access = self.entries.get(key)
            if access is not None:
                origin = "anonymous in the rules" if access.is_anonymous else "the rules"
                return access, self.lent.get(key, origin)
            # Shorten by one segment, so that team is no prefix of teams/app.
            key, slash, _ = key.rpartition("/")
        return self.elsewhere.find(path) if self.elsewhere is not None and elsewhere else None

    def covering(self, beginning: str, *, whole: bool) -> frozenset[str]:
        """Return the keys that match every repository with this beginning, those with mistakes too.

        Args:
            beginning: ``registry/…``: a repository's name, or the beginning that all names share.
            whole: whether ``beginning`` is a whole repository.
        """
        declared = self.entries.keys() | self.broken
        covering = {key for key in declared if beginning.startswith(f"{key}/")}
        return frozenset(covering | ({beginning} & declared if whole else set()))


def describe_problem(error: ConfigError) -> str:
    """Return an error in logins elsewhere as a part of a message."""
    return f"the logins of {error.source} can't be used: {'; '.join(map(str, error.problems))}"


@dataclass(frozen=True, slots=True)
class NamedDestination:
    """A repository, or a pattern of them, that needs a login.

    Attributes:
        beginning: ``registry/…``: the repository's name, or the beginning that all matching names share.
        whole: whether that is the whole name.
        key: the rule that names it.
    """

    beginning: str
    whole: bool
    key: str


def join_credentials(files: Iterable[tuple[str, Credentials]]) -> tuple[Credentials, list[tuple[str, str, str]]]:
    """Join the logins of several files.

    Args:
        files: the name of each file and its logins.

    Returns:
        All logins, and the collisions: a key, the file whose login is left out, and the file with another one.
    """
    entries: dict[str, Access] = {}
    origin: dict[str, str] = {}
    broken: set[str] = set()
    lent: dict[str, str] = {}
    elsewhere: Elsewhere | None = None
    collisions: list[tuple[str, str, str]] = []
    for file, credentials in files:
        for key, access in credentials.entries.items():
            if key not in entries:
                entries[key], origin[key] = access, file
            elif not _is_same(entries[key], access):
                collisions.append((key, file, origin[key]))
        broken |= credentials.broken
        lent |= credentials.lent
        elsewhere = elsewhere or credentials.elsewhere
    return Credentials(entries, broken, elsewhere, lent), collisions


def _is_same(one: Access, other: Access) -> bool:
    """Compare two logins and how their registry is reached; of temporary logins, the accounts."""
    plain = [replace(each, logins=None, creator=None, types=None) for each in (one, other)]
    if plain[0] != plain[1]:
        return False
    accounts = [
        each.logins.account if isinstance(each.logins, TemporaryLogins) else each.logins for each in (one, other)
    ]
    return accounts[0] == accounts[1]


def find_logins(
    named: Iterable[NamedDestination], credentials: Credentials, path: str
) -> tuple[list[Problem], list[tuple[str, str]]]:
    """Return a problem for each registry without a login, and the origin of the login of every other one.

    Args:
        named: what needs a login.
        credentials: the logins.
        path: the path of ``auth``, for the problems.
    """
    missing: dict[str, str] = {}
    logins: dict[tuple[str, str], None] = {}
    for name in named:
        registry = name.beginning.partition("/")[0]
        certain = name.beginning if name.whole else name.beginning.rpartition("/")[0]
        trouble = ""
        try:
            found = credentials.search(certain)
        except ConfigError as error:
            found, trouble = None, f"; {describe_problem(error)}"
        if found is not None:
            logins[registry, found[1]] = None
        elif not credentials.covering(name.beginning, whole=name.whole):
            advice = "set username and password, or anonymous: true"
            hub = "; names without a host are Docker Hub's" if registry == HUB else ""
            message = f"is missing or does not cover all of {name.key}; {advice}{hub}{trouble}"
            missing.setdefault(registry, message)
    return [Problem(join(path, registry), message) for registry, message in missing.items()], list(logins)


def find_unused(named: Iterable[NamedDestination], credentials: Credentials, path: str) -> list[Problem]:
    """Return a warning for each login of a registry that no rule names; ``path`` is that of ``auth``."""
    used = {name.beginning.partition("/")[0] for name in named}
    unused = [key for key in sorted(credentials.entries) if key.partition("/")[0] not in used]
    return [Problem(join(path, key), "no rule names this registry") for key in unused]
