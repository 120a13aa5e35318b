"""``replicator convert``: another program's file as a rules file."""

from pathlib import Path
from typing import Annotated

import typer

from replicator.cli.options import Namespace, Registry
from replicator.errors import ConfigError, Problem


def convert(
    file: Annotated[Path, typer.Argument(help="A file of image-syncer, JSON or YAML.")],
    output: Annotated[Path | None, typer.Option(help="The rules file to write; stdout without it.")] = None,
    registry: Registry = None,
    namespace: Namespace = None,
    keep_secrets: Annotated[
        bool, typer.Option("--keep-secrets", help="Write passwords as they are, not as variables.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the output, if it is there.")] = False,
) -> None:
    """Turn a file of image-syncer into a rules file; what has no equivalent is told on stderr."""
    from replicator import converting
    from replicator.starting import write

    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(str(file), [Problem("", f"it can't be read: {reason}")]) from None
    found = converting.convert(text, str(file), registry=registry, namespace=namespace, keep_secrets=keep_secrets)
    if output is None:
        typer.echo(found.text, nl=False)
    else:
        write(output, found.text, mode=0o600, force=force)
    for remark in found.remarks:
        typer.echo(f"{file}: {remark}", err=True)
    if found.variables:
        typer.echo(f"Set these variables to the passwords of {file}: {', '.join(found.variables)}", err=True)
