"""Rules: which images are copied where, and with which login.

`load` and `parse` read rules files and report all their mistakes at once. `Rules` answers questions about references,
without network, disk or clock. The format is documented in ``docs/rules.md``.
"""

from typing import TYPE_CHECKING

from replicator import lazy_exports

if TYPE_CHECKING:
    from replicator.rules.credentials import Credentials
    from replicator.rules.loading import load, load_credentials, parse
    from replicator.rules.request import (
        Asked,
        Collision,
        CopyRequest,
        Explanation,
        Matched,
        Narrowing,
        Source,
        find_collisions,
    )
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
    "find_collisions",
    "load",
    "load_credentials",
    "parse",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "Credentials": "credentials",
        "load": "loading",
        "load_credentials": "loading",
        "parse": "loading",
        "Matched": "request",
        "Narrowing": "request",
        "Asked": "request",
        "Collision": "request",
        "CopyRequest": "request",
        "Explanation": "request",
        "Source": "request",
        "find_collisions": "request",
        "Route": "rule",
        "Rules": "ruleset",
        "TagFilter": "tags",
    },
)
