"""The contests: images, conditions and contenders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import contenders
from benchmarks.contest import Contest
from tests.standins.images import image, index, layer

if TYPE_CHECKING:
    from tests.standins.images import Image, Index

_TAG = "v1"
_LAYERS = 4
_MIB = 2**20
_KIB = 2**10


def large(size: int) -> Contest:
    """One image of ``size`` bytes in four layers to an empty registry."""
    root = image(1, (size // _LAYERS,) * _LAYERS)
    return Contest(
        f"large: {size / _MIB:.0f} MiB in {_LAYERS} layers",
        {_TAG: root},
        [
            contenders.replicator_copy(_TAG),
            contenders.curl_copy(_TAG, root),
            contenders.skopeo_copy(_TAG),
            *contenders.crane_copy(_TAG),
            *contenders.regctl_copy(_TAG),
        ],
    )


def shared(tags: int, size: int) -> Contest:
    """Many tags of one repository that share their base to an empty registry.

    Args:
        tags: how many.
        size: bytes of the layers they share; each has an eighth of that of its own.
    """
    base = [layer(1, size * 3 // 4), layer(2, size // 4)]
    return _of_all_tags(
        f"shared: {tags} tags, {size / _MIB:.0f} MiB shared, {size / 8 / _MIB:.1f} MiB each",
        {f"v{number}": image(number, (size // 8,), base=base) for number in range(1, tags + 1)},
    )


def tiny(tags: int) -> Contest:
    """Many tags of one repository, each a config and one small layer of its own, to an empty registry."""
    return _of_all_tags(
        f"tiny: {tags} tags of 2 blobs of their own", {f"v{number}": image(number, (300,)) for number in range(tags)}
    )


def in_place(tags: int) -> Contest:
    """Tags of one repository of which everything is at the destination."""
    base = [layer(1, 3000), layer(2, 1000)]
    return _of_all_tags(
        f"inplace: {tags} tags, all of it at the destination already",
        {f"v{number}": image(number, (500,), base=base) for number in range(1, tags + 1)},
        in_place=True,
    )


def latency(tags: int, delay: float) -> Contest:
    """Tags of eight blobs, one of 2 MB shared by all, to an empty registry; every request takes longer.

    Args:
        tags: how many.
        delay: seconds that are added to each request, at both registries.
    """
    base = [layer(1, 2_000_000)]
    return _of_all_tags(
        f"latency: {tags} tags of 8 blobs, one of 2 MB shared, {delay * 1000:.0f} ms added to each request",
        {f"v{number}": image(number, (20 * _KIB,) * 6, base=base) for number in range(1, tags + 1)},
        delay=delay,
    )


def fresh(size: int) -> Contest:
    """One image for two architectures to a repository that is not there yet, of a registry that wants tokens.

    It has seven blobs and three manifests; ``size`` is the bytes of a layer.
    """
    base = [layer(1, size)]
    children = [
        image(place, (size, size // 2), base=base, architecture=architecture)
        for place, architecture in enumerate(("amd64", "arm64"), 1)
    ]
    return Contest(
        "fresh: an index of 2 images, 7 blobs and 3 manifests, to a registry with tokens",
        {_TAG: index(children)},
        [
            contenders.replicator_copy(_TAG),
            contenders.skopeo_copy(_TAG),
            *contenders.crane_copy(_TAG),
            *contenders.regctl_copy(_TAG),
        ],
        tokens=True,
    )


def _of_all_tags(
    title: str, images: dict[str, Image | Index], *, in_place: bool = False, delay: float = 0.0
) -> Contest:
    return Contest(
        title,
        images,
        [
            contenders.replicator_backfill(),
            contenders.skopeo_sync(),
            *contenders.crane_all_tags(),
            *contenders.regsync(list(images)),
        ],
        in_place=in_place,
        delay=delay,
    )
