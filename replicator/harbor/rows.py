"""The rows of Harbor's lists (``/api/v2.0``, "Repository" and "Artifact") as values.

Rows come from outside: what is no name, no tag or no digest is left out, and nothing here raises.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from replicator.reference import Repository, is_digest, is_repository_name, is_tag

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_MAX_NUMBER = 2**63 - 1
"""What Harbor counts with."""


@dataclass(frozen=True, slots=True)
class ListedRepository:
    """A row of a project's repositories.

    Attributes:
        repository: its name.
        artifact_count: how many artifacts it has, those without a tag too; 0 where Harbor does not say.
    """

    repository: Repository
    artifact_count: int


@dataclass(frozen=True, slots=True)
class ArtifactTag:
    """A tag of an artifact.

    Attributes:
        name: the tag.
        pushed: when it was last set to an artifact, UTC; None where Harbor does not say.
    """

    name: str
    pushed: datetime | None


@dataclass(frozen=True, slots=True)
class Artifact:
    """A row of a list of artifacts: an image, an index, or what else has a manifest.

    Attributes:
        repository: where it is.
        digest: of its manifest.
        size: bytes with all that it names; None where Harbor does not say.
        tags: its tags; none for one that was pushed by digest, or lost its tag to another.
        has_accessories: whether signatures or the like are attached to it.
    """

    repository: Repository
    digest: str
    size: int | None
    tags: tuple[ArtifactTag, ...]
    has_accessories: bool


def project_of(row: Mapping[str, Any]) -> str | None:
    """Return the name in a row of ``GET /projects``; None for what can't be one."""
    name = row.get("name")
    # It becomes a part of a path.
    return name if isinstance(name, str) and is_repository_name(name) and "/" not in name else None


def repository_of(row: Mapping[str, Any], registry: str, project: str) -> ListedRepository | None:
    """Read a row of ``GET /projects/{project}/repositories``.

    Args:
        row: the row.
        registry: the Harbor's host, as the rules name it.
        project: whose list it is.

    Returns:
        What it says; None if it names no repository of this project.
    """
    repository = _repository(row.get("name"), registry, project)
    if repository is None:
        return None
    return ListedRepository(repository, _number(row.get("artifact_count")) or 0)


def artifact_of(
    row: Mapping[str, Any], registry: str, project: str, asked: Repository | None = None
) -> Artifact | None:
    """Read a row of a list of artifacts.

    Args:
        row: the row.
        registry: the Harbor's host, as the rules name it.
        project: whose list it is.
        asked: the repository whose list it is; None for that of a whole project.

    Returns:
        What it says, without what is no tag; None if it has no digest, or is not of what was asked for.
    """
    # Before 2.12 a row does not name its repository.
    name = row.get("repository_name")
    repository = asked if name is None else _repository(name, registry, project)
    digest = row.get("digest")
    if repository is None or asked not in (None, repository) or not isinstance(digest, str) or not is_digest(digest):
        return None
    accessories = row.get("accessories")
    return Artifact(
        repository,
        digest,
        _number(row.get("size")),
        tuple(_tags(row.get("tags"))),
        isinstance(accessories, list) and bool(accessories),
    )


def _repository(name: Any, registry: str, project: str) -> Repository | None:
    if not isinstance(name, str) or not name.startswith(f"{project}/") or not is_repository_name(name):
        return None
    return Repository(registry, name)


def _tags(rows: Any) -> Iterator[ArtifactTag]:
    for row in rows if isinstance(rows, list) else ():
        name = row.get("name") if isinstance(row, dict) else None
        if isinstance(name, str) and is_tag(name):
            yield ArtifactTag(name, _moment(row.get("push_time")))


def _number(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= _MAX_NUMBER else None


def _moment(value: Any) -> datetime | None:
    """Read RFC 3339; the year 1 is how Go writes that a time was never set."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment if moment.year > 1 else None
