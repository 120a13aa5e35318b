from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Return a function that puts a credential helper on PATH, from its name and its Python code."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")

    def make(name: str, code: str) -> Path:
        program = programs / f"docker-credential-{name}"
        program.write_text(f"#!{sys.executable} -IS\n{code}\n")
        program.chmod(0o755)
        return program

    return make
