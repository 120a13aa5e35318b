"""docs/security.md names existing tests, and docs/limits.md lists the actual limits."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.docs import limits_table
from tests.docs.pages import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PAGE = (ROOT / "docs" / "security.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_test_that_is_named_exists(file: str, name: str) -> None:
    assert re.search(rf"^(?:async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE)


def test_every_attack_has_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and line.count(" | ") >= 2]
    attacks = [row for row in rows if not row.startswith(("| Attack |", "| Leak |"))]
    assert len(attacks) > 25
    for row in attacks:
        assert "::test_" in row.rpartition(" | ")[2], row


def test_the_table_of_limits_is_that_of_the_program() -> None:
    assert limits_table.PAGE.read_text() == limits_table.page(), "make docs"


def test_no_limit_of_an_answer_is_left_out() -> None:
    """Whoever bounds something new says so."""
    listed = {limit.place for limits in limits_table.LIMITS.values() for limit in limits}
    bounds = set()
    for module in (
        "server.app",
        "server.connections",
        "server.http",
        "harbor.events",
        *(f"registry.{path.stem}" for path in _modules("registry")),
    ):
        text = (ROOT / "replicator" / f"{module.replace('.', '/')}.py").read_text()
        bounds |= {f"{module}.{name}" for name in re.findall(r"^(_?MAX_[A-Z_]+) = ", text, re.MULTILINE)}
    unbounding = {"harbor.events._MAX_NAME", "registry.errors._MAX_WORDS"}
    assert bounds - listed == unbounding


def _modules(package: str) -> list[Path]:
    return sorted((ROOT / "replicator" / package).glob("*.py"))
