"""One large image of four layers to an empty destination."""

from __future__ import annotations

from benchmarks.contenders import crane_copy, curl_copy, regctl_copy, replicator_copy, skopeo_copy
from benchmarks.contest import Contest
from tests.standins.images import image

_TAG = "v1"
_LAYERS = 4


def contest(size: int) -> Contest:
    """Make the contest with an image of ``size`` bytes."""
    root = image(1, (size // _LAYERS,) * _LAYERS)
    contenders = [
        replicator_copy(_TAG),
        curl_copy(_TAG, root),
        skopeo_copy(_TAG),
        *crane_copy(_TAG),
        *regctl_copy(_TAG),
    ]
    title = f"copy of {size / 2**20:.0f} MiB in {_LAYERS} layers"
    return Contest(title, {_TAG: root}, contenders, ("skopeo", "curl | curl"))
