"""The parts import as CONTRIBUTING.md's table of them says: only what stands above, and never in a circle."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent
MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted((ROOT / "replicator").rglob("*.py"))
}
ANYWHERE = {"replicator", "replicator.__main__"}
"""The version, and what starts the command line: they are no parts."""


def parts() -> list[list[str]]:
    """The table's rows: the modules and packages of each, from left to right."""
    rows = re.findall(r"^\| (`replicator/[^|]*)\|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    return [
        [name.removesuffix("/").removesuffix(".py").replace("/", ".") for name in re.findall(r"`([^`]+)`", row)]
        for row in rows
    ]


PLACES = {name: (row, column) for row, names in enumerate(parts()) for column, name in enumerate(names)}
"""Where each part stands; a part may import what has a smaller place."""


def part_of(module: str) -> str:
    (found,) = [part for part in PLACES if f"{module}.".startswith(f"{part}.")]
    return found


def imported(module: str) -> dict[str, int]:
    """What of the program a module imports, for types too, and in which line."""
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            named = [f"{node.module}.{name.name}" for name in node.names]
            found |= {name if name in MODULES else node.module: node.lineno for name in named}
        elif isinstance(node, ast.Import):
            found |= {name.name: node.lineno for name in node.names}
    return {name: line for name, line in found.items() if name in MODULES}


def test_every_module_stands_in_the_table_once_and_nothing_else_does() -> None:
    assert {part_of(module) for module in MODULES.keys() - ANYWHERE} == set(PLACES)
    assert len(PLACES) == sum(map(len, parts()))


def test_a_part_imports_only_what_stands_above_it_or_to_its_left() -> None:
    upward = [
        f"{MODULES[module].relative_to(ROOT)}:{line} imports {name}"
        for module in MODULES.keys() - ANYWHERE
        for name, line in imported(module).items()
        if name not in ANYWHERE and PLACES[part_of(name)] > PLACES[part_of(module)]
    ]
    assert upward == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    # Raises an error that names the circle.
    TopologicalSorter({module: imported(module).keys() - {"replicator"} for module in MODULES}).prepare()


def test_no_file_has_more_than_400_lines() -> None:
    files = [file for folder in ("replicator", "tests", "benchmarks") for file in (ROOT / folder).rglob("*.py")]
    assert [file for file in files if len(file.read_text().splitlines()) > 400] == []
