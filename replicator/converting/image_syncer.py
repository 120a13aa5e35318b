"""Files of image-syncer to a rules file."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import yaml

from replicator.errors import ConfigError, Problem
from replicator.rules import parse
from replicator.rules.document import read_document
from replicator.rules.place import join

_FIELDS = ("username", "password", "insecure")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True)
class Converted:
    """A rules file, and what a person must know about it.

    Attributes:
        text: the rules file, YAML.
        variables: the environment variables that it newly asks for: those of the passwords taken out.
        remarks: what has no equivalent or was added, each with its place in the source.
    """

    text: str
    variables: tuple[str, ...]
    remarks: tuple[Problem, ...]


def convert(
    text: str, source: str, *, registry: str | None = None, namespace: str | None = None, keep_secrets: bool = False
) -> Converted:
    """Convert a file with ``auth`` and ``images``.

    Args:
        text: its content, JSON or YAML.
        source: what problems are said to be in.
        registry: where a destination ``""`` goes; image-syncer's ``--registry``.
        namespace: likewise.
        keep_secrets: write passwords as they are, instead of a variable for each.

    Raises:
        ConfigError: it can't be read, or its rules can't be used; with every problem at once.
    """
    document = read_document(text)
    if document.problems:
        raise ConfigError(source, document.problems)
    value = _plain(document.value)
    if not isinstance(value, dict) or not isinstance(value.get("images"), dict):
        message = 'no file of image-syncer: that is a mapping with "auth" and "images"'
        raise ConfigError(source, [Problem("", message)])
    remarks = [Problem(key, "has no equivalent; left out") for key in value if key not in ("auth", "images")]
    variables: list[str] = []
    auth = _auth(value.get("auth") or {}, variables, remarks, source, keep_secrets=keep_secrets)
    hosts = _hosts(value["images"], registry)
    for host in hosts:
        if not any(key.partition("/")[0].lower() == host for key in auth):
            auth[host] = {"anonymous": True}
            remarks.append(Problem(join("auth", host), "is missing there; added without a login"))
    defaults = {key: given for key, given in (("registry", registry), ("namespace", namespace)) if given is not None}
    sections = {"auth": auth, **({"defaults": defaults} if defaults else {}), "images": value["images"]}
    rules = yaml.safe_dump(sections, sort_keys=False, allow_unicode=True, width=math.inf)
    # Only whether a variable is set counts here, so any value will do.
    parse(rules, source, environ=dict.fromkeys(_VARIABLE.findall(rules), "x"))
    return Converted(rules, tuple(variables), tuple(remarks))


def _auth(
    entries: Any, variables: list[str], remarks: list[Problem], source: str, *, keep_secrets: bool
) -> dict[str, dict[str, Any]]:
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise ConfigError(source, [Problem("auth", "must be a mapping of mappings")])
    found: dict[str, dict[str, Any]] = {}
    for key, entry in entries.items():
        path = join("auth", key)
        remarks += [Problem(join(path, name), "has no equivalent; left out") for name in entry if name not in _FIELDS]
        kept = {name: entry[name] for name in _FIELDS if name in entry}
        if not kept.get("username") and not kept.get("password"):
            kept = {"anonymous": True} | ({"insecure": kept["insecure"]} if "insecure" in kept else {})
        elif "password" in kept and not keep_secrets and not _VARIABLE.fullmatch(str(kept["password"])):
            variable = _variable(key, variables)
            variables.append(variable)
            kept["password"] = f"${{{variable}}}"
        found[key] = kept
    return found


def _variable(key: str, taken: list[str]) -> str:
    """Return a name for the variable of a registry's password, e.g. ``PASSWORD_HARBOR_EXAMPLE_COM``."""
    name = "PASSWORD_" + re.sub(r"[^A-Z0-9]", "_", key.upper())
    number, unique = 1, name
    while unique in taken:
        number += 1
        unique = f"{name}_{number}"
    return unique


def _hosts(images: dict[str, Any], registry: str | None) -> list[str]:
    hosts: dict[str, None] = {}
    for source, value in images.items():
        destinations = [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)]
        for name in (source, *(item or registry or "" for item in destinations)):
            hosts[name.partition("/")[0].lower()] = None
    return [host for host in hosts if host]


def _plain(value: Any) -> Any:
    """Return the same in the types that YAML's writer knows."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, str) else value
