"""What Harbor counts as a pull: a GET of a manifest, from anyone but itself (``src/server/registry/manifest.go``)."""

from __future__ import annotations

UNCOUNTED_AGENT = "harbor-registry-client"
"""The ``User-Agent`` of Harbor's own client, compared to the letter: such a GET makes no pull event at all."""
