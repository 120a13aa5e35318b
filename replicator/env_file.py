"""The files that hold settings: secret files, and ``.env`` of the working directory, read once for each version."""

from __future__ import annotations

import os
from collections import ChainMap
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from dotenv import dotenv_values
from dotenv.variables import parse_variables

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_MAX_SECRET_BYTES = 64 * 1024


def read_dotenv() -> Mapping[str, str]:
    """Return the variables as they are written, with ``${NAME}``; none if there is no file.

    Raises:
        OSError: it can't be read.
        UnicodeDecodeError: it is not UTF-8.
    """
    file = Path.cwd() / ".env"
    try:
        found = file.stat()
    except FileNotFoundError:
        return {}
    return _parse(file, found.st_mtime_ns, found.st_size, found.st_ino)


@lru_cache(maxsize=1)
def _parse(file: Path, *_: int) -> Mapping[str, str]:
    """Parse it. The numbers tell its versions apart: a long file takes half a second."""
    values = dotenv_values(file, interpolate=False, encoding="utf-8-sig")
    return {name: value for name, value in values.items() if value is not None}


class Variables(dict[str, str]):
    """Values of ``${NAME}`` in the rules, and the advice about a missing one.

    Attributes:
        beside: the directory of the rules, where a person may expect ``.env`` to be read.
        offline: nothing is contacted, so that a secret may be missing.
    """

    beside: Path | None = None
    offline: bool = False

    def for_secrets(self, names: Iterable[str]) -> Mapping[str, str]:
        """Return them for a text that is a secret, with a placeholder for each missing one of ``names`` if offline."""
        return {**self, **{name: "-" for name in names if not self.get(name)}} if self.offline else self

    def advice(self, name: str) -> str:
        """Say where a variable is to be set, as the end of the sentence that it is not set or empty."""
        here, directory = Path.cwd(), secrets_directory()
        if name in os.environ:
            return " in the environment, which goes before .env"
        if name in self:
            return f": set it in {here / '.env'}" if name in read_dotenv() else f": fill in the file {directory / name}"
        if (here / ".env").exists():
            return f", nor is it in {here / '.env'}"
        if directory.is_dir():
            return f", nor is there a file of this name in {directory}"
        other = self.beside if self.beside is not None and (self.beside / ".env").exists() else None
        found = f"; there is one in {other.resolve()}: run this there" if other is not None else ""
        return f"; .env is read in the working directory, here {here}{found}"


def resolve(values: Mapping[str, str]) -> Mapping[str, str]:
    """Resolve each ``${NAME}`` in variables, by those before it, then by the environment.

    As `dotenv.dotenv_values` does, which takes a time that grows with the square of their number.
    """
    resolved: dict[str, str] = {}
    known = ChainMap(resolved, dict(os.environ))
    for name, value in values.items():
        resolved[name] = "".join(part.resolve(known) for part in parse_variables(value)) if "$" in value else value
    return resolved


def secrets_directory() -> Path:
    """Return where secret files are looked for, whether it exists or not."""
    return Path(os.environ.get("REPLICATOR_SECRETS_DIR") or "/run/secrets")


def secret_files() -> dict[str, str]:
    """Return the content of each secret file by its name; one that is no text or too long is another program's."""
    found = {}
    directory = secrets_directory()
    if directory.is_dir():
        for path in sorted(directory.iterdir()):
            try:
                if path.is_file() and path.stat().st_size <= _MAX_SECRET_BYTES:
                    found[path.name] = path.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError):
                continue  # another program's secret
    return found
