"""Writes a file whole or not at all, and over another one only where that is meant."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from replicator.errors import ConfigError, Problem


def write(path: Path, text: str, *, mode: int, force: bool) -> None:
    """Write a file.

    Args:
        path: where.
        text: what; UTF-8.
        mode: its permissions, from the first moment on at most these.
        force: whether a file that is there is replaced.

    Raises:
        ConfigError: it is there already, or can't be written.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                os.fchmod(file.fileno(), mode)
            if force:
                Path(name).replace(path)
            else:
                # Unlike a rename, a link fails where something is, whoever put it there meanwhile.
                path.hardlink_to(name)
        finally:
            Path(name).unlink(missing_ok=True)
    except FileExistsError:
        raise ConfigError(str(path), [Problem("", "is there already; --force replaces it")]) from None
    except OSError as error:
        raise ConfigError(str(path), [Problem("", f"can't be written: {error.strerror}")]) from None
