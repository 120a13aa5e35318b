"""``replicator schema``: the rules file as a JSON schema."""

import json

import typer

from replicator.rules.schema import rules_schema


def schema() -> None:
    """Print the JSON schema of the rules file, with which editors complete and check it."""
    typer.echo(json.dumps(rules_schema(), indent=2))
