"""``replicator explain`` and ``schema``: the rules that match an image, and the JSON schema of rules; work offline."""

import json
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from replicator import __version__
from replicator.aliyun import TemporaryLogins, Visibility
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
from replicator.copy.options import VERBATIM, Overwrite, Public
from replicator.errors import FAILED, OK
from replicator.reference import Reference, Repository, full_name
from replicator.registry.kinds import KINDS
from replicator.registry.proxies import Proxies
from replicator.rules import CopyRequest, Rules, auth, defaults, images, loading
from replicator.rules.auth import ALIYUN_KEYS, CREATE
from replicator.rules.defaults import ATTESTATIONS, CONTENT_KEYS, REPOSITORIES
from replicator.rules.ruleset import conditions_of
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
    rules = rules_of(context, settings_of(context, quiet=True))
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
            exists = "it exists" if len(rivals) == 1 else "one of them exists"
            say(f" with {named}, if {exists}: it goes there too", label="would collide", style="yellow")
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


# The parser takes every scalar without quotes for a string; editors take 1.10 for a number.
_STRING = {"type": ["string", "number"]}
_BOOLEAN = {"type": "boolean"}
_VARIABLES = "${NAME} is replaced by that environment variable."
_DEFAULT = '"" means the default registry and namespace.'
_PLACEHOLDERS = (
    "{project}, {name}, {repository} and {flat} stand for parts of the source's repository, in a tag {tag} for its tag."
)

_ALIYUN = {
    "access_key_id": (_STRING, f"The access key; goes with access_key_secret. {_VARIABLES}"),
    "access_key_secret": (_STRING, f"The secret of the access key. {_VARIABLES}"),
    "security_token": (_STRING, f"The token of a temporary access key (STS). {_VARIABLES}"),
    "region": (_STRING, "The region, e.g. cn-beijing; the registry's by default."),
    "instance_id": (_STRING, "The id of an Enterprise instance, cri-...; the registry's by default."),
    "openapi_endpoint": (_STRING, "Replaces cr.<region>.aliyuncs.com."),
}
_CREATE = {
    "repositories": ({"enum": [*Visibility]}, "The visibility of created repositories."),
    "namespaces": (_BOOLEAN, "Whether a missing namespace is created too."),
}
_AUTH = {
    "username": (_STRING, f"The user name of the login; goes with password. {_VARIABLES}"),
    "password": (_STRING, f"The password of the login. {_VARIABLES}"),
    "insecure": (_BOOLEAN, "The TLS certificate is not verified, and plain HTTP is allowed."),
    "anonymous": (_BOOLEAN, "The registry is used without a login."),
    "ca_file": (_STRING, "A PEM file with certificates to trust, relative to the folder of the rules file."),
    "endpoint": (_STRING, "The address to connect to instead: host, host:port, http://host:port or https://host:port."),
    "proxy": (
        {"type": ["string", "number", "boolean"], "not": {"const": True}},
        f"The HTTP proxy for this registry: http://host:port, or off for none at all. {_VARIABLES}",
    ),
    "quiet_pulls": (_BOOLEAN, "Harbor does not count the replicator's pulls."),
}
_CONTENT = {
    "types": (
        None,
        (
            f"Copy only these kinds of artifacts: {', '.join(KINDS)}, or media types. Every kind by default, but for "
            "what the destination refuses; with all, that is a failure."
        ),
    ),
    "platforms": (None, "Copy only the images for these platforms, e.g. linux/amd64; all by default."),
    "attestations": ({"enum": [*ATTESTATIONS]}, "Whether BuildKit's attestations are copied."),
    "signatures": (
        {"enum": [True, False, "auto"]},
        (
            "Whether signatures and attestations are copied too: auto, the default, for those in Harbor's list; "
            "true for everything that refers to the image."
        ),
    ),
    "overwrite": (
        {"enum": [*Overwrite]},
        (
            "What may be replaced at the destination: always, the default, whatever a tag names; ours, what this "
            "installation wrote; never, nothing, so that only missing tags are filled."
        ),
    ),
    "public": (
        {"enum": [*Public]},
        "A private image at a destination that anyone may pull from: copied with a warning; or allow, or refuse.",
    ),
}
_DEFAULTS = {
    "registry": (_STRING, 'The registry that "" stands for.'),
    "namespace": (_STRING, 'The namespace that "" stands for.'),
}
_REPOSITORIES = {
    "exclude": (None, "Repositories that are not copied: whole names or globs, such as team/cache/**."),
}
_TAGS = {
    "include": (None, "A tag passes if one of these matches: tags, globs, /expressions/."),
    "exclude": (None, "A tag passes if none of these matches: tags, globs, /expressions/."),
    "semver": (_STRING, "A tag passes if it is a version in this range, e.g. ^1.4 or >=1.4,<2."),
    "labels": (None, "A tag passes if its artifact has all of these labels of Harbor."),
    "exclude_labels": (None, "A tag passes if its artifact has none of these labels of Harbor."),
    "latest": ({"type": "integer", "minimum": 1}, "A tag passes if it is among this number of the highest."),
}


def rules_schema() -> dict[str, Any]:
    """Return the schema, in draft 7 of JSON Schema (json-schema.org), which editors support.

    ``#/definitions/auth`` and ``#/definitions/images`` describe the files of ``--auth`` and ``--images``.
    """
    strings = {"oneOf": [_STRING, {"type": "array", "items": _STRING, "minItems": 1}]}

    def mapping(keys: tuple[str, ...], known: dict[str, Any], **more: Any) -> dict[str, Any]:
        # A key of the parser without a description raises a KeyError here.
        properties = {key: {**(known[key][0] or strings), "description": known[key][1]} for key in keys}
        return {"type": "object", "properties": properties, "additionalProperties": False, **more}

    create = mapping(CREATE, _CREATE, required=["repositories"])
    account = mapping(
        ALIYUN_KEYS,
        _ALIYUN | {"create": (create, "Create missing repositories through Alibaba Cloud's OpenAPI.")},
        dependencies={
            "access_key_id": ["access_key_secret"],
            "access_key_secret": ["access_key_id"],
            "security_token": ["access_key_id"],
        },
    )
    login = mapping(
        auth.AUTH_KEYS,
        _AUTH
        | {"aliyun": (account, "Temporary logins of Alibaba Cloud instead of username and password; {} is enough.")},
        dependencies={"username": ["password"], "password": ["username"]},
    )
    tags = mapping(images.TAGS, _TAGS)
    destination = mapping(
        images.DESTINATION,
        _CONTENT
        | {
            "to": (None, f"One destination or a list: host/namespace/repository. {_DEFAULT} {_PLACEHOLDERS}"),
            "repositories": (
                mapping(REPOSITORIES, _REPOSITORIES, minProperties=1),
                "A filter for the repositories that the pattern of the rule matches.",
            ),
            "tags": ({"$ref": "#/definitions/tags"}, "A filter for tags; a tag must pass every key of it."),
        },
        required=["to"],
    )
    one = {"oneOf": [_STRING, {"$ref": "#/definitions/destination"}]}
    definitions = {
        "auth": {
            "type": "object",
            "description": "Logins by registry or registry/path; the longest matching key wins.",
            "additionalProperties": login,
        },
        "defaults": mapping(
            (*defaults.NAMES, *CONTENT_KEYS), _DEFAULTS | _CONTENT, description="Defaults of all rules."
        ),
        "images": {
            "type": "object",
            "description": "Destinations by source: host/repository, with optional :tags, :/expression/ or @digest.",
            "minProperties": 1,
            "additionalProperties": {
                "description": f"host/namespace/repository, a list, or a mapping with to. {_DEFAULT} {_PLACEHOLDERS}",
                "oneOf": [*one["oneOf"], {"type": "array", "items": one, "minItems": 1}],
            },
        },
        "destination": destination,
        "tags": tags,
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Rules file of replicator",
        "type": "object",
        "properties": {section: {"$ref": f"#/definitions/{section}"} for section in loading.SECTIONS},
        # A file of a directory may have nothing but logins.
        "anyOf": [{"required": ["images"]}, {"required": ["auth"]}],
        "additionalProperties": False,
        "definitions": definitions,
    }
