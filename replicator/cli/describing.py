"""``replicator schema``: the rules file as a JSON schema."""

import json

import typer


def schema() -> None:
    """Print the JSON schema of the rules file, with which editors complete and check it."""
    from replicator.rules.schema import rules_schema

    typer.echo(json.dumps(rules_schema(), indent=2))
