"""Converter for image-syncer: ``auth`` and ``images``, in one file or in two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from replicator.commands.convert.draft import Draft, Entry
from replicator.rules.node import join

if TYPE_CHECKING:
    from collections.abc import Mapping

    from replicator.commands.convert.draft import Options

_FIELDS = ("username", "password", "insecure")


def drafted(sections: Mapping[str, Any], options: Options) -> Draft:
    """Return a draft from image-syncer's files.

    Args:
        sections: the top level of the file, or the contents of both files as ``auth`` and ``images``.
        options: settings that the files don't have.
    """
    draft = Draft("image-syncer", options)
    for key in sections:
        if key not in ("auth", "images"):
            draft.remark(key, "has no equivalent; left out")
    names = {"registry": options.registry, "namespace": options.namespace}
    draft.defaults = {name: given for name, given in names.items() if given is not None}
    images = sections.get("images")
    if isinstance(images, dict):
        for source, destinations in images.items():
            value = destinations if isinstance(destinations, list) else [destinations]
            draft.images[source] = Entry(value, join("images", source))
    elif images is None:
        draft.wrong("images", "is missing; it maps sources to destinations, here or in a file of its own")
    else:
        draft.wrong("images", "must be a mapping of sources to destinations")
    _auth(sections.get("auth") or {}, draft)
    for host, _ in draft.hosts():
        if host and not draft.has_login(host):
            path = join("auth", host)
            draft.auth[host] = Entry({"anonymous": True}, path)
            draft.remark(path, "has no entry in the file; added without a login", draft.auth[host])
    return draft


def _auth(entries: Any, draft: Draft) -> None:
    if not isinstance(entries, dict):
        draft.wrong("auth", "must be a mapping of registries to logins")
        return
    for key, given in entries.items():
        path = join("auth", key)
        if not isinstance(given, dict):
            draft.wrong(path, "must be a mapping with username and password")
            continue
        kept = {name: given[name] for name in _FIELDS if name in given}
        if not kept.get("username") and not kept.get("password"):
            kept = {"anonymous": True} | ({"insecure": kept["insecure"]} if "insecure" in kept else {})
        elif isinstance(kept.get("password"), str):
            kept["password"] = draft.secret(kept["password"], "PASSWORD", key)
        draft.auth[key] = Entry(kept, path)
        for name in given:
            if name not in _FIELDS:
                draft.remark(join(path, name), "has no equivalent; left out", draft.auth[key])
