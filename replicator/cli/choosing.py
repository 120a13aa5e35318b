"""What of an image is copied, as the command line says it: the options, and what they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from replicator.acr import automatic_attestations
from replicator.errors import ConfigError, Problem
from replicator.options import Attestations, CopyOptions, Platform

if TYPE_CHECKING:
    from collections.abc import Iterable

    from replicator.reference import Reference

Platforms = Annotated[
    list[str] | None, typer.Option(metavar="OS/ARCH", help="Only images for this platform, e.g. linux/arm64/v8.")
]
Choice = Annotated[
    Literal["keep", "strip", "fail"] | None,
    typer.Option(help="BuildKit's attestations; when not said: kept, but for those that ACR refuses."),
]
Signatures = Annotated[bool, typer.Option("--signatures", help="Signatures and whatever else refers to the image too.")]
Os = Annotated[
    list[str] | None, typer.Option(metavar="OS,...", help="Only for these, where a rule names no platforms.")
]
Arch = Annotated[
    list[str] | None,
    typer.Option(metavar="ARCH,...", help="Only for these, e.g. amd64,arm64:v8, where a rule names no platforms."),
]


def chosen(
    destination: Reference, platforms: Iterable[str] | None, attestations: str | None, signatures: bool
) -> CopyOptions:
    """Return what ``--platform``, ``--attestations`` and ``--signatures`` ask for.

    Args:
        destination: decides about attestations where the option does not; under a digest no byte may change.
        platforms: as they are written.
        attestations: a word of `Attestations`; None when not said.
        signatures: whether they are copied too.

    Raises:
        ConfigError: a text is no platform, or less is asked for under a digest.
    """
    wishes = tuple(_platform("--platform", text) for text in platforms or ())
    choice = Attestations(attestations) if attestations is not None else automatic_attestations(destination.registry)
    options = CopyOptions(wishes, choice, signatures)
    if destination.digest is None:
        return options
    if options.platforms or choice is Attestations.STRIP:
        option = "--platform" if options.platforms else "--attestations"
        message = "what is left of an image has another digest than the one DESTINATION names: name a tag there"
        raise ConfigError("command line", [Problem(option, message)])
    return options if attestations is not None else CopyOptions((), Attestations.KEEP, signatures)


def wished(systems: Iterable[str] | None, architectures: Iterable[str] | None) -> tuple[Platform, ...]:
    """Return the platforms that image-syncer's ``--os`` and ``--arch`` ask for, every pair of both; none for all.

    Args:
        systems: lists with commas, e.g. ``linux,windows``.
        architectures: lists with commas, e.g. ``amd64,arm64:v8``.

    Raises:
        ConfigError: a text is none of these.
    """
    by_system = [_platform("--os", f"{text}/*") for text in _items("--os", systems)]
    by_architecture = [_platform("--arch", f"*/{text.replace(':', '/')}") for text in _items("--arch", architectures)]
    if not by_system or not by_architecture:
        return (*by_system, *by_architecture)
    return tuple(Platform(one.os, other.architecture, other.variant) for one in by_system for other in by_architecture)


def _items(option: str, lists: Iterable[str] | None) -> list[str]:
    items = [item.strip() for text in lists or () for item in text.split(",")]
    for item in items:
        if not item or "/" in item:
            message = f"{item[:100]!r} is no name: commas stand between names, e.g. linux,windows or amd64,arm64:v8"
            raise ConfigError("command line", [Problem(option, message)])
    return items


def _platform(option: str, text: str) -> Platform:
    try:
        return Platform.parse(text)
    except ValueError as error:
        raise ConfigError("command line", [Problem(option, str(error))]) from None
