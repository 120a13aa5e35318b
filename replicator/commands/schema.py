"""``replicator schema``: the JSON schema of the rules file."""

import json

import typer

from replicator.rules.schema import rules_schema


def schema() -> None:
    """Print the JSON schema of the rules file, for completion and validation in editors."""
    typer.echo(json.dumps(rules_schema(), indent=2))
