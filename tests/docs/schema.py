"""The JSON schema in ``docs/rules.schema.json`` and the AsyncAPI document beside it, as the program prints them.

``python -m tests.docs.schema``, or ``make docs``, regenerates them.
"""

from __future__ import annotations

from typer.testing import CliRunner

from replicator.commands import app
from tests.docs.pages import ROOT

FILES = {ROOT / "docs" / "rules.schema.json": [], ROOT / "docs" / "events.asyncapi.json": ["--events"]}
"""With the options that print each."""


def printed(options: list[str]) -> str:
    """What ``replicator schema`` prints."""
    result = CliRunner().invoke(app, ["schema", *options])
    assert result.exit_code == 0, result.output
    return result.stdout


if __name__ == "__main__":
    for file, wanted in FILES.items():
        file.write_text(printed(wanted))
