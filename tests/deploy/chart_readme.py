"""The table of values in the README of the Helm chart, generated from the comments ``# -- …`` of ``values.yaml``.

The form of comments and table is that of helm-docs. ``make docs`` writes the page (see ``copies``).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import yaml

from tests.docs.pages import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

CHART = ROOT / "deploy" / "helm" / "replicator"
PAGE = CHART / "README.md"
BEGIN, END = "<!-- values: begin -->\n", "<!-- values: end -->\n"

_TYPES = {str: "string", bool: "bool", int: "int", list: "list", dict: "object"}


def page() -> str:
    """Return the README with the table as it should be."""
    before, rest = PAGE.read_text().split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


def table() -> str:
    """Build the table: a row a value.

    Raises:
        ValueError: a value has no comment.
    """
    text = (CHART / "values.yaml").read_text()
    node = yaml.compose(text)
    assert isinstance(node, yaml.MappingNode)
    rows = ["| Key | Type | Default | Description |", "|---|---|---|---|"]
    for key, value, description in _values(node, text.splitlines(), ""):
        default = json.dumps(value, ensure_ascii=False).replace("|", "\\|")
        rows.append(f"| {key} | {_TYPES[type(value)]} | `{default}` | {description} |")
    return "\n".join(rows) + "\n"


def _values(node: yaml.MappingNode, lines: list[str], above: str) -> Iterator[tuple[str, object, str]]:
    """The path, default and description of each value; one that is described as a whole is not taken apart."""
    for key, value in node.value:
        path = f"{above}{key.value}"
        description = _description(lines, key.start_mark.line)
        if description:
            loader = yaml.SafeLoader("")
            yield path, loader.construct_document(value), description
        elif isinstance(value, yaml.MappingNode) and value.value:
            yield from _values(value, lines, f"{path}.")
        else:
            raise ValueError(f"{path} has no comment '# -- …' in values.yaml")


def _description(lines: list[str], line: int) -> str:
    """The comment above a line, from its ``# --`` on; empty without one."""
    found: list[str] = []
    for above in reversed(lines[:line]):
        text = above.strip()
        if not text.startswith("# "):
            break
        found.insert(0, text.removeprefix("# ").removeprefix("-- "))
        if text.startswith("# -- "):
            return " ".join(found)
    return ""
