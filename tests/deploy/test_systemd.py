"""systemd accepts the units, and they sandbox the program."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

UNITS = sorted((ROOT / "deploy" / "systemd").iterdir())
SERVICES = [unit for unit in UNITS if unit.suffix == ".service"]
PROGRAM = "/opt/replicator/bin/replicator"


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60)


def test_systemd_has_nothing_to_say_about_the_units(tmp_path: Path) -> None:
    for unit in UNITS:
        # It wants to find the program.
        (tmp_path / unit.name).write_text(
            unit.read_text().replace(PROGRAM, f"{Path(sys.executable).parent}/replicator")
        )
    done = analyze("verify", "--man=no", *(tmp_path / unit.name for unit in UNITS))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_a_service_can_do_little_besides_its_work(unit: Path) -> None:
    done = analyze("security", "--offline=true", "--no-pager", "--threshold=25", unit)
    assert done.returncode == 0, done.stdout


def test_both_services_are_shut_in_alike() -> None:
    hardening = [
        unit.read_text()[unit.read_text().index("NoNewPrivileges=") :].split("\n[")[0].strip() for unit in SERVICES
    ]
    assert hardening[0] == hardening[1]
