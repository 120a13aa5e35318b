"""``replicator explain``: the rules that match an image; works offline."""

from typing import Annotated

import typer

from replicator.commands.options import (
    Auth,
    Config,
    Images,
    Namespace,
    Registry,
    parse_reference,
    rules_of,
    settings_of,
)
from replicator.console import say
from replicator.copy.options import VERBATIM
from replicator.errors import FAILED, OK
from replicator.reference import Reference
from replicator.rules import CopyRequest, Rules

_BEFORE_COPY = "if {} when the copy starts"


def explain(
    context: typer.Context,
    reference: Annotated[str, typer.Argument(help="Image at the source: registry/repository:tag.")],
    config: Config = None,
    auth: Auth = None,
    images: Images = None,
    registry: Registry = None,
    namespace: Namespace = None,
) -> None:
    """Show which rules match an image and where it would be copied; works offline."""
    rules = rules_of(context, settings_of(context, quiet=True))
    raise typer.Exit(explain_reference(rules, parse_reference(reference, "REFERENCE")))


def explain_reference(rules: Rules, reference: Reference) -> int:
    """Print which rules match a reference, and each copy that they ask for.

    Returns:
        The exit code: `OK` if there is one, else `FAILED`.
    """
    for item in rules.explain(reference):
        label, style = ("matches", "green") if item.matches else ("no match", "dim")
        say(f" {item.rule}: {item.reason}", label=label, style=style)
    requests = rules.destinations(reference)
    for request in requests:
        notes = "; ".join(_notes(request))
        say(f"{request.source} -> {request.destination}{notes and f' ({notes})'}")
    if not requests:
        say(f"{reference} would not be copied")
    return OK if requests else FAILED


def _notes(request: CopyRequest) -> list[str]:
    notes = [_BEFORE_COPY.format("it is among the latest")] if request.selection is not None else []
    if request.signature:
        notes.append(_BEFORE_COPY.format("the image it signs is at the destination"))
    elif request.options != VERBATIM:
        notes.append(str(request.options))
    return notes
