"""Values of labels, bounded: whatever names go by, there are never more series than an installation is made for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

OTHER = "other"
"""What every value is that is not among the known ones."""

MOST_VALUES = 500
"""Values that one label tells apart, of hosts and of rules; what comes after them in the rules file is `OTHER`."""

_MOST_CHARACTERS = 200


class Known:
    """The values that a label may have.

    Args:
        values: the values; those behind the first `MOST_VALUES` are left out.
    """

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._shown: dict[str, str] = {}
        self.add(values)

    def add(self, values: Iterable[str]) -> None:
        """Know these too, as long as there is room."""
        for value in values:
            if len(self._shown) >= MOST_VALUES:
                return
            self._shown.setdefault(value, _shown(value))

    @property
    def labels(self) -> tuple[str, ...]:
        """How the known values are written."""
        return tuple(self._shown.values())

    def label(self, value: str | None) -> str:
        """Return how a value is written as a label; `OTHER` for None and for what is not known."""
        return OTHER if value is None else self._shown.get(value, OTHER)


def _shown(value: str) -> str:
    """Short, and a text that can be encoded."""
    return value[:_MOST_CHARACTERS].encode("utf-8", "replace").decode("utf-8")
