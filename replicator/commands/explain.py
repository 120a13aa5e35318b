"""``replicator explain`` and ``schema``: the rules that match an image, and the JSON schema of rules; work offline."""

import json
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from replicator import __version__
from replicator.aliyun import TemporaryLogins
from replicator.aliyun.acr import EDITIONS, Edition, KnownEdition, name_doubt
from replicator.commands.options import (
    Auth,
    Config,
    Images,
    Json,
    Namespace,
    Registry,
    parse_reference,
    rules_of,
    settings_of,
)
from replicator.console import say
from replicator.copy.options import VERBATIM, Overwrite
from replicator.errors import FAILED, OK
from replicator.reference import Reference, Repository, full_name
from replicator.registry.proxies import Proxies
from replicator.rules import CopyRequest, Rules
from replicator.rules.ruleset import conditions_of
from replicator.rules.schema import rules_schema
from replicator.settings import variables

_MOST_RIVALS = 5
_BEFORE_COPY = "if {} when the copy starts"


def explain(
    context: typer.Context,
    reference: Annotated[
        str, typer.Argument(metavar="REFERENCE", help="Image at the source: registry/repository:tag.")
    ],
    config: Config = None,
    auth: Auth = None,
    images: Images = None,
    registry: Registry = None,
    namespace: Namespace = None,
    as_json: Json = False,
) -> None:
    """Show which rules match an image, and its destinations. Works offline."""
    rules = rules_of(context, settings_of(context, quiet=True), offline=True)
    proxies = Proxies.from_environ(variables())
    image = parse_reference(full_name(reference), "REFERENCE")
    raise typer.Exit(explain_reference(rules, image, proxies, as_json=as_json))


def explain_reference(rules: Rules, reference: Reference, proxies: Proxies, *, as_json: bool = False) -> int:
    """Print which rules match a reference, each copy that they ask for, and the proxies that are named for its hosts.

    Args:
        rules: the rules.
        reference: an image at the source.
        proxies: those of the environment.
        as_json: print the object of `explanation`.

    Returns:
        The exit code: `OK` if there is one, else `FAILED`.
    """
    told = explanation(rules, reference, proxies)
    if as_json:
        typer.echo(json.dumps(told, indent=2, ensure_ascii=False))
        return OK if told["copied"] else FAILED
    for rule in told["rules"]:
        label, style = ("matches", "green") if rule["matches"] else ("no match", "dim")
        where = f" in {rule['file']}" if rule["file"] else ""
        say(f" {rule['rule']}{where}: {rule['reason']}", label=label, style=style)
    for copy in [copy for copy in told["copies"] if copy["problem"] is None]:
        notes = "; ".join(copy["notes"])
        say(f"{copy['source']} -> {copy['destination']}{notes and f' ({notes})'}")
        if copy["may_fail"]:
            say(f" {copy['may_fail']}", label="may fail", style="yellow")
        if rivals := copy["would_collide_with"]:
            more = len(rivals) - _MOST_RIVALS
            named = ", ".join(rivals[:_MOST_RIVALS]) + (f" and {more} more like these" if more > 0 else "")
            note = f" {named} would have the same destination. This is a problem only if both exist: check looks for it"
            say(note, label="note", style="dim")
    for host, words in told["proxies"].items():
        say(f"{host} is reached {words}")
    for host, words in told["editions"].items():
        say(f"{host} is {words}")
    for problem in dict.fromkeys(copy["problem"] for copy in told["copies"] if copy["problem"] is not None):
        say(f"the copy of {reference} would fail: {problem}")
    if not told["copies"]:
        say(f"{reference} would not be copied")
    return OK if told["copied"] else FAILED


def explanation(rules: Rules, reference: Reference, proxies: Proxies) -> dict[str, Any]:
    """Return what the rules ask of an image, as JSON values.

    Keys: ``image``, ``copied`` (whether there is a copy and none would fail), ``rules`` (``rule``, ``file``,
    ``matches``, ``reason``), ``copies`` (``source``, ``destination``, ``notes``, ``may_fail``, ``would_collide_with``,
    ``problem``), ``proxies`` and ``editions`` (words by host).
    """
    requests = rules.destinations(reference)
    ends = {request.destination.registry: request.destination.repository for request in requests}
    return {
        "image": str(reference),
        "copied": bool(requests) and all(request.problem is None for request in requests),
        "rules": [
            {"rule": str(item.rule), "file": item.file or None, "matches": item.matches, "reason": item.reason}
            for item in rules.explain(reference)
        ],
        "copies": [
            {
                "source": str(request.source),
                "destination": str(request.destination),
                "notes": _notes(request),
                "may_fail": name_doubt(request.destination.repository),
                "would_collide_with": [str(each) for each in rules.rivals(request)] if request.problem is None else [],
                "problem": None if request.problem is None else str(request.problem),
            }
            for request in requests
        ],
        "proxies": _routes(rules, requests, proxies),
        "editions": {
            registry: str(known) for registry, each in ends.items() if (known := _edition(rules, each)) is not None
        },
    }


def schema(
    events: Annotated[bool, typer.Option("--events", help="Print the AsyncAPI document of CloudEvents.")] = False,
) -> None:
    """Print the JSON schema of the rules file, for completion and validation in an editor."""
    if events:
        # Imported here: nothing else of this command needs the server.
        from replicator.server.cloudevents.models import document

        typer.echo(json.dumps(document(), indent=2))
        return
    typer.echo(json.dumps(rules_schema(), indent=2))


def version() -> None:
    """Show the version."""
    typer.echo(f"replicator {__version__}")


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


def _edition(rules: Rules, repository: Repository) -> KnownEdition | None:
    """Return the edition of a registry by its name, or else by the rules; no request is sent."""
    known, access = EDITIONS.find(repository.registry), rules.credentials(repository)
    logins = access.logins if access is not None else None
    if known is not None or not isinstance(logins, TemporaryLogins):
        return known
    instance_id = logins.account.instance_id
    # Only an Enterprise instance can have a domain of its own.
    return KnownEdition(Edition.ENTERPRISE, f"instance_id {instance_id}" if instance_id else "aliyun in the rules")


def _notes(request: CopyRequest) -> list[str]:
    notes = [_BEFORE_COPY.format(conditions_of(request.selection))] if request.selection is not None else []
    if request.signature:
        notes.append(_BEFORE_COPY.format("the image it signs is at the destination"))
    elif request.options != VERBATIM:
        notes.append(str(request.options))
    if request.overwrite is not Overwrite.ALWAYS:
        notes.append(f"overwrite: {request.overwrite}")
    return notes
