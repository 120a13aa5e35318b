"""The rows of the table: contests, and the targets of our program."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from benchmarks import head, programs, pushes
from benchmarks.backfill.content import before_changes, tags_of
from benchmarks.backfill.content import content as harbor_content
from benchmarks.contest import Contest, Line
from replicator.replication.report import RowOutcome
from tests.standins.images import image, index, layer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.backfill.content import Content as HarborContent
    from benchmarks.contest import Content
    from tests.standins.blobs import Blob
    from tests.standins.images import Image

_NAME = "team/app"
_TAG = "v1"
_MIB = 2**20
_KIB = 2**10
_SLOW = Line(round_trip=0.05, rate=100e6 / 8)
"""50 ms, 100 Mbit/s."""
_A_PROCESS_EACH = ("regctl", "oras")
"""Those that need a process for each tag."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of the work is done; less is for trying out, and says nothing about speed.

    Attributes:
        size: a factor for the bytes of layers.
        number: one for numbers of tags, pushes and repeated requests.
    """

    size: float = 1.0
    number: float = 1.0

    def bytes(self, size: int) -> int:
        """Scale the size of a layer."""
        return max(100, int(size * self.size))

    def count(self, number: int, least: int = 2) -> int:
        """Scale a number."""
        return max(least, round(number * self.number))


@dataclass(frozen=True, slots=True)
class Target:
    """The most that ours may take.

    Attributes:
        figure: an attribute of `Standing`: ``seconds``, ``cpu`` or ``peak``.
        most: seconds or bytes, or the ratio to another program.
        of: that program; ``best`` is the one that took the least; empty where ``most`` is no ratio.
    """

    figure: str
    most: float
    of: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table.

    Attributes:
        make: makes the contest.
        targets: of ours.
        small: makes the contest in which requests are counted, where the bytes would only cost time.
        note: what has to be known of the figures.
        always: it is a part of the table; else it is measured only when it is named.
        once: one run says enough.
    """

    make: Callable[[Scale], Contest]
    targets: Sequence[Target] = ()
    small: Callable[[Scale], Contest] | None = None
    note: str = ""
    always: bool = True
    once: bool = False


def _large(scale: Scale, *, tls: bool = False) -> Contest:
    root = _image(scale.bytes(256 * _MIB), 4)
    how = "TLS at both ends" if tls else "plain HTTP"
    contenders = [*programs.copies(), *([] if tls else [programs.curl(root)])]
    return Contest(f"{_size(root)} in 4 layers, {how}", {_NAME: {_TAG: root}}, contenders, tls=tls)


@cache
def _image(size: int, layers: int) -> Image:
    """Its digests take seconds, and two contests have the same image."""
    return image(1, (size,) * layers)


def _shared(scale: Scale) -> Contest:
    tags, size = scale.count(40), scale.bytes(32 * _MIB)
    base = [layer(1, size * 3 // 4), layer(2, size // 4)]
    roots = {f"v{number}": image(number, (size // 8,), base=base) for number in range(1, tags + 1)}
    title = f"{tags} tags with a shared base of {_mib(size)} and {_mib(size // 8)} each of their own"
    return Contest(title, {_NAME: roots}, programs.mirrors())


def _tiny(scale: Scale) -> Contest:
    tags = scale.count(500)
    return Contest(
        f"{tags} tags with 2 tiny blobs of their own", _tiny_tags(tags), programs.mirrors("skopeo", *_A_PROCESS_EACH)
    )


def _latency(scale: Scale) -> Contest:
    tags = scale.count(20)
    base = [layer(1, scale.bytes(2_000_000))]
    roots = {f"v{number}": image(number, (20 * _KIB,) * 6, base=base) for number in range(1, tags + 1)}
    title = f"{tags} tags with 8 blobs, one shared blob of 2 MB, 20 ms added to each request at both registries"
    return Contest(title, {_NAME: roots}, programs.mirrors("skopeo"), delay=0.02)


def _index(scale: Scale) -> Contest:
    size = scale.bytes(400_000)
    base = [layer(1, size)]
    children = [
        image(place, (size, size // 2), base=base, architecture=architecture)
        for place, architecture in enumerate(("amd64", "arm64"), 1)
    ]
    title = "one small image with 2 architectures, 7 blobs and 3 manifests, to a registry with tokens"
    return Contest(title, {_NAME: {_TAG: index(children)}}, programs.copies(), tokens=True)


def _line_image(scale: Scale) -> Contest:
    root = image(1, (scale.bytes(24 * _MIB),) * 8)
    title = f"one image with 8 layers, {_size(root)}, {_of_line()}"
    return Contest(title, {_NAME: {_TAG: root}}, [*programs.copies(), *programs.defaults()], line=_SLOW)


def _line_tags(scale: Scale) -> Contest:
    base = [layer(1, scale.bytes(12 * _MIB)), layer(2, scale.bytes(4 * _MIB))]
    own = scale.bytes(_MIB)
    tags = {f"v{number}": image(number, (own,), base=base) for number in range(1, scale.count(20) + 1)}
    title = f"{len(tags)} tags with a shared base of 16 MiB and 1 MiB each of their own, {_of_line()}"
    return Contest(title, {_NAME: tags}, programs.mirrors("skopeo"), line=_SLOW)


def _line_tiny(scale: Scale) -> Contest:
    tags = scale.count(100)
    title = f"{tags} tags with 2 tiny blobs of their own, {_of_line()}"
    return Contest(title, _tiny_tags(tags), programs.mirrors("skopeo", *_A_PROCESS_EACH), line=_SLOW)


def _line_update(scale: Scale) -> Contest:
    base: list[Blob] = [layer(number, scale.bytes(100 * _KIB)) for number in range(1, 5)]
    former, root = (image(number, (scale.bytes(100 * _KIB),), base=base) for number in (1, 2))
    return Contest(
        f"an image with only a new config and one new layer of 100 KiB, {_of_line()}",
        {_NAME: {"v2": root}},
        programs.copies(),
        before={_NAME: {_TAG: former}},
        line=_SLOW,
    )


def _version(_: Scale) -> Contest:
    return Contest("start time: --version", {}, programs.versions())


def _idle_copy(_: Scale) -> Contest:
    held = {_NAME: {_TAG: image()}}
    return Contest("nothing to do: copy of one image already in place", held, programs.copies(), before=held)


def _idle_backfill(_: Scale) -> Contest:
    held = {_NAME: {_TAG: image()}}
    return Contest("nothing to do: backfill of one tag already in place", held, programs.mirrors(), before=held)


def _head(scale: Scale) -> Contest:
    held = {_NAME: {_TAG: image()}}
    return Contest("one HEAD of a manifest", held, head.contenders(scale.count(2500, 50)), before=held, brings=False)


def _in_place(scale: Scale, tags: int = 10_000) -> Contest:
    repositories, tags = scale.count(300, 3), scale.count(tags, 3)
    return Contest(
        f"{tags:,} tags in {repositories} repositories, all in place",
        {},
        [
            *programs.backfills(says=RowOutcome.UP_TO_DATE),
            *programs.mirrors(*programs.TREES, *_A_PROCESS_EACH, skopeo=max(1, repositories // 10)),
        ],
        synthetic=(repositories, tags),
    )


def _dry_run(scale: Scale, tags: int = 10_000) -> Contest:
    repositories, tags = scale.count(300, 3), scale.count(tags, 3)
    return Contest(
        f"{tags:,} tags in {repositories} repositories, all missing, with backfill --dry-run",
        {},
        programs.backfills("", "--dry-run", says=RowOutcome.WOULD_COPY),
        synthetic=(repositories, tags),
        missing=True,
    )


def _push(scale: Scale, sizes: Sequence[int], title: str) -> Contest:
    number = scale.count(10)
    roots = {f"v{place}": image(place, [scale.bytes(size) for size in sizes]) for place in range(1, number + 1)}
    held = {_NAME: roots}
    return Contest(f"from the webhook to the tag, with serve: {title}", held, pushes.contenders(held))


def _cold(scale: Scale) -> Contest:
    held = _harbor(scale)
    contenders = programs.mirrors(*_A_PROCESS_EACH, skopeo=max(1, len(held) // 10))
    return Contest(f"{_tags(held)}, nothing in place", held, contenders, harbor=True)


def _warm(scale: Scale) -> Contest:
    held = _harbor(scale)
    contenders = [*programs.backfills(", again", again=True), *programs.mirrors(*_A_PROCESS_EACH)]
    return Contest(f"{_tags(held)}, all in place", held, contenders, before=held, harbor=True)


def _drift(scale: Scale) -> Contest:
    held = _harbor(scale)
    title = f"{_tags(held)}, one in 100 changed after its copy"
    return Contest(title, held, programs.backfills(), before=before_changes(held, 100), harbor=True)


def _fast(scale: Scale) -> Contest:
    held = _harbor(scale)
    contenders = [
        *programs.backfills(" --fast", "--fast", again=True),
        *programs.backfills(", again", again=True),
    ]
    return Contest(f"{_tags(held)}, copied or compared just before", held, contenders, before=held, harbor=True)


def _harbor(scale: Scale) -> HarborContent:
    repositories = scale.count(300, 4)
    return harbor_content(repositories, max(repositories, scale.count(10_000)))


def _small(scale: Scale) -> Scale:
    return replace(scale, size=scale.size / 64)


def _tiny_tags(number: int) -> Content:
    return {_NAME: {f"v{place}": image(place, (300,)) for place in range(1, number + 1)}}


def _of_line() -> str:
    return f"{_SLOW.round_trip * 1000:.0f} ms round trip, {_SLOW.rate * 8 / 1e6:.0f} Mbit/s per connection"


def _size(root: Image) -> str:
    return _mib(sum(blob.size for blob in root.blobs))


def _mib(size: int) -> str:
    return f"{size / _MIB:.1f} MiB" if size < 10 * _MIB else f"{size / _MIB:.0f} MiB"


def _tags(held: HarborContent) -> str:
    return f"a Harbor with {tags_of(held):,} tags in {len(held)} repositories"


_ONE_BY_ONE = "skopeo copies the tags one by one, which takes too long: left out."
_NOT_FOR_TINY = f"{_ONE_BY_ONE} regctl and oras need one process per tag: left out."
_PART = "skopeo copies only a part of the repositories. regctl and oras need one process per tag: left out."

ROWS = {
    "large": Row(
        _large,
        (Target("seconds", 1.0, "crane"), Target("cpu", 1.5), Target("peak", 60e6)),
        lambda scale: _large(_small(scale)),
    ),
    "tls": Row(
        lambda scale: _large(scale, tls=True),
        (Target("seconds", 0.95, "skopeo"), Target("cpu", 2.3)),
        lambda scale: _large(_small(scale)),
        note="Requests were counted without TLS.",
    ),
    "shared": Row(_shared, (Target("seconds", 1.0, "crane"),), lambda scale: _shared(_small(scale))),
    "tiny": Row(
        _tiny,
        (Target("seconds", 0.8, "crane"),),
        note=_NOT_FOR_TINY,
    ),
    "latency": Row(_latency, (Target("seconds", 1.0, "crane"),), note=_ONE_BY_ONE),
    "index": Row(_index, (Target("seconds", 0.30), Target("cpu", 0.25))),
    "line-image": Row(
        _line_image,
        (Target("seconds", 0.65, "best"),),
        lambda scale: _line_image(_small(scale)),
        note=f"default: with its default options instead of {programs.AT_ONCE} blobs at once.",
    ),
    "line-tags": Row(_line_tags, (Target("seconds", 0.9, "crane"),), note=_ONE_BY_ONE),
    "line-tiny": Row(_line_tiny, (Target("seconds", 0.9, "crane"),), note=_NOT_FOR_TINY),
    "line-update": Row(_line_update, (Target("seconds", 1.0, "best"),)),
    "version": Row(_version, (Target("cpu", 0.10),)),
    "idle-copy": Row(_idle_copy, (Target("cpu", 0.20),)),
    "idle-backfill": Row(_idle_backfill, (Target("cpu", 0.35),)),
    "head": Row(_head, (Target("cpu", 200e-6),), note="CPU of the warm client."),
    "inplace": Row(_in_place, (Target("cpu", 2.5), Target("peak", 75e6)), note=_PART),
    "dryrun": Row(_dry_run, (Target("cpu", 3.0),)),
    "push": Row(lambda scale: _push(scale, (300,), "a tiny image"), (Target("peak", 80e6),), note=pushes.NOTE),
    "push-layers": Row(
        lambda scale: _push(scale, (20 * _KIB,) * 7, "an image with 8 blobs"), (Target("peak", 80e6),), note=pushes.NOTE
    ),
    "cold": Row(_cold, note=_PART, always=False),
    "warm": Row(_warm, note="regctl and oras need one process per tag: left out.", always=False),
    "drift": Row(_drift, always=False),
    "fast": Row(_fast, always=False),
    "inplace-100k": Row(lambda scale: _in_place(scale, 100_000), always=False, once=True),
    "dryrun-100k": Row(lambda scale: _dry_run(scale, 100_000), always=False, once=True),
}
"""By name: the table in its order, then those that are measured when they are named."""
