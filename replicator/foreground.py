"""``replicator copy`` and ``replicator explain``, which need no queue."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from rich.filesize import decimal
from rich.markup import escape

from replicator.copy import Outcome, Result
from replicator.exit_codes import FAILED, INTERRUPTED, OK
from replicator.registry import Access
from replicator.signals import stoppable
from replicator.transfer import access_by, copy, open_registries

if TYPE_CHECKING:
    from collections.abc import Collection

    from rich.console import Console

    from replicator.reference import Reference, Repository
    from replicator.rules import Credentials, Rules
    from replicator.settings import Settings


async def copy_one(
    settings: Settings,
    credentials: Credentials | None,
    source: Reference,
    destination: Reference,
    *,
    insecure: Collection[str],
    out: Console,
) -> int:
    """Copy one image, in the foreground and without a queue.

    Args:
        settings: time limits and numbers at once.
        credentials: who we are at which registry; None for nobody anywhere.
        source: what to copy.
        destination: where to.
        insecure: registries whose TLS certificate is not verified, and that may be spoken to in plain HTTP.
        out: where the outcome goes.

    Returns:
        The exit code: `OK` or `INTERRUPTED`.

    Raises:
        ReplicatorError: it failed.
    """
    known = access_by(credentials.find) if credentials is not None else lambda _: Access()

    def access(repository: Repository) -> Access:
        found = known(repository)
        return dataclasses.replace(found, insecure=True) if repository.registry in insecure else found

    async with open_registries(settings, access) as (_, copier):
        outcome = await stoppable(copy(copier, source, destination))
    if outcome is None:
        return INTERRUPTED
    out.print(_sentence(outcome), soft_wrap=True, highlight=False, emoji=False)
    return OK


def _sentence(outcome: Outcome) -> str:
    if outcome.result is Result.UP_TO_DATE:
        return f"up to date: {escape(outcome.destination)} is {outcome.digest}"
    return (
        f"copied {escape(outcome.source)} to {escape(outcome.destination)}: {outcome.digest}, "
        f"{decimal(outcome.bytes)} in {outcome.seconds:.1f} s; blobs: {outcome.blobs_copied} sent, "
        f"{outcome.blobs_mounted} mounted, {outcome.blobs_present} there already; manifests: {outcome.manifests}"
    )


def explain_reference(rules: Rules, reference: Reference, *, out: Console) -> int:
    """Print which rules match a reference and where it would go; nothing is contacted.

    Returns:
        The exit code: `OK` when it would go somewhere, else `FAILED`.
    """
    explanations = rules.explain(reference)
    for item in explanations:
        mark = "[green]matches[/green]" if item.matches else "[dim]no match[/dim]"
        out.print(f"{mark}  {escape(item.rule)}: {escape(item.reason)}", soft_wrap=True, highlight=False, emoji=False)
    requests = rules.destinations(reference)
    for request in requests:
        latest = " (if it is among the latest when it is copied)" if request.selection is not None else ""
        out.print(
            f"{escape(str(request.source))} -> {escape(str(request.destination))}{latest}",
            soft_wrap=True,
            highlight=False,
            emoji=False,
        )
    if not requests:
        out.print(f"{escape(str(reference))} would not be copied", soft_wrap=True, highlight=False, emoji=False)
    return OK if requests else FAILED
