"""The lock files, parsed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_ENTRY = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9.-]*)==(?P<version>[^\s;]+)(?P<rest>.*?)(?=^[a-z0-9]|\Z)", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Locked:
    """A distribution in its one version.

    Attributes:
        name: normalized.
        version: as it is written.
        hashes: ``sha256:…`` of the files that may be installed.
    """

    name: str
    version: str
    hashes: tuple[str, ...]


def locked(file: str) -> dict[str, Locked]:
    """Read a file of the project's top, by name."""
    found = {}
    for entry in _ENTRY.finditer((ROOT / file).read_text()):
        hashes = tuple(re.findall(r"--hash=(sha256:[0-9a-f]{64})(?:\s|\Z)", entry["rest"]))
        found[entry["name"]] = Locked(entry["name"], entry["version"], hashes)
    return found
