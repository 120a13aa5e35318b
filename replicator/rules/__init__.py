"""The rules: which images go where, and as whom. Read once from a file, then pure functions of references.

`load` and `parse` read the file and tell everything that is wrong with it; `Rules` answers. See ``docs/rules.md``.
"""

from replicator.rules.auth import Credentials
from replicator.rules.loading import load, load_credentials, parse
from replicator.rules.narrowing import Matched, Narrowing
from replicator.rules.request import Asked, Collision, CopyRequest, Explanation, Source, collisions
from replicator.rules.rule import Route
from replicator.rules.ruleset import Rules
from replicator.rules.tags import TagFilter

__all__ = [
    "Asked",
    "Collision",
    "CopyRequest",
    "Credentials",
    "Explanation",
    "Matched",
    "Narrowing",
    "Route",
    "Rules",
    "Source",
    "TagFilter",
    "collisions",
    "load",
    "load_credentials",
    "parse",
]
