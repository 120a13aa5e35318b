"""Rows put aside until the end of a run, and then read in order, in little memory."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from replicator.errors import ReplicatorError

if TYPE_CHECKING:
    from collections.abc import Iterator

_CACHE_KIBIBYTES = 4096


class Spool:
    """A pile of texts, each under a source and a destination.

    It stands in a temporary file that SQLite keeps once it is larger than a few megabytes (``TMPDIR`` says where), and
    that is gone with it, however the process ends.
    """

    def __init__(self) -> None:
        # No name: a temporary database (https://www.sqlite.org/inmemorydb.html, "Temporary Databases").
        self._error: sqlite3.Error | None = None
        self._database = sqlite3.connect("", isolation_level=None)
        for statement in (
            f"PRAGMA cache_size=-{_CACHE_KIBIBYTES}",
            "PRAGMA journal_mode=OFF",
            "PRAGMA synchronous=OFF",
            "CREATE TABLE pile (source TEXT, destination TEXT, content TEXT)",
            "BEGIN",
        ):
            self._database.execute(statement)

    def add(self, source: str, destination: str, content: str = "") -> None:
        """Put a text aside. What goes wrong is told by `read`."""
        if self._error is None:
            try:
                self._database.execute("INSERT INTO pile VALUES (?, ?, ?)", (source, destination, content))
            except sqlite3.Error as error:
                self._error = error

    def read(self) -> Iterator[tuple[str, str, str]]:
        """Give source, destination and text of everything, sorted, what is wholly the same once.

        Raises:
            ReplicatorError: there was no room for all of it, or is none for sorting it.
        """
        try:
            if self._error is not None:
                raise self._error
            yield from self._database.execute(
                "SELECT DISTINCT source, destination, content FROM pile ORDER BY source, destination, content"
            )
        except sqlite3.Error as error:
            message = f"no room for rows in the directory of temporary files (TMPDIR): {error}"
            raise ReplicatorError(message) from None

    def close(self) -> None:
        """Forget everything."""
        self._database.close()
