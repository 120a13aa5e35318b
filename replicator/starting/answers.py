"""What must be known before the first rules file can be written."""

from __future__ import annotations

from dataclasses import dataclass

from replicator.errors import ConfigError, Problem
from replicator.reference import is_registry, is_repository_name


@dataclass(frozen=True, slots=True)
class Answers:
    """Who copies what from where to where.

    Attributes:
        harbor: Harbor's host, with a port if it has one.
        harbor_user: the robot's whole name, e.g. ``robot$replicator``.
        acr: the host of the registry that is copied to.
        acr_user: the user there, e.g. ``acr_pusher@1938562138124787``.
        namespace: the namespace there, one segment.
        projects: the projects of Harbor that are copied.

    Raises:
        ConfigError: something can't be what it should be; with every problem at once, by option.
    """

    harbor: str
    harbor_user: str
    acr: str
    acr_user: str
    namespace: str
    projects: tuple[str, ...]

    def __post_init__(self) -> None:
        problems = [
            Problem(option, f"{host!r} is no registry's host: write it with a dot or a port, without https://")
            for option, host in (("--harbor", self.harbor), ("--acr", self.acr))
            if not is_registry(host)
        ]
        problems += [
            Problem(option, f"{name!r} is no single name: lower-case letters, digits, - _ . and no slash")
            for option, name in (("--namespace", self.namespace), *(("--project", name) for name in self.projects))
            if not is_repository_name(name) or "/" in name
        ]
        problems += [
            Problem(option, "is empty")
            for option, name in (("--harbor-user", self.harbor_user), ("--acr-user", self.acr_user))
            if not name
        ]
        if not self.projects:
            problems.append(Problem("--project", "is missing: name at least one project of Harbor"))
        if problems:
            raise ConfigError("command line", problems)
