"""``replicator convert``: another program's files as a rules file."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from replicator.cli.options import Namespace, Registry
from replicator.errors import ConfigError, Problem
from replicator.reference import is_registry


def convert(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...", help="A file, JSON or YAML; of image-syncer also two: logins and images, in any order."
        ),
    ],
    program: Annotated[
        Literal["auto", "image-syncer", "regsync", "skopeo"],
        typer.Option("--from", help="Whose file it is; auto tells by its content."),
    ] = "auto",
    to: Annotated[
        str | None,
        typer.Option(
            help="Where images go whose destination the file does not name, which is all of skopeo's.",
            metavar="HOST[/NAMESPACE]",
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="The rules file to write; stdout without it.")] = None,
    registry: Registry = None,
    namespace: Namespace = None,
    keep_secrets: Annotated[
        bool, typer.Option("--keep-secrets", help="Write passwords as they are, not as variables.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the output, if it is there.")] = False,
) -> None:
    """Turn a file of image-syncer, regsync or skopeo sync into a rules file; what has no equivalent is told."""
    from replicator import converting
    from replicator.starting import write

    if to is not None:
        if registry is not None or namespace is not None:
            message = "says the same as --registry and --namespace together; give one of the two"
            raise ConfigError("command line", [Problem("--to", message)])
        registry, _, namespace = to.rstrip("/").partition("/")
        if not is_registry(registry):
            message = f"{registry!r} is no registry's host: write HOST or HOST/NAMESPACE, the host with a dot or a port"
            raise ConfigError("command line", [Problem("--to", message)])
    options = converting.Options(registry, namespace or None, keep_secrets, os.environ)
    read = [converting.File(str(file), _text(file)) for file in files]
    found = converting.convert(read, options, None if program == "auto" else program)
    if output is None:
        typer.echo(found.text, nl=False)
    else:
        write(output, found.text, mode=0o600, force=force)
    source = " and ".join(file.name for file in read)
    for remark in found.remarks:
        typer.echo(f"{source}: {remark}", err=True)
    if found.variables:
        typer.echo(f"Set these variables to the logins of {source}: {', '.join(found.variables)}", err=True)


def _text(file: Path) -> str:
    from replicator.rules.document import MAX_BYTES

    try:
        with file.open("rb") as opened:
            # One byte more, so that who parses it sees that it is too large.
            data = opened.read(MAX_BYTES + 1)
        return data.decode("utf-8-sig", errors="replace" if len(data) > MAX_BYTES else "strict")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(str(file), [Problem("", f"it can't be read: {reason}")]) from None
