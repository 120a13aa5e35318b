"""What the rules say of a repository before its tags are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from replicator.reference import Repository
    from replicator.rules.rule import Rule, Target


@dataclass(frozen=True, slots=True)
class Route:
    """Where the copies of one repository can go, whatever its tags are.

    Attributes:
        destinations: the repositories that get a tag of any of its copies. Where copies go by digest alone is not
            among them: the same digest is the same content, wherever it comes from.
        renaming: those of them where a tag can have another name than at the source.
        whole: whether all tags must be seen together. If not, ``Rules.asked`` of one part of the tags after the other
            asks for the same as of all of them at once.
        unfit: why copies that rules ask for can't be made, whatever the tag: no such name can be at the destination.
    """

    destinations: frozenset[Repository]
    renaming: frozenset[Repository]
    whole: bool
    unfit: tuple[str, ...] = ()


def route(rules: Iterable[Rule], repository: Repository) -> Route:
    """Return the route of ``repository`` under ``rules``, all of which are about it."""
    destinations: set[Repository] = set()
    renaming: set[Repository] = set()
    whole = False
    unfit: dict[str, None] = {}
    for rule in rules:
        for target in rule.targets:
            whole = whole or _is_whole(rule, target)
            try:
                destination = target.template.expand(repository)
            except ValueError as error:
                # There is no such copy, see `Rule.judge`.
                unfit[f"rule {rule.key}: {error}"] = None
                continue
            if rule.source.digest is not None and target.digest_tag is None:
                continue
            destinations.add(destination)
            if target.pairs or target.digest_tag is not None:
                renaming.add(destination)
    return Route(frozenset(destinations), frozenset(renaming), whole, tuple(unfit))


def _is_whole(rule: Rule, target: Target) -> bool:
    """Tell whether a copy depends on more than its own tag.

    ``latest`` chooses among all tags. What is written out is asked for whether it is listed or not, and would be once
    for every part.
    """
    return rule.source.digest is not None or target.tags.latest is not None or target.tags.exact is not None
