"""The content of a Harbor: tiny images in many repositories of a few projects, and their destinations."""

from __future__ import annotations

from collections.abc import Mapping

from tests.standins.images import Image, image, layer

PROJECTS = {"team-a": "mirror-a", "team-b": "mirror-b", "team-c": "mirror-c"}
"""Projects at Harbor, and the namespace of the destination that each goes to."""

Content = Mapping[str, Mapping[str, Image]]
"""Images by repository and tag."""

_BYTES = 300
"""Of the file in a layer: what is measured is requests, not bytes."""
_BASES = 50_000_000
_FORMER = 10_000_000
"""Where seeds begin of layers that are shared, and of images that a tag named before."""


def names(repositories: int) -> list[str]:
    """Name so many repositories, in all projects in turn."""
    projects = list(PROJECTS)
    return [f"{projects[number % len(projects)]}/app-{number:04}" for number in range(repositories)]


def destination_of(repository: str) -> str:
    """Return the repository of the destination that a repository at Harbor is brought to."""
    project, _, name = repository.partition("/")
    return f"{PROJECTS[project]}/{name}"


def tags_of(held: Content) -> int:
    """Count all tags."""
    return sum(map(len, held.values()))


def content(repositories: int, tags: int) -> Content:
    """Make so many tags in so many repositories, as evenly as it goes.

    Each image has a config and a layer of its own, and a layer that its repository shares.

    Raises:
        ValueError: there are fewer tags than repositories.
    """
    if tags < repositories:
        raise ValueError(f"{tags} tags are too few for {repositories} repositories")
    return {
        repository: {
            f"v{place}": _image(seed, number) for place, seed in enumerate(range(number, tags, repositories), start=1)
        }
        for number, repository in enumerate(names(repositories))
    }


def before_changes(held: Content, share: int) -> Content:
    """Return what a Harbor held before every ``share``-th tag, at least one, was pushed again."""
    former: dict[str, dict[str, Image]] = {}
    seen = 0
    for number, (repository, images) in enumerate(held.items()):
        former[repository] = {}
        for tag, root in images.items():
            former[repository][tag] = root if seen % share else _image(_FORMER + seen, number)
            seen += 1
    return former


def _image(seed: int, repository: int) -> Image:
    return image(seed, (_BYTES,), base=[layer(_BASES + repository, _BYTES)])
