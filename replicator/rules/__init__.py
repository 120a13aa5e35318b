"""The rules: which images go where, and as whom. Read once from a file, then pure functions of references.

`load` and `parse` read the file and tell everything that is wrong with it; `Rules` answers. See ``docs/rules.md``.
"""

from replicator.rules.auth import Credentials
from replicator.rules.content import automatic
from replicator.rules.loading import load, load_credentials, parse
from replicator.rules.request import Collision, CopyRequest, Explanation, Source, collisions
from replicator.rules.ruleset import Rules
from replicator.rules.tags import TagFilter

__all__ = [
    "Collision",
    "CopyRequest",
    "Credentials",
    "Explanation",
    "Rules",
    "Source",
    "TagFilter",
    "automatic",
    "collisions",
    "load",
    "load_credentials",
    "parse",
]
