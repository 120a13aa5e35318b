"""``aliyun`` in an entry of ``auth``: temporary logins on behalf of an account, and what it creates."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from replicator.aliyun import INSTALL, Account, Creates, Visibility, is_installed
from replicator.rules.variables import expand_variables, is_endpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from replicator.rules.place import Place

KEYS = ("access_key_id", "access_key_secret", "security_token", "region", "instance_id", "openapi_endpoint", "create")
"""What ``aliyun`` can have."""
CREATE = ("repositories", "namespaces")
"""What ``create`` in it can have."""
_FORMS = {
    "region": (re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\Z"), "must be a region's id, e.g. cn-beijing"),
    "instance_id": (re.compile(r"cri-[a-z0-9]+\Z"), "must be the id of an Enterprise instance: cri-…"),
}


def read_account(place: Place, environ: Mapping[str, str]) -> Account | None:
    """Read the mapping; None if something is wrong, which is noted at its place.

    Args:
        place: the mapping; empty for the default chain of credentials.
        environ: what ``${NAME}`` is taken from.
    """
    fields = place.mapping(KEYS)
    if fields is None:
        return None
    sound = len(fields) == len(place.value)
    creates = None
    if (wanted := fields.pop("create", None)) is not None:
        creates = _read_creates(wanted)
        sound = sound and creates is not None
    if not is_installed():
        place.wrong(f"needs more libraries: {INSTALL}")
        sound = False
    values: dict[str, str] = {}
    for name, field in fields.items():
        text = field.text()
        value = expand_variables(field, text, environ) if text is not None else None
        if value is None:
            sound = False
            continue
        values[name] = value
        if not value or not value.isprintable():
            field.wrong("is empty; leave it out" if not value else "holds a control character, which can't be sent")
            sound = False
        elif name in _FORMS and not _FORMS[name][0].match(value):
            field.wrong(_FORMS[name][1])
            sound = False
        elif name == "openapi_endpoint" and not is_endpoint(value):
            field.wrong("must be host, host:port, http://host:port or https://host:port, no more")
            sound = False
    if ("access_key_id" in fields) != ("access_key_secret" in fields):
        place.wrong("access_key_id and access_key_secret go together")
        sound = False
    elif "security_token" in fields and "access_key_id" not in fields:
        place.wrong("a security_token without the access key it belongs to")
        sound = False
    return Account(**values, creates=creates) if sound else None


def _read_creates(place: Place) -> Creates | None:
    """Read what is created where a push needs it; None if something is wrong, which is noted at its place."""
    fields = place.mapping(CREATE)
    if fields is None:
        return None
    if "repositories" not in fields:
        words = " or ".join(Visibility)
        place.wrong(f"says nothing of repositories: {words}, what is created is to be")
        return None
    visibility = fields["repositories"].choice(Visibility)
    namespaces = fields["namespaces"].boolean() if "namespaces" in fields else False
    # A mistake about namespaces is noted, and then nothing starts.
    return Creates(Visibility(visibility), namespaces) if visibility is not None else None
