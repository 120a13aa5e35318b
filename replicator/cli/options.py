"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Config = Annotated[Path | None, typer.Option(help="Rules file, JSON or YAML (REPLICATOR_CONFIG).")]
Auth = Annotated[Path | None, typer.Option(help="File with the rules' auth part, where it is a file of its own.")]
Images = Annotated[Path | None, typer.Option(help="File with the rules' images part, where it is a file of its own.")]
Registry = Annotated[str | None, typer.Option(help='Registry of destinations that are "".')]
Namespace = Annotated[str | None, typer.Option(help='Namespace of destinations that are "".')]
RedisUrl = Annotated[
    str | None,
    typer.Option(help="Redis of the queue (REPLICATOR_REDIS_URL; a password belongs there). Without: an embedded one."),
]
StateDir = Annotated[Path | None, typer.Option(help="Where the embedded queue keeps its data (REPLICATOR_STATE_DIR).")]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"] | None,
    typer.Option(help="The least that is logged (REPLICATOR_LOG_LEVEL)."),
]
LogFormat = Annotated[
    Literal["auto", "console", "json"] | None, typer.Option(help="Form of log lines (REPLICATOR_LOG_FORMAT).")
]
Log = Annotated[Path | None, typer.Option(help="Append log lines to this file instead of stderr.")]
