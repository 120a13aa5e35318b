"""The table in ``docs/settings.md``, generated from the settings.

``python -m tests.docs.settings_table``, or ``make docs``, regenerates it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from replicator.commands import COMMANDS, load_command
from replicator.settings import PREFIX, Settings
from tests.docs.pages import ROOT

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

PAGE = ROOT / "docs" / "settings.md"
BEGIN, END = "<!-- settings: begin -->\n", "<!-- settings: end -->\n"

_WORDS = {"state_dir": "`$XDG_STATE_HOME/replicator`, else `~/.local/state/replicator`", "copy_timeout": "`off`"}
"""Defaults that depend on the machine, or that people write differently, in words."""
_OTHER_NAMES = {"proc": "backfill_concurrency"}
"""Options that set a setting of another name."""


def table() -> str:
    """Build the table: a row a setting, and one for the directory of secret files."""
    options = _options()
    rows = [
        "| variable | option | default | meaning |",
        "|---|---|---|---|",
        *(
            f"| `{PREFIX}{name.upper()}` | {options.get(name, '')} | {_default(name, field)} "
            f"| {field.description}{_bounds(field)} |"
            for name, field in Settings.model_fields.items()
        ),
        "| `REPLICATOR_SECRETS_DIR` |  | `/run/secrets` | directory of secret files; only from the environment |",
    ]
    return "\n".join(rows) + "\n"


def page() -> str:
    """Return the page with the table as it should be."""
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


def _options() -> dict[str, str]:
    """The option of each setting that has one."""
    found: dict[str, str] = {}
    for command in map(load_command, COMMANDS):
        for parameter in command.params:
            setting = _OTHER_NAMES.get(parameter.name or "", parameter.name or "")
            if setting in Settings.model_fields:
                found[setting] = f"`{parameter.opts[0]}`"
    return found


def _default(name: str, field: FieldInfo) -> str:
    if name in _WORDS:
        return _WORDS[name]
    value: Any = field.default
    if value is None:
        return "none"
    if isinstance(value, bool):
        value = str(value).lower()
    elif isinstance(value, float):
        value = f"{value:g}" if value < 1e5 else f"{value:.0f}"
    return f"`{value}`"


def _bounds(field: FieldInfo) -> str:
    """Say what values are possible, where not all are."""
    limits: dict[str, Any] = {}
    for part in field.metadata:
        limits |= {key: getattr(part, key) for key in ("gt", "ge", "le") if hasattr(part, key)}
    if "ge" in limits and "le" in limits:
        return f" ({limits['ge']:g} to {limits['le']:g})"
    if "le" in limits:
        return f" (at most {limits['le']:.0f})"
    values = getattr(field.annotation, "__args__", ())
    if values and all(isinstance(value, str) for value in values):
        return f" ({', '.join(f'`{value}`' for value in values)})"
    return ""


if __name__ == "__main__":
    PAGE.write_text(page())
