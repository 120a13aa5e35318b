"""How fast a run is, and when it will be done at that."""

from __future__ import annotations

from collections import deque

_WINDOW_SECONDS = 30.0
"""What lies further back does not count: the start, with everything in place, says nothing of the copies after it."""


class Pace:
    """Takes how far a run is from time to time, and tells rates over the last half minute."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int, int]] = deque()

    def mark(self, now: float, tags: int, size: int) -> None:
        """Note how far it is.

        Args:
            now: seconds, on a clock that only grows.
            tags: tags that are done.
            size: bytes that are sent.
        """
        self._marks.append((now, tags, size))
        while len(self._marks) > 2 and self._marks[1][0] <= now - _WINDOW_SECONDS:
            self._marks.popleft()

    @property
    def tags(self) -> float:
        """Tags a second."""
        return self._rate(1)

    @property
    def bytes(self) -> float:
        """Bytes a second."""
        return self._rate(2)

    def seconds_for(self, tags: int) -> float | None:
        """Tell how long so many more tags will take; None as long as nothing is known of it."""
        return tags / self.tags if self.tags > 0 else None

    def _rate(self, column: int) -> float:
        if not self._marks:
            return 0.0
        first, last = self._marks[0], self._marks[-1]
        # What was thought to be under way may turn out not to be: no pace is below nothing.
        return max(0.0, last[column] - first[column]) / (last[0] - first[0]) if last[0] > first[0] else 0.0
