"""Many tags of one repository that share their base to an empty destination."""

from __future__ import annotations

from benchmarks.contenders import crane_all_tags, replicator_backfill, skopeo_sync
from benchmarks.contest import Contest
from tests.standins.images import image, layer


def contest(tags: int, size: int) -> Contest:
    """Make the contest.

    Args:
        tags: how many.
        size: bytes of the layers they share; each has an eighth of that of its own.
    """
    base = [layer(1, size * 3 // 4), layer(2, size // 4)]
    images = {f"v{number}": image(number, (size // 8,), base=base) for number in range(1, tags + 1)}
    title = f"backfill of {tags} tags: {size / 2**20:.0f} MiB shared, {size / 8 / 2**20:.1f} MiB each"
    return Contest(title, images, [replicator_backfill(), skopeo_sync(), *crane_all_tags()], ("skopeo",))
