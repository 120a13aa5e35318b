"""What the processes of one installation remember for each other, as the copy engine wants it remembered.

It only ever spares work: an implementation that can't reach the others knows nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


class Memory(Protocol):
    """Texts under names; what a name stands for never changes, so what is remembered is never out of date."""

    async def recall(self, names: Sequence[str]) -> list[str | None]:
        """Return what is remembered under each name; None for what is not, or not known in time. It raises nothing."""

    def note(self, name: str, text: str) -> None:
        """Remember a text under a name; others hear of it soon, or never."""
