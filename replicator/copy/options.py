"""Options of a copy: which platforms, which attestations, and which signatures and other referrers are copied too.

And the keys under which processes share what the options select of an image.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from replicator.reference import Platform, is_digest, is_signature_tag
from replicator.registry.kinds import IMAGE, LAYER_KINDS

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from replicator.reference import Reference


class Attestations(StrEnum):
    """Treatment of BuildKit's attestations: manifests inside an index that describe its images."""

    KEEP = "keep"
    """They are copied like any other manifest."""
    STRIP = "strip"
    """They are left out; the index is rewritten without them."""
    FAIL = "fail"
    """An image that has any fails with a permanent error."""
    STRIP_REFUSED = "strip refused"
    """Only those that a registry of images refuses are left out."""


class Overwrite(StrEnum):
    """What a copy may replace: a tag at the destination that names another image."""

    ALWAYS = "always"
    """Every existing tag."""
    OURS = "ours"
    """Only tags that this installation is known to have written; others stay."""
    NEVER = "never"
    """No existing tag: only missing tags are copied."""

    def allows(self, present: str | None, own: Container[str] = ()) -> bool:
        """Tell whether a tag that names ``present`` may be written.

        Args:
            present: its digest; None for a missing tag.
            own: the digests that this installation wrote there.
        """
        return present is None or self is Overwrite.ALWAYS or (self is Overwrite.OURS and present in own)

    def stricter(self, other: Overwrite) -> Overwrite:
        """Return the one of two that replaces less."""
        return max(self, other, key=list(Overwrite).index)

    def kept(self, destination: Reference, present: str) -> str:
        """Return the note that a tag is not replaced, with its digest."""
        return f"not replaced: {destination} holds {present}, overwrite: {self}"


class Public(StrEnum):
    """Treatment of a private image whose destination anyone may pull from; without a word it is copied with a warning.

    The words of the rules file.
    """

    ALLOW = "allow"
    """It is copied without a warning."""
    REFUSE = "refuse"
    """It is not copied, as far as that is known before the copy."""


class OnProgress(Protocol):
    """Is called with the progress of a copy. It returns at once and raises nothing."""

    def __call__(self, read: int, found: int = 0, /) -> None:
        """Note blob bytes that were read, and the size of blobs that were found missing and will be sent."""


OnRefusal = Literal["skip", "fail"]
"""The treatment of a kind of artifact that the destination refuses: it is left out with a note, or the copy fails."""


_ANY = Platform("*", "*")
_PRECEDENCE = (Attestations.STRIP, Attestations.STRIP_REFUSED, Attestations.KEEP, Attestations.FAIL)
"""The last one wins when several rules ask for the same copy, so that nothing one of them wants is lost."""
_MORE_SIGNATURES = (False, None, True)
_SIGNATURES_IN_WORDS = {True: "with signatures", False: "without signatures"}
_PUBLIC_IN_WORDS = {
    Public.ALLOW: "a private image may become public",
    Public.REFUSE: "a private image is not copied to a public destination",
}
_IN_WORDS = {
    Attestations.STRIP: "attestations are left out",
    Attestations.STRIP_REFUSED: "attestations that the registry refuses are left out",
    Attestations.FAIL: "an image with attestations is not copied",
}


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """The parts of an image to copy.

    Attributes:
        platforms: patterns of the platforms to copy, sorted and unique; empty for all, which ``*/*`` means too.
        attestations: the treatment of BuildKit's attestations.
        signatures: True to copy everything that refers to the image; None to copy those signatures and attestations
            that a list of the source has shown (`Accessories`), as far as the destination takes them; False for none.
        public: whether a private image may become public; None for a warning. It is no part of what is
            copied, so copies that differ in it alone are equal.
        refused: the treatment of a kind of artifact, such as charts, that the destination refuses.
        types: the kinds of artifacts that are copied, as names or media types, sorted and unique; empty for every kind.
    """

    platforms: tuple[Platform, ...] = ()
    attestations: Attestations = Attestations.KEEP
    signatures: bool | None = None
    public: Public | None = field(default=None, compare=False)
    refused: OnRefusal = "skip"
    types: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # Normalized, so that equal selections are equal values: they are cache keys, and give equal bytes.
        platforms = () if _ANY in self.platforms else tuple(sorted(set(self.platforms)))
        object.__setattr__(self, "platforms", platforms)
        object.__setattr__(self, "types", tuple(sorted(set(self.types))))

    def __str__(self) -> str:
        parts = [f"only artifacts of type {', '.join(self.types)}"] if self.types else []
        parts += [f"only {', '.join(map(str, self.platforms))}"] if self.platforms else []
        parts += [_IN_WORDS[self.attestations]] if self.attestations in _IN_WORDS else []
        parts += [_SIGNATURES_IN_WORDS[self.signatures]] if self.signatures is not None else []
        parts += [_PUBLIC_IN_WORDS[self.public]] if self.public is not None else []
        parts += ["a refusal by the destination is a failure"] if self.refused == "fail" else []
        return "; ".join(parts) or "everything, byte for byte"

    @property
    def is_verbatim(self) -> bool:
        """Whether every artifact is copied, byte for byte."""
        return self.keeps_bytes and not self.types

    @property
    def keeps_bytes(self) -> bool:
        """Whether each artifact that is copied is copied byte for byte."""
        return not self.platforms and self.attestations is Attestations.KEEP

    def unwanted(self, kind: str, *media_types: str) -> str:
        """Return why an artifact is not copied because of its kind; empty if it is.

        Args:
            kind: see `replicator.registry.kinds.artifact_kind`.
            media_types: those of the artifact and of its config, by which it may be named too.
        """
        if not self.types or not {kind, *media_types}.isdisjoint(self.types):
            return ""
        return f"its type is {kind}, and the rule copies only {', '.join(self.types)}"

    def unwanted_in_list(self, kind: str | None) -> str:
        """Return why an artifact is not copied because of the kind that a list tells; empty if it may be.

        Args:
            kind: a name or a media type; None if the list tells none.
        """
        # No list names the layers, which may tell the kind of what has the config of an image, or an unknown one.
        open_kinds = LAYER_KINDS if kind == IMAGE or "/" in str(kind) else frozenset()
        if kind is None or any("/" in each or each in open_kinds for each in self.types):
            return ""
        return self.unwanted(kind)

    def merged_with(self, other: CopyOptions) -> CopyOptions:
        """Return the options of one copy that two rules request: everything that either of them wants.

        Platforms are united, and so are types; for attestations the first of `Attestations.FAIL`, ``KEEP``,
        ``STRIP_REFUSED`` and ``STRIP`` wins; for public destinations the stricter one; a refusal is a failure if one of
        them wants that. The order does not matter.
        """
        public = (self.public, other.public)
        return CopyOptions(
            (*self.platforms, *other.platforms) if self.platforms and other.platforms else (),
            max(self.attestations, other.attestations, key=_PRECEDENCE.index),
            max(self.signatures, other.signatures, key=_MORE_SIGNATURES.index),
            Public.REFUSE if Public.REFUSE in public else None if None in public else Public.ALLOW,
            "fail" if "fail" in (self.refused, other.refused) else "skip",
            (*self.types, *other.types) if self.types and other.types else (),
        )

    def to_json(self) -> dict[str, Any]:
        """Return JSON values, without defaults."""
        values: dict[str, Any] = {}
        if self.platforms:
            values["platforms"] = [str(platform) for platform in self.platforms]
        if self.attestations is not Attestations.KEEP:
            values["attestations"] = str(self.attestations)
        if self.signatures is not None:
            values["signatures"] = self.signatures
        if self.public is not None:
            values["public"] = str(self.public)
        if self.refused != "skip":
            values["refused"] = self.refused
        if self.types:
            values["types"] = list(self.types)
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Parse the values of `to_json`.

        Raises:
            ValueError, TypeError, AttributeError: the values have another form.
        """
        return cls(
            tuple(Platform.parse(text) for text in values.get("platforms", ())),
            Attestations(values.get("attestations", Attestations.KEEP)),
            value if isinstance(value := values.get("signatures"), bool) else None,
            Public(values["public"]) if "public" in values else None,
            "fail" if values.get("refused") == "fail" else "skip",
            tuple(map(str, values.get("types", ()))),
        )


VERBATIM = CopyOptions()
"""The default: everything, byte for byte, with the signatures that a list has shown."""

EVERYTHING = CopyOptions(signatures=True)
"""Everything, byte for byte, with all that refers to it."""

MAX_ACCESSORIES = 100
"""Accessories of one image that a list of the source brings."""


@dataclass(frozen=True, slots=True)
class Accessories:
    """The signatures and attestations of an image that a list of the source has shown, so that nothing else is asked.

    Attributes:
        subject: the digest of the image.
        digests: of their manifests; there may be others among them, if the list does not tell them apart.
        is_index: whether the image is an index, whose children may have signatures of their own.
        tags: tags of cosign's that the list has beside them, such as attestations; they come along when the image is
            copied, and are compared by themselves.
    """

    subject: str
    digests: tuple[str, ...] = ()
    is_index: bool = False
    tags: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """A short name of exactly these."""
        return hashlib.sha256(" ".join(sorted(self.digests)).encode()).hexdigest()[:16]

    def wanted_by(self, options: CopyOptions) -> bool:
        """Tell whether a copy with these options has to look for any at the destination."""
        if options.signatures is False:
            return False
        return bool(self.digests) or (options.signatures is True and self.is_index)

    def for_job(self, options: CopyOptions) -> Accessories | None:
        """Return what a copy with these options has to know; None if that is nothing."""
        if options.signatures is None:
            return self if self.digests or self.tags else None
        # Where all are wanted, an empty list spares the copy the search for them.
        return self if options.signatures else None

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        values = {"subject": self.subject, "digests": list(self.digests), "is_index": self.is_index}
        return values | ({"tags": list(self.tags)} if self.tags else {})

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Parse the values of `to_json`.

        Raises:
            ValueError, TypeError, AttributeError, KeyError: the values have another form.
        """
        subject, digests, tags = values["subject"], tuple(values["digests"]), tuple(values.get("tags", ()))
        valid = all(map(is_digest, (subject, *digests))) and all(map(is_signature_tag, tags))
        if not valid or len(digests) + len(tags) > 2 * MAX_ACCESSORIES:
            raise ValueError("not stored accessories")
        return cls(subject, digests, values.get("is_index", False) is True, tags)


Namespace = tuple[str, str]
"""Host and namespace of a destination, whose policies decide which kinds of artifacts it takes."""
ANYWHERE: Namespace = ("", "")

ALGORITHM = 2
"""Version of the selection. Raise it when the same image and options give another digest: results are cached.
The note beside a digest may be in the words of an earlier version.
"""


def deciding_place(options: CopyOptions, place: Namespace) -> Namespace:
    """Return the place that makes a difference: where parts are left out that a destination refuses."""
    return place if options.attestations in (Attestations.STRIP_REFUSED, Attestations.STRIP) else ANYWHERE


@lru_cache(1024)
def _selected(options: CopyOptions) -> str:
    """Return what options select of an image; a rule has the same options for all its tags."""
    return json.dumps(replace(options, signatures=None, public=None).to_json(), sort_keys=True)


def selection_key(digest: str, options: CopyOptions, place: Namespace = ANYWHERE) -> str:
    """Return a short key for the selection of an image, the same in all processes of one version of the program.

    Args:
        digest: the digest of the source's tag.
        options: the parts of the image that are copied; nothing else of them makes a difference.
        place: host and namespace of the destination, where what it refuses makes a difference.
    """
    name = f"{ALGORITHM} {digest} {_selected(options)} {'/'.join(deciding_place(options, place))}".encode()
    return base64.urlsafe_b64encode(hashlib.sha256(name).digest()[:12]).decode()
