"""``replicator copy`` and ``replicator explain``, for one image; they need no queue."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape

from replicator.commands.options import (
    Auth,
    Choice,
    Config,
    Images,
    Log,
    LogFormat,
    LogLevel,
    Namespace,
    Platforms,
    Registry,
    Signatures,
    chosen,
    given_reference,
    given_rules,
    leave,
    prepared_settings,
    run,
)
from replicator.copy import Outcome, Result
from replicator.copy.options import VERBATIM, CopyOptions
from replicator.errors import FAILED, INTERRUPTED, OK
from replicator.registry import Access
from replicator.registry.docker_logins import docker_logins
from replicator.replication.transfer import access_by, open_registries, transfer
from replicator.settings import variables
from replicator.tasks import stoppable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from replicator.reference import Reference, Repository
    from replicator.rules import CopyRequest, Credentials, Rules
    from replicator.settings import Settings


async def copy_one(
    settings: Settings,
    credentials: Credentials | None,
    source: Reference,
    destination: Reference,
    *,
    options: CopyOptions = VERBATIM,
    insecure: Collection[str],
    out: Console,
) -> int:
    """Copy one image, in the foreground and without a queue.

    Args:
        settings: time limits and numbers at once, and where Docker's logins are.
        credentials: who we are at which registry; None for whom Docker's logins say, and nobody elsewhere.
        source: what to copy.
        destination: where to.
        options: what of it.
        insecure: registries whose TLS certificate is not verified, and that may be spoken to in plain HTTP.
        out: where the outcome goes.

    Returns:
        The exit code: `OK` or `INTERRUPTED`.

    Raises:
        ReplicatorError: it failed.
    """
    known = access_by(credentials.find) if credentials is not None else _as_docker(settings)

    def access(repository: Repository) -> Access:
        found = known(repository)
        return dataclasses.replace(found, insecure=True) if repository.registry in insecure else found

    from replicator.rules import CopyRequest

    request = CopyRequest(source, destination, rule="", options=options)
    async with open_registries(settings, access) as (_, copier):
        outcome = await stoppable(transfer(copier, request))
    if outcome is None:
        return INTERRUPTED
    out.print(_sentence(outcome), soft_wrap=True, highlight=False, emoji=False)
    for warning in outcome.warnings:
        out.print(f"[yellow]Warning:[/yellow] {escape(warning)}", soft_wrap=True, highlight=False, emoji=False)
    return OK


def _as_docker(settings: Settings) -> Callable[[Repository], Access]:
    logins = docker_logins(settings.docker_config)

    def access(repository: Repository) -> Access:
        found = logins.find(f"{repository.registry.lower()}/{repository.name}")
        return found[0] if found is not None else Access()

    return access


def _sentence(outcome: Outcome) -> str:
    note = escape(outcome.note)
    if outcome.result is Result.SKIPPED:
        return f"skipped: {escape(outcome.source)}: {note}"
    signatures = f"; signatures: {outcome.signatures}" if outcome.signatures else ""
    more = f"{signatures}{note and f'; {note}'}"
    if outcome.result is Result.UP_TO_DATE:
        return f"up to date: {escape(outcome.destination)} is {outcome.digest}{more}"
    return (
        f"copied {escape(outcome.source)} to {escape(outcome.destination)}: {outcome.digest}, "
        f"{decimal(outcome.bytes)} in {outcome.seconds:.1f} s; blobs: {outcome.blobs_copied} sent, "
        f"{outcome.blobs_mounted} mounted, {outcome.blobs_present} there already; manifests: {outcome.manifests}{more}"
    )


def explain_reference(rules: Rules, reference: Reference, *, out: Console) -> int:
    """Print which rules match a reference, where it would go, and what of it; nothing is contacted.

    Returns:
        The exit code: `OK` when it would go somewhere, else `FAILED`.
    """
    explanations = rules.explain(reference)
    for item in explanations:
        mark = "[green]matches[/green]" if item.matches else "[dim]no match[/dim]"
        out.print(f"{mark}  {escape(item.rule)}: {escape(item.reason)}", soft_wrap=True, highlight=False, emoji=False)
    requests = rules.destinations(reference)
    for request in requests:
        notes = f" ({escape('; '.join(_notes(request)))})" if _notes(request) else ""
        out.print(
            f"{escape(str(request.source))} -> {escape(str(request.destination))}{notes}",
            soft_wrap=True,
            highlight=False,
            emoji=False,
        )
    if not requests:
        out.print(f"{escape(str(reference))} would not be copied", soft_wrap=True, highlight=False, emoji=False)
    return OK if requests else FAILED


def _notes(request: CopyRequest) -> list[str]:
    notes = ["if it is among the latest when it is copied"] if request.selection is not None else []
    if request.signature:
        notes.append("if what it is about is at the destination when it is copied")
    elif request.options != VERBATIM:
        notes.append(str(request.options))
    return notes


def copy(
    source: Annotated[str, typer.Argument(help="What to copy: registry/repository:tag, or @digest.")],
    destination: Annotated[str, typer.Argument(help="Where to: registry/repository:tag.")],
    config: Config = None,
    auth: Auth = None,
    insecure: Annotated[
        list[str] | None, typer.Option(help="A registry whose TLS certificate is not verified, or with plain HTTP.")
    ] = None,
    platform: Platforms = None,
    attestations: Choice = None,
    signatures: Signatures = False,
    log: Log = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
) -> None:
    """Copy one image now, in the foreground; with a rules file, using its credentials, else Docker's."""
    settings = prepared_settings(
        log, quiet=log is None, config=config, auth=auth, log_level=log_level, log_format=log_format
    )
    given = settings.config is not None or settings.auth is not None
    target = given_reference(destination, "DESTINATION")
    credentials = None
    if given:
        from replicator.rules import load_credentials

        credentials = load_credentials(
            settings.config,
            auth=settings.auth,
            environ=variables(),
            elsewhere=docker_logins(settings.docker_config),
        )

    run(
        copy_one(
            settings,
            credentials,
            given_reference(source, "SOURCE"),
            target,
            options=chosen(target, platform, attestations, signatures),
            insecure=insecure or (),
            out=Console(),
        )
    )


def explain(
    reference: Annotated[str, typer.Argument(help="An image at the source: registry/repository:tag.")],
    config: Config = None,
    auth: Auth = None,
    images: Images = None,
    registry: Registry = None,
    namespace: Namespace = None,
) -> None:
    """Say which rules match an image and where it would go; nothing is contacted."""
    settings = prepared_settings(None, quiet=True, config=config, auth=auth, images=images)
    rules = given_rules(settings, registry, namespace)

    leave(explain_reference(rules, given_reference(reference, "REFERENCE"), out=Console()))
