"""The truth of a chaos run in a SQLite file: sources, destinations, and which worker ran when.

It plays both registries: a handler reads the version that the source has when it runs, and writes that to the
destination.
"""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_TABLES = """
CREATE TABLE source (id TEXT PRIMARY KEY, version INTEGER NOT NULL);
CREATE TABLE destination (id TEXT PRIMARY KEY, version INTEGER NOT NULL);
CREATE TABLE running (id TEXT NOT NULL, token TEXT NOT NULL, pid INTEGER NOT NULL);
CREATE TABLE fault (what TEXT NOT NULL);
CREATE TABLE ran (id TEXT NOT NULL, version INTEGER NOT NULL, payload INTEGER NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    runs: int
    faults: list[str]
    stale: list[str]


class Ledger:
    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, timeout=20)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=OFF")  # it survives the death of processes, which is all it has to

    def create(self) -> None:
        self._db.executescript(_TABLES)

    def close(self) -> None:
        self._db.close()

    def push(self, job: str) -> int:
        """Change the source; give its new version."""
        [version] = self._db.execute(
            "INSERT INTO source VALUES (?, 1) ON CONFLICT (id) DO UPDATE SET version = version + 1 RETURNING version",
            (job,),
        ).fetchone()
        return int(version)

    def begin(self, job: str, token: str) -> int:
        """Note that a run begins, and whether another one lives; give the source's version."""
        self._db.execute("BEGIN IMMEDIATE")
        for other, pid in self._db.execute("SELECT token, pid FROM running WHERE id = ?", (job,)).fetchall():
            if _alive(pid):
                self._db.execute("INSERT INTO fault VALUES (?)", (f"{job} ran twice at once: {other} and {token}",))
        self._db.execute("DELETE FROM running WHERE id = ?", (job,))
        self._db.execute("INSERT INTO running VALUES (?, ?, ?)", (job, token, os.getpid()))
        [version] = self._db.execute("SELECT version FROM source WHERE id = ?", (job,)).fetchone()
        self._db.execute("COMMIT")
        return int(version)

    def end(self, job: str, token: str) -> None:
        self._db.execute("DELETE FROM running WHERE id = ? AND token = ?", (job, token))

    def write(self, job: str, version: int, payload: int) -> None:
        """Write the tag."""
        self._db.execute("BEGIN IMMEDIATE")
        found = self._db.execute("SELECT version FROM destination WHERE id = ?", (job,)).fetchone()
        if found is not None and found[0] > version:
            self._db.execute("INSERT INTO fault VALUES (?)", (f"{job}: {version} written over {found[0]}",))
        self._db.execute("INSERT OR REPLACE INTO destination VALUES (?, ?)", (job, version))
        self._db.execute("INSERT INTO ran VALUES (?, ?, ?)", (job, version, payload))
        self._db.execute("COMMIT")

    def verdict(self) -> Verdict:
        [runs] = self._db.execute("SELECT count(*) FROM ran").fetchone()
        faults = [what for (what,) in self._db.execute("SELECT what FROM fault")]
        stale = [
            f"{job}: source {version}, destination {copied}"
            for job, version, copied in self._db.execute(
                "SELECT id, source.version, destination.version FROM source LEFT JOIN destination USING (id) "
                "WHERE destination.version IS NOT source.version"
            )
        ]
        return Verdict(runs, faults, stale)

    def last_payload(self, job: str) -> int | None:
        """The payload of the last run that wrote."""
        found = self._db.execute("SELECT payload FROM ran WHERE id = ? ORDER BY rowid DESC LIMIT 1", (job,)).fetchone()
        return None if found is None else int(found[0])


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
