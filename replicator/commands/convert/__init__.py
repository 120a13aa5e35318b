"""``replicator convert``: files of image-syncer, regsync, skopeo and Harbor's replication become a rules file.

This module detects the program by the content of the files. The reader of each format adds rules and logins to a
`Draft`; the draft is written and then parsed again like any rules file. Nothing contacts the network.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from replicator.commands.convert import harbor, regsync
from replicator.commands.convert.draft import Converted, File, Options, finished
from replicator.commands.convert.mappings import FIELDS, image_syncer_draft, skopeo_draft
from replicator.commands.init import write
from replicator.commands.options import Namespace, Registry
from replicator.errors import ConfigError, Problem
from replicator.reference import full_name, is_registry
from replicator.rules.document import read_document, read_text

__all__ = ["Converted", "File", "Options", "Program", "convert_files"]

Program = Literal["image-syncer", "regsync", "skopeo", "harbor"]
"""Programs whose files can be converted."""
Part = Literal["whole", "auth", "images"]
"""The content of a file: all of it, or one of image-syncer's two sections."""

_NO_POLICIES = "has no replication policies: save Harbor's answer to GET /api/v2.0/replication/policies"
_LOGIN = frozenset({"username", "password", "insecure"})


def read(files: Sequence[File], program: Program | None) -> tuple[Program, dict[str, Any]]:
    """Read the files, and detect their program.

    Args:
        files: one, or the two of image-syncer in any order.
        program: the program, if it is known.

    Returns:
        The program, and the top level of its file; for two files a mapping of ``auth`` and ``images``, and for
        policies of Harbor a mapping of `harbor.POLICIES`.

    Raises:
        ConfigError: a file can't be read, the files don't belong together, or the program can't be detected.
    """
    source = " and ".join(file.name for file in files)
    problems: list[Problem] = []
    values: dict[str, Any] = {}
    for file in files:
        document = read_document(file.text)
        if len(files) == 1 and document.readable and _has_policies(document.value, program):
            if document.problems:
                raise ConfigError(source, document.problems)
            return "harbor", {harbor.POLICIES: document.value}
        if len(files) == 1 and document.readable and program == "harbor":
            raise ConfigError(source, [Problem("", _NO_POLICIES)])
        problems += [_named(file.name, problem, alone=len(files) == 1) for problem in document.problems]
        values[file.name] = document.value
        if document.readable and not (isinstance(document.value, dict) and document.value):
            problems.append(
                _named(file.name, Problem("", "must be a mapping with at least one key"), alone=len(files) == 1)
            )
    if len(values) < len(files):
        problems.append(Problem("", "the same file is given twice"))
    if problems:
        raise ConfigError(source, problems)
    kinds = {name: _kinds(value, program) for name, value in values.items()}
    if len(files) == 1:
        (value,), (found,) = values.values(), kinds.values()
        kind = _only(found, source, value)
        if kind[0] == "image-syncer" and kind[1] != "whole":
            value = {kind[1]: value}
        return kind[0], value
    return "image-syncer", _together(values, kinds, source)


def _has_policies(value: Any, program: Program | None) -> bool:
    """Tell whether a file has replication policies of Harbor, one or a list."""
    if program not in (None, "harbor") or not value:
        return False
    rows = value if isinstance(value, list) else [value]
    fewest = 2 if program is None else 1
    return all(isinstance(row, dict) and len(harbor.SIGNS & set(row)) >= fewest for row in rows)


def _named(name: str, problem: Problem, *, alone: bool) -> Problem:
    return problem if alone else Problem(f"{name}: {problem.path}" if problem.path else name, problem.message)


def _kinds(value: Mapping[str, Any], program: Program | None) -> list[tuple[Program, Part]]:
    """Return every program and part that a file can be."""
    found: list[tuple[Program, Part]] = []
    entries = list(value.values())
    hosts = all(is_registry(key.partition("/")[0]) for key in value)
    if "sync" in value or (set(value) & {"creds", "defaults"} and set(value) <= {"version", "creds", "defaults"}):
        found.append(("regsync", "whole"))
    if isinstance(value.get("images"), dict) or isinstance(value.get("auth"), dict):
        found.append(("image-syncer", "whole"))
    if hosts and all(isinstance(entry, dict) and (not entry or set(entry) & _LOGIN) for entry in entries):
        found.append(("image-syncer", "auth"))
    if hosts and all(isinstance(entry, str | list) for entry in entries):
        found.append(("image-syncer", "images"))
    if hosts and all(isinstance(entry, dict) and set(entry) & set(FIELDS) for entry in entries):
        found.append(("skopeo", "whole"))
    if not found and _has_short_names(value):
        found.append(("image-syncer", "images"))
    if program is None:
        return found
    ours = [kind for kind in found if kind[0] == program]
    return ours or [(program, "whole")]


def _has_short_names(value: Mapping[str, Any]) -> bool:
    """Tell whether a file is one of image-syncer's images, in which names may lack their host or have variables."""
    sources = all("$" in key or full_name(key) != key or is_registry(key.partition("/")[0]) for key in value)
    ends = [end for entry in value.values() for end in (entry if isinstance(entry, list) else [entry])]
    return sources and bool(ends) and all(isinstance(end, str) and (not end or "/" in end) for end in ends)


def _only(found: list[tuple[Program, Part]], source: str, value: Mapping[str, Any]) -> tuple[Program, Part]:
    if len(found) == 1:
        return found[0]
    if found:
        names = " or ".join(f"{kind[0]} ({kind[1]})" if kind[1] != "whole" else kind[0] for kind in found)
        raise ConfigError(source, [Problem("", f"can be a file of {names}; choose one with --from")])
    keys = ", ".join(key if key.isidentifier() or is_registry(key) else "…" for key in list(value)[:3])
    message = (
        "is not a file of image-syncer (auth, images), regsync (creds, sync), skopeo sync (registries) or Harbor's "
        f"replication (policies of its API); its keys: {keys}"
    )
    raise ConfigError(source, [Problem("", message)])


def _together(
    values: Mapping[str, Any], kinds: Mapping[str, list[tuple[Program, Part]]], source: str
) -> dict[str, Any]:
    """Return the sections of image-syncer's two files."""
    problems: list[Problem] = []
    sections: dict[str, Any] = {}
    for name, found in kinds.items():
        parts = [kind[1] for kind in found if kind[0] == "image-syncer" and kind[1] != "whole"]
        if len(parts) == 1 and parts[0] not in sections:
            sections[parts[0]] = values[name]
            continue
        if len(parts) == 1:
            what = f"is a second file with {parts[0]}"
        elif found:
            what = f"is a complete file of {' or '.join(dict.fromkeys(kind[0] for kind in found))}"
        else:
            what = "has neither logins by registry nor destinations by source"
        problems.append(Problem(name, f"{what}; two files must be the auth and the images of image-syncer"))
    if len(kinds) > 2 and not problems:
        problems.append(Problem("", "at most two files are allowed: the auth and the images of image-syncer"))
    if problems:
        raise ConfigError(source, problems)
    return sections


_FORMATS = {
    "image-syncer": image_syncer_draft,
    "regsync": regsync.drafted,
    "skopeo": skopeo_draft,
    "harbor": harbor.drafted,
}


def convert_files(files: Sequence[File], options: Options, program: Program | None = None) -> Converted:
    """Convert the files of another program.

    Args:
        files: one; or two of image-syncer, ``auth`` and ``images``, in any order.
        options: settings that the files don't have.
        program: the program; None to detect it.

    Raises:
        ConfigError: the files can't be read, or their rules can't be used; with every problem at once.
    """
    found, sections = read(files, program)
    return finished(_FORMATS[found](sections, options), " and ".join(file.name for file in files))


def convert(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="A JSON or YAML file; for image-syncer also two files, logins and images, in any order.",
        ),
    ],
    program: Annotated[
        Literal["auto", "image-syncer", "regsync", "skopeo", "harbor"],
        typer.Option(
            "--from",
            metavar="PROGRAM",
            help="Program of the file: image-syncer, regsync, skopeo or harbor. auto detects it by the content.",
        ),
    ] = "auto",
    to: Annotated[
        str | None,
        typer.Option(
            help="Destination of images that have none in the file. Required for skopeo sync.",
            metavar="HOST[/NAMESPACE]",
        ),
    ] = None,
    from_harbor: Annotated[
        str | None,
        typer.Option(
            "--harbor",
            help="Public host of the Harbor that the replication policies come from.",
            metavar="HOST",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The rules file to write; default: stdout.")
    ] = None,
    registry: Registry = None,
    namespace: Namespace = None,
    keep_secrets: Annotated[
        bool, typer.Option("--keep-secrets", help="Write passwords literally instead of as variables.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing output file.")] = False,
) -> None:
    """Convert a file of image-syncer, regsync, skopeo sync or Harbor's replication to a rules file.

    Reports settings without an equivalent. For Harbor, give the answer of GET /api/v2.0/replication/policies.
    """
    if to is not None:
        if registry is not None or namespace is not None:
            message = "replaces --registry and --namespace; remove it or these two"
            raise ConfigError("command line", [Problem("--to", message)])
        registry, _, namespace = to.rstrip("/").partition("/")
        if not is_registry(registry):
            message = (
                f"{registry!r} is not a registry host: write HOST or HOST/NAMESPACE, the host with a dot or a port"
            )
            raise ConfigError("command line", [Problem("--to", message)])
    if from_harbor is not None and not is_registry(from_harbor := _host(from_harbor)):
        message = f"{from_harbor!r} is not a host: write it with a dot or a port, e.g. harbor.example.com"
        raise ConfigError("command line", [Problem("--harbor", message)])
    options = Options(registry, namespace or None, keep_secrets, from_harbor, os.environ)
    read = [File(str(file), read_text(file)) for file in files]
    found = convert_files(read, options, None if program == "auto" else program)
    if output is None:
        typer.echo(found.text, nl=False)
    else:
        write(output, found.text, mode=0o600, force=force)
    source = " and ".join(file.name for file in read)
    for remark in found.remarks:
        typer.echo(f"{source}: {remark}", err=True)
    if found.variables:
        typer.echo(f"Set these variables to the logins of {source}: {', '.join(found.variables)}", err=True)


def _host(text: str) -> str:
    """Return the host of a host or URL."""
    return text.rpartition("://")[2].rstrip("/").lower()
