"""The records that the queue keeps in Redis, as typed values: in JSON, but for `TagRecord`.

A record is a frozen dataclass: a field's name is the key in the JSON, its annotation what the reader checks. Keys that
a reader does not know are ignored, because an old and a new process share one queue during an upgrade: a newer version
may add a key, and must neither rename one nor change its type. A new word of an enumeration is a change of type.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection

    from pydantic import GetCoreSchemaHandler, TypeAdapter
    from pydantic_core import CoreSchema

Record = TypeVar("Record")

EPOCH = datetime.fromtimestamp(0, UTC)
"""Placeholder in a record whose time a script adds; the field is left out of the JSON."""


def moment(milliseconds: float) -> datetime:
    """Turn milliseconds since 1970 into a UTC time.

    Raises:
        ValueError: no calendar has that time.
    """
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (OverflowError, OSError) as error:
        raise ValueError(f"{milliseconds} ms is out of range") from error


def milliseconds(time: datetime) -> int:
    """Turn a time into milliseconds since 1970."""
    # Rounded: a whole number of milliseconds is rarely a whole binary fraction of a second.
    return round(time.timestamp() * 1000)


class _Milliseconds:
    """Has pydantic store a time as milliseconds since 1970, as Redis's clock gives it to the scripts.

    Its own reading of a number guesses the unit from the size.
    """

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(
            moment,
            core_schema.float_schema(),
            serialization=core_schema.plain_serializer_function_ser_schema(milliseconds),
        )


Moment = Annotated[datetime, _Milliseconds()]
"""A time (UTC) that is stored as milliseconds since 1970."""


_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}


def _adapter(kind: Any) -> TypeAdapter[Any]:
    if (adapter := _ADAPTERS.get(kind)) is None:
        # Imported and built at the first record: a client that only enqueues jobs never pays the 60 ms.
        from pydantic import TypeAdapter

        adapter = _ADAPTERS[kind] = TypeAdapter(kind)
    return adapter


def decode(kind: type[Record], data: bytes, **known: Any) -> Record:
    """Read a record.

    Args:
        kind: its dataclass.
        data: its JSON, an object.
        known: fields that stand elsewhere in Redis (an id that is the key, a time that is a score), in their stored
            form.

    Raises:
        ValueError: it is no such record.
    """
    adapter: TypeAdapter[Record] = _adapter(kind)
    if not known:
        return adapter.validate_json(data)
    fields = load_json(data)
    if not isinstance(fields, dict):
        raise ValueError("a record is a JSON object")
    return adapter.validate_python({**fields, **known})


def encode(record: Any, *, without: Collection[str] = ()) -> bytes:
    """Give the JSON of a record.

    Args:
        record: a dataclass.
        without: fields to leave out.

    Raises:
        TypeError: a field holds something that JSON has no form for.
        ValueError: a field holds NaN or an infinity, or text that is not Unicode.
    """
    # pydantic's own dump_json would turn NaN into null without a word.
    return dump_json(_adapter(type(record)).dump_python(record, exclude=set(without)))


def dump_json(value: Any) -> bytes:
    """Serialise ``value`` as JSON.

    Raises:
        TypeError: it holds something that JSON has no form for.
        ValueError: it holds NaN or an infinity, or text that is not Unicode.
    """
    return json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False).encode()


def load_json(data: bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: it is not JSON.
    """
    return json.loads(data)


MOST_RIVALS = 8
"""Sources whose jobs wait behind the pending job of one destination (``keys.lua``)."""
_KEPT_WRITES = 3
_DIGEST_PART = 32


@dataclass(frozen=True, slots=True)
class TagRecord:
    """The record of an installation about a destination's tag; all fields are empty if nothing is known.

    It is written before the tag is, so the newest write may not have arrived. A digest is ``in`` a record if it is one
    of the last that were written.

    Attributes:
        source: the reference that owns the tag: its image was written there last, or seen there first.
        written: beginnings of the digests that were written, the newest first.
        replaced: the digest that a write replaced whose job has not ended well yet; empty otherwise.
    """

    source: str = ""
    written: tuple[str, ...] = ()
    replaced: str = ""

    def __contains__(self, digest: object) -> bool:
        return _beginning(str(digest)) in self.written

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the stored form; what has another form is nothing."""
        parts = ["" if part == "-" else part for part in text.split(" ")]
        if len(parts) != len(("source", "written", "replaced")):
            return cls()
        return cls(parts[0], tuple(filter(None, parts[1].split(","))), parts[2])

    @property
    def text(self) -> str:
        """The stored form."""
        return " ".join(part or "-" for part in (self.source, ",".join(self.written), self.replaced))

    def told(self, replaced: str | None) -> str | None:
        """Return the digest that a write replaces, given the tag's digest; None for an own write without an answer."""
        return self.replaced if self.replaced and replaced in self else replaced

    def after(self, source: str, digest: str, replaced: str | None) -> TagRecord:
        """Return the record for a write of ``digest`` over ``replaced``."""
        beginning = _beginning(digest)
        written = (beginning, *(each for each in self.written if each != beginning))[:_KEPT_WRITES]
        return TagRecord(source, written, self.told(replaced) or "")


def _beginning(digest: str) -> str:
    return digest.partition(":")[2][:_DIGEST_PART]


def read_times(text: str) -> dict[str, datetime]:
    """Read ``digest:milliseconds``, several separated by spaces. Records of another form are left out."""
    found = {}
    for entry in text.split():
        digest, _, ended = entry.partition(":")
        with contextlib.suppress(ValueError):
            found[digest] = moment(float(ended))
    return found
