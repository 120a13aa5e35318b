"""How the queue's Redis names the destinations of which it remembers what was seen."""

from __future__ import annotations

import base64
import hashlib

MOST_DESTINATIONS = 200_000
"""How many destinations are remembered in each of two generations (``generations.lua``); one takes 70 to 90 bytes."""


def short_name(destination: str) -> str:
    """Name a destination, a reference and the id of its job, in 16 characters, so that an item's size has a bound."""
    return base64.urlsafe_b64encode(hashlib.sha256(destination.encode()).digest()[:12]).decode()
