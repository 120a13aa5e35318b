"""Logins by registry, project or repository, from the rules or from a source outside of them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from replicator.aliyun import TemporaryLogins
from replicator.aliyun.acr import Edition, edition_of, endpoint_of
from replicator.errors import ConfigError, Problem
from replicator.reference import HUB, Repository
from replicator.rules.node import join

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from replicator.registry.credentials import Access
    from replicator.rules.rule import Rule


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

    def ca_files(self) -> dict[str, frozenset[Path]]:
        """Return the files of further authorities that the entries name, by their registry."""
        found: dict[str, frozenset[Path]] = {}
        for key, access in self.entries.items():
            if access.ca_file is not None:
                registry = key.partition("/")[0]
                found[registry] = found.get(registry, frozenset()) | {access.ca_file}
        return found

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


PERSONAL_NAMESPACES = 3
"""Namespaces that an account has in the Personal Edition."""
PERSONAL_REPOSITORIES = 300
"""Repositories that an account has in the Personal Edition."""
_MOST_NAMED = 10


def _namespace(name: str) -> str:
    return name.partition("/")[0]


@dataclass(slots=True)
class PersonalUse:
    """The need of copies at one account of the Personal Edition. Its other content is not known.

    Attributes:
        hosts: the names by which it is reached.
        namespaces: those that the rules fix, and those of ``repositories``.
        repositories: destinations that get an image for certain, as ``namespace/repository``.
        possible: further ones, which get an image if a tag passes the filter of their rule.
    """

    hosts: set[str] = field(default_factory=set)
    namespaces: set[str] = field(default_factory=set)
    repositories: set[str] = field(default_factory=set)
    possible: set[str] = field(default_factory=set)

    def reach(self, registry: str, namespace: str) -> None:
        """Add a namespace that gets an image."""
        self.hosts.add(registry)
        self.namespaces.add(namespace)

    def add(self, destination: Repository, *, certain: bool) -> None:
        """Add a destination; adding it twice makes no difference."""
        self.hosts.add(destination.registry)
        if certain:
            self.reach(destination.registry, _namespace(destination.name))
            self.repositories.add(destination.name)
            self.possible.discard(destination.name)
        elif destination.name not in self.repositories:
            self.possible.add(destination.name)

    @property
    def place(self) -> str:
        """Its hosts, in words."""
        return " and ".join(sorted(self.hosts))

    @property
    def summary(self) -> str:
        """The maximum need, beside the quotas."""
        repositories = len(self.repositories) + len(self.possible)
        namespaces = len(self._possible_namespaces)
        up_to = "up to " if namespaces > len(self.namespaces) else ""
        return (
            f"the rules need {up_to}{namespaces} of {PERSONAL_NAMESPACES} namespaces and up to {repositories} of "
            f"{PERSONAL_REPOSITORIES} repositories"
        )

    @property
    def _possible_namespaces(self) -> set[str]:
        return self.namespaces.union(map(_namespace, self.possible))

    @property
    def too_many_namespaces(self) -> str | None:
        """What to say if there are more namespaces than the account has; None if there are not."""
        return self._too_many_of(self.namespaces, "")

    @property
    def maybe_too_many_namespaces(self) -> str | None:
        """The same of all destinations."""
        return self._too_many_of(self._possible_namespaces, "up to ")

    def _too_many_of(self, namespaces: set[str], up_to: str) -> str | None:
        number = len(namespaces)
        if number <= PERSONAL_NAMESPACES:
            return None
        more = number - _MOST_NAMED
        named = ", ".join(sorted(namespaces)[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
        return (
            f"the rules need {up_to}{number} namespaces at {self.place} ({named}), and an account has "
            f"{PERSONAL_NAMESPACES} in the Personal Edition: copy several projects to one namespace, as in "
            f"{self._example}/{{flat}}, or use the Enterprise Edition"
        )

    @property
    def too_many_repositories(self) -> str | None:
        """What to say if certain destinations are more than the repositories of the account; None if they are not."""
        number = len(self.repositories)
        return self._too_many(f"at least {number}") if number > PERSONAL_REPOSITORIES else None

    @property
    def maybe_too_many_repositories(self) -> str | None:
        """The same of all destinations, whose number the filters for tags may still lower."""
        number = len(self.repositories) + len(self.possible)
        return self._too_many(f"up to {number}") if number > PERSONAL_REPOSITORIES else None

    @property
    def _example(self) -> str:
        return f"{min(self.hosts)}/{min(self._possible_namespaces)}"

    def _too_many(self, number: str) -> str:
        return (
            f"the rules need {number} repositories at {self.place}, and an account has {PERSONAL_REPOSITORIES} "
            f"in the Personal Edition: copy many into one, as in {self._example}/all:{{flat}}-{{tag}}, "
            "include fewer in the rules, or use the Enterprise Edition"
        )


class PersonalUses:
    """The need of the rules at each account of ACR's Personal Edition.

    It begins with what the rules alone tell: the namespaces that they fix, and the destinations of sources without
    wildcards.

    Args:
        rules: all rules.
        access_to: finds the login for a repository, see `Credentials.find`.
    """

    def __init__(self, rules: Iterable[Rule], access_to: Callable[[Repository], Access | None]) -> None:
        self._access_to = access_to
        self._uses: dict[tuple[str, str], PersonalUse] = {}
        for rule in rules:
            for target in rule.targets:
                registry, source = target.template.registry, rule.source
                if edition_of(registry) is not Edition.PERSONAL:
                    continue
                # A project may be a name that no namespace can have.
                with suppress(ValueError):
                    if source.repository is not None:
                        self.add(target.template.expand(source.repository), certain=rule.always_copies(target))
                    if namespace := target.template.fixed_namespace(source):
                        self._use(Repository(registry, f"{namespace}/x")).reach(registry, namespace)

    def add(self, destination: Repository, *, certain: bool) -> PersonalUse | None:
        """Add a destination; return the use of its account, or None if that is not of the Personal Edition.

        Args:
            destination: any destination of the rules.
            certain: whether it gets an image with any set of tags.
        """
        if edition_of(destination.registry) is not Edition.PERSONAL:
            return None
        use = self._use(destination)
        use.add(destination, certain=certain)
        return use

    def _use(self, destination: Repository) -> PersonalUse:
        access = None
        with suppress(ConfigError):  # the login can't be read, which is reported elsewhere
            access = self._access_to(destination)
        return self._uses.setdefault(_account(destination.registry, access), PersonalUse())

    def all(self) -> list[PersonalUse]:
        """Return the use of each account."""
        return list(self._uses.values())

    def problems(self) -> list[str]:
        """Say which quotas are certainly exceeded."""
        found = [problem for use in self.all() for problem in (use.too_many_namespaces, use.too_many_repositories)]
        return [problem for problem in found if problem is not None]


def _account(registry: str, access: Access | None) -> tuple[str, str]:
    """Return a key of the account at a host of the Personal Edition.

    Several hosts have one key only where they are certainly one account in one region: by the id of the instance, by
    the account's id in a RAM user's name, or by equal logins.
    """
    endpoint = endpoint_of(registry)
    if endpoint is None:
        return registry, ""
    if endpoint.instance:
        return endpoint.region, endpoint.instance
    if access is not None and access.username is not None:
        account = access.username.rpartition("@")[2]
        return endpoint.region, account if account.isdecimal() else access.username
    if access is not None and isinstance(access.logins, TemporaryLogins):
        return endpoint.region, f"key {access.logins.account.access_key_id}"
    return registry, ""
