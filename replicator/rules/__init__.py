"""Rules: which images are copied where, and with which login.

`load` and `parse` read a rules file and report all its mistakes at once. `Rules` answers questions about references,
without network, disk or clock. The format is documented in ``docs/rules.md``.
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
