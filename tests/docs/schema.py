"""The JSON schema in ``docs/rules.schema.json``, as the program prints it.

``python -m tests.docs.schema``, or ``make docs``, regenerates it.
"""

from __future__ import annotations

from typer.testing import CliRunner

from replicator.commands import app
from tests.docs.pages import ROOT

FILE = ROOT / "docs" / "rules.schema.json"


def printed() -> str:
    """What ``replicator schema`` prints."""
    result = CliRunner().invoke(app, ["schema"])
    assert result.exit_code == 0, result.output
    return result.stdout


if __name__ == "__main__":
    FILE.write_text(printed())
