"""What a registry was seen to do, so that it is not asked again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Abilities:
    """What one registry can do for one login; None as long as it was not seen either way.

    Attributes:
        heads: it answers HEAD for a manifest, and says the digest; if not, the manifest is read instead.
        mounts: it takes a blob from another of its repositories (``POST ?mount=D&from=OTHER``).
        mounts_in_place: ``POST ?mount=D&from=SAME`` says 201 for a blob that is there and opens an upload for one that
            is not: a question and the beginning of an upload in one request.
        mounts_hold: its 201 to a mount of either kind is believed; False once a manifest showed that it was untrue.
        referrers: it has the referrers API.
    """

    heads: bool | None = None
    mounts: bool | None = None
    mounts_in_place: bool | None = None
    mounts_hold: bool = True
    referrers: bool | None = None
