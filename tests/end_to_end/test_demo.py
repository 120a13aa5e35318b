from __future__ import annotations

import subprocess
import sys


def test_the_demo_ends_well_and_leaves_nothing_behind() -> None:
    ended = subprocess.run([sys.executable, "-m", "tests.demo"], capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "same bytes" in ended.stdout
    assert "3  copied" in ended.stdout
    assert "1  up to date" in ended.stdout
    assert "exit code 0" in ended.stdout
