"""Signed statements about a comparison: rows, a Merkle tree over them, a signature, and the check of all three.

A file has one line of JSON for each row, and a last line: a DSSE envelope with an in-toto statement, which names the
number of rows and the root of the tree over them. So a row that is changed, added, left out or moved is found without
any registry. Rows are written and read one by one: a file of any length takes no memory.

Sources: in-toto Attestation Framework, "Statement" v1 and "Envelope" v1; DSSE protocol 1.0; RFC 9162, 2.1.1 (the tree,
the same as in RFC 6962); RFC 8785 (JSON with sorted keys and no spaces).
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from replicator import __version__
from replicator.console import TextFile, iso
from replicator.errors import ErrorText, ReplicatorError, bounded_line
from replicator.replication.report import Report, Row, RowOutcome, SortedRows
from replicator.replication.signing import NotGenuine, envelope, open_envelope

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from replicator.replication.signing import SigningKey, VerifyingKey

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:replicator:comparison:v1"
MAX_LINE = 1024 * 1024
"""Bytes of a line of an attestation that is checked; a row has less than 4 KiB."""
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


class State(StrEnum):
    """The result of a comparison at a destination."""

    EQUAL = "equal"
    """The destination's tag names what the rules want of the image that the source's tag names."""
    DIFFERENT = "different"
    """The destination's tag names another image."""
    MISSING = "missing"
    """The destination has no such tag."""
    INCOMPLETE = "incomplete"
    """The destination's tag names the right image, and a signature, a manifest or a blob of it is missing there."""
    EXTRA = "extra"
    """The destination has a tag that no rule or no source tag names."""
    SKIPPED = "skipped"
    """The rules do not copy this image, and the destination has no such tag."""
    KEPT = "kept"
    """The destination's tag names another image, which the rules leave alone (``overwrite``)."""
    FAILED = "failed"
    """It could not be found out."""
    NOT_LISTED = "not listed"
    """No tag: a repository, project or pattern whose tags could not be listed."""
    UNKNOWN = "unknown"
    """A backfill ended before it was found out."""


AS_WANTED = frozenset({State.EQUAL, State.SKIPPED, State.KEPT})
"""The states in which a destination is as the rules want it."""
_STATES = {
    RowOutcome.UP_TO_DATE: State.EQUAL,
    RowOutcome.COPIED: State.EQUAL,
    RowOutcome.HELD: State.DIFFERENT,
    RowOutcome.FAILED: State.FAILED,
    RowOutcome.NOT_LISTED: State.NOT_LISTED,
}


@dataclass(frozen=True, slots=True)
class Compared:
    """A row of an attestation.

    Attributes:
        source: the tag; for a failed list, its name; empty for an extra tag.
        destination: empty if it is not known.
        source_digest: the digest of the source's tag; None if it is not known.
        destination_digest: the digest of the destination's tag; None without such a tag, or if it is not known.
        wanted: digest that the destination's tag has to name; None if it is not known, or the rules want none.
        note: the parts left out of the image, or why the state is not `State.EQUAL`.
    """

    source: str
    destination: str
    state: State
    source_digest: str | None = None
    destination_digest: str | None = None
    wanted: str | None = None
    note: str = ""

    @classmethod
    def of(cls, row: Row) -> Compared:
        """Return what the row of a backfill tells."""
        state, wanted, note = _STATES.get(row.outcome, State.UNKNOWN), row.digest, row.note
        if row.outcome is RowOutcome.WOULD_COPY:
            right = State.INCOMPLETE if row.present == row.digest else State.DIFFERENT
            state = right if row.present is not None else State.MISSING
        elif row.outcome is RowOutcome.SKIPPED:
            # A kept tag has a digest; an old image, whose source tag moved to one that is not copied, has none.
            kept = State.KEPT if row.digest is not None else State.SKIPPED
            state, wanted = (State.DIFFERENT if row.still_holds is not None else kept), None
        elif row.outcome is RowOutcome.SOURCE_GONE:
            state = State.EXTRA if row.still_holds is not None else State.SKIPPED
        elif state is State.UNKNOWN:
            note = str(row.outcome)
        if row.error is not None:
            note = str(ErrorText.parse(row.error))
        return cls(row.source, row.destination, state, row.source_digest, row.present, wanted, note)

    def to_json(self) -> dict[str, str | None]:
        """Return it as JSON values, sorted by their names."""
        # `asdict` takes three times as long.
        return {
            "destination": self.destination,
            "destination_digest": self.destination_digest,
            "note": self.note,
            "source": self.source,
            "source_digest": self.source_digest,
            "state": str(self.state),
            "wanted": self.wanted,
        }

    @property
    def line(self) -> str:
        """It as one line of JSON, without its end."""
        return _encode(self.to_json())

    @classmethod
    def parse(cls, line: str) -> Compared:
        """Read a line of `line`."""
        values = json.loads(line)
        return cls(**{**values, "state": State(values["state"])})


class MerkleTree:
    """The root of a tree over entries, which need not be kept (RFC 9162, 2.1.1 and 2.1.2).

    Attributes:
        size: the number of entries.
    """

    def __init__(self) -> None:
        self.size = 0
        # Roots of complete subtrees, the largest first; their sizes are the bits of `size`.
        self._roots: list[bytes] = []

    def add(self, entry: bytes) -> None:
        """Append an entry."""
        # The prefixes tell a leaf from a node, so that no other tree has the same root.
        node = sha256(b"\0" + entry).digest()
        size = self.size
        while size & 1:
            node = sha256(b"\1" + self._roots.pop() + node).digest()
            size >>= 1
        self._roots.append(node)
        self.size += 1

    @property
    def root(self) -> str:
        """The root over all entries so far, as hex."""
        if not self._roots:
            return sha256().hexdigest()
        node, *others = reversed(self._roots)
        for other in others:
            node = sha256(b"\1" + other + node).digest()
        return node.hex()


@dataclass(slots=True)
class Facts:
    """The content of a statement beside its rows.

    Attributes:
        rules: `replicator.rules.Rules.digest` of the rules that were compared.
        command: ``verify`` or ``backfill``.
        only: see `replicator.rules.Narrowing`.
        keys: the same.
        deep: whether manifests and blobs were asked for at the destinations.
        extra: whether extra tags were searched: those without a rule or a source tag.
        since: tags that were pushed earlier were left out; None for none.
        started: when it began, UTC.
        complete: whether everything was listed and compared; False until that is known.
    """

    rules: str
    command: str
    only: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    deep: bool = False
    extra: bool = False
    since: datetime | None = None
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    complete: bool = False


def is_whole(report: Report) -> bool:
    """Tell whether everything that was meant was listed and compared."""
    ended_early = report.interrupted or report.failed_fast or report.broken_off
    return report.complete and not ended_early and not report.counts[RowOutcome.NOT_LISTED]


class _Content:
    """The rows of a file, as far as they were written or read: what a statement says of them."""

    def __init__(self) -> None:
        self.tree = MerkleTree()
        self._hash = sha256()

    def add(self, line: bytes) -> None:
        """Add a row, without the end of its line."""
        self.tree.add(line)
        self._hash.update(line + b"\n")

    @property
    def sha256(self) -> str:
        """The hash of all lines of rows."""
        return self._hash.hexdigest()


class AttestationFile:
    """A signed file of the rows of a comparison, an `Output`; rows are sorted by destination and source.

    Args:
        option: the option that asks for it, for errors.
        key: signs it.
        facts: what it says beside its rows, as it is at the end.

    Attributes:
        file: its path.
        key: the same.
    """

    def __init__(self, option: str, file: Path, key: SigningKey, facts: Facts) -> None:
        self._text = TextFile(option, file)
        self.file, self.key = file, key
        self.facts = facts
        self._rows = SortedRows()

    def check(self) -> None:
        """See `Output`."""
        self._text.check()

    def row(self, row: Row) -> None:
        """See `Output`."""
        self.add(Compared.of(row))

    def add(self, row: Compared) -> None:
        """Take a row. An error is raised later, by `end`."""
        self._rows.add(row.destination, row.source, f"{row.state}\n{row.line}")

    def end(self) -> None:
        """See `Output`."""
        content, counts = _Content(), Counter[State]()
        try:
            for _, _, text in self._rows.read():
                state, _, line = text.partition("\n")
                counts[State(state)] += 1
                # As `TextFile` encodes it.
                content.add(line.encode("utf-8", "backslashreplace"))
                self._text.write(f"{line}\n")
        finally:
            self._rows.close()
        statement = _encode(_statement(self.facts, content, counts))
        self._text.write(f"{envelope(statement.encode(), self.key)}\n")
        self._text.close()


def _statement(facts: Facts, content: _Content, counts: Counter[State]) -> dict[str, Any]:
    is_equal = facts.complete and counts.keys() <= AS_WANTED
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": "rows.jsonl", "digest": {"sha256": content.sha256}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "tool": {"name": "replicator", "version": __version__, "command": facts.command},
            "started": iso(facts.started),
            "finished": iso(datetime.now(UTC)),
            "rules": facts.rules,
            "only": list(facts.only),
            "keys": list(facts.keys),
            "since": iso(facts.since.astimezone(UTC)) if facts.since is not None else None,
            "deep": facts.deep,
            "extra": facts.extra,
            "complete": facts.complete,
            "result": "equal" if is_equal else "different",
            "counts": {str(state): counts[state] for state in State if counts[state]},
            "rows": {"count": content.tree.size, "hash": "RFC 9162 SHA-256", "root": content.tree.root},
        },
    }


@dataclass(frozen=True, slots=True)
class Attested:
    """The content of a genuine attestation.

    Attributes:
        predicate: of its statement; see docs/verify.md.
        rows: their number.
    """

    predicate: dict[str, Any]
    rows: int

    @property
    def is_equal(self) -> bool:
        """Whether it says that everything was compared, and is as the rules want it."""
        return self.predicate.get("result") == "equal"


def check(file: Path, key: VerifyingKey) -> Attested:
    """Check an attestation; no registry is asked.

    Raises:
        NotGenuine: it is not as the owner of the key has signed it.
        ReplicatorError: the file can't be read.
    """
    content, last = _Content(), b""
    for line in _lines(file):
        if last:
            content.add(last[:-1])
        last = line
    if not last.endswith(b"\n"):
        raise NotGenuine(f"{file} is incomplete", "its last line has no end", "get the whole file again")
    statement = open_envelope(last, file, key)
    try:
        predicate = statement["predicate"]
        said = (statement["_type"], statement["predicateType"], [each["digest"] for each in statement["subject"]])
        rows = predicate["rows"]["count"], predicate["rows"]["root"]
    except (KeyError, TypeError) as error:
        raise NotGenuine(f"{file} is another kind of statement", "it is signed, but is no comparison") from error
    if said[:2] != (STATEMENT_TYPE, PREDICATE_TYPE):
        raise NotGenuine(f"{file} is another kind of statement", f"its type is {bounded_line(str(said[1]), 100)}")
    found = content.tree.size, content.tree.root
    if rows != found or said[2] != [{"sha256": content.sha256}]:
        why = (
            f"{bounded_line(str(rows[0]), 20)} rows were signed, but the file has {found[0]}"
            if rows[0] != found[0]
            else ""
        )
        raise NotGenuine(
            f"the rows of {file} are not the signed rows",
            why or f"the root over the rows is {found[1]}, but {bounded_line(str(rows[1]), 64)} was signed",
            "a row was changed, added, left out or moved: trust none of them",
        )
    return Attested(predicate, content.tree.size)


def _lines(file: Path) -> Iterator[bytes]:
    """Yield the lines of a file with their ends; each is bounded."""
    try:
        with file.open("rb") as opened:
            while line := opened.readline(MAX_LINE + 1):
                if len(line) > MAX_LINE:
                    raise NotGenuine(f"{file} is no attestation", f"a line has more than {MAX_LINE} bytes")
                yield line
    except OSError as error:
        raise ReplicatorError(f"{file} can't be read", error.strerror or str(error)) from None
