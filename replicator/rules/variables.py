"""``${NAME}`` in a value, and addresses to connect to."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from yarl import URL

from replicator.reference import is_registry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from replicator.rules.place import Place

_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def expand_variables(place: Place, text: str, environ: Mapping[str, str]) -> str | None:
    """Replace every ``${NAME}`` in ``text`` by the variable's value, once; a ``$`` elsewhere is left alone.

    Returns:
        The text, or None if a variable is not set; that is noted at ``place`` without what else stands there.
    """
    names = _VARIABLE.findall(text)
    failed = False
    for name in dict.fromkeys(names):
        if not _VARIABLE_NAME.match(name):
            place.wrong(
                "between ${ and } stands the name of an environment variable: letters, digits and _; "
                "a text that really has ${ in it can be put in a variable of its own"
            )
            failed = True
        elif not environ.get(name):
            place.wrong(f"the environment variable {name} is {'empty' if name in environ else 'not set'}")
            failed = True
    return None if failed else _VARIABLE.sub(lambda match: environ[match[1]], text)


def is_endpoint(text: str) -> bool:
    """Tell whether ``text`` is ``host[:port]``, with or without ``http(s)://``, and no more."""
    try:
        url = URL(text if "://" in text else f"https://{text}")
    except ValueError:
        return False
    if url.scheme not in {"http", "https"} or not url.host:
        return False
    # Nothing but scheme, host and port: a login here would end up in logs, a path would be dropped unnoticed.
    bare = url == url.origin().with_path(url.path[:1])
    return bare and is_registry(f"{url.host_subcomponent}:{url.port}")
