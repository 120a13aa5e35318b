"""``replicator explain`` and ``schema``: the rules that match an image, and the JSON schema of rules; work offline."""

import json
from collections.abc import Iterable
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
from replicator.copy.options import VERBATIM, Overwrite
from replicator.errors import FAILED, OK
from replicator.reference import Reference
from replicator.registry.proxies import Proxies
from replicator.rules import CopyRequest, Rules
from replicator.rules.ruleset import conditions_of
from replicator.settings import variables

_MOST_RIVALS = 5
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
    proxies = Proxies.from_environ(variables())
    raise typer.Exit(explain_reference(rules, parse_reference(reference, "REFERENCE"), proxies))


def explain_reference(rules: Rules, reference: Reference, proxies: Proxies) -> int:
    """Print which rules match a reference, each copy that they ask for, and the proxies that are named for its hosts.

    Args:
        rules: the rules.
        reference: an image at the source.
        proxies: those of the environment.

    Returns:
        The exit code: `OK` if there is one, else `FAILED`.
    """
    for item in rules.explain(reference):
        label, style = ("matches", "green") if item.matches else ("no match", "dim")
        say(f" {item.rule}{item.file and f' in {item.file}'}: {item.reason}", label=label, style=style)
    requests = rules.destinations(reference)
    for request in [request for request in requests if request.problem is None]:
        notes = "; ".join(_notes(request))
        say(f"{request.source} -> {request.destination}{notes and f' ({notes})'}")
        if rivals := rules.rivals(request):
            more = len(rivals) - _MOST_RIVALS
            named = ", ".join(map(str, rivals[:_MOST_RIVALS])) + (f" and {more} more like these" if more > 0 else "")
            exists = "it exists" if len(rivals) == 1 else "one of them exists"
            say(f" with {named}, if {exists}: it goes there too", label="would collide", style="yellow")
    for host, words in _routes(rules, requests, proxies).items():
        say(f"{host} is reached {words}")
    for problem in dict.fromkeys(request.problem for request in requests if request.problem is not None):
        say(f"the copy of {reference} would fail: {problem}")
    if not requests:
        say(f"{reference} would not be copied")
    return OK if requests and all(request.problem is None for request in requests) else FAILED


def schema() -> None:
    """Print the JSON schema of the rules file, for completion and validation in editors."""
    from replicator.rules.schema import rules_schema

    typer.echo(json.dumps(rules_schema(), indent=2))


def _routes(rules: Rules, requests: Iterable[CopyRequest], proxies: Proxies) -> dict[str, str]:
    """Return the routes to the hosts for which a proxy is named, in words, by host."""
    found = {}
    for repository in (end.repository for request in requests for end in (request.source, request.destination)):
        access = rules.credentials(repository)
        if access is None or (access.proxies or proxies) == Proxies():
            continue
        # Imported where it is needed: it brings the HTTP client along.
        from replicator.registry.connection import route

        if words := route(repository.registry, access, access.proxies or proxies):
            found[repository.registry] = words
    return found


def _notes(request: CopyRequest) -> list[str]:
    notes = [_BEFORE_COPY.format(conditions_of(request.selection))] if request.selection is not None else []
    if request.signature:
        notes.append(_BEFORE_COPY.format("the image it signs is at the destination"))
    elif request.options != VERBATIM:
        notes.append(str(request.options))
    if request.overwrite is not Overwrite.ALWAYS:
        notes.append(f"overwrite: {request.overwrite}")
    return notes
