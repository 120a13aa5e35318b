"""Other programs that copy, and their command lines for all repositories of a run."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.standins.skopeo import PROGRAM as SKOPEO

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.line.place import Run

_AT_ONCE = 8
"""Images that a program copies at once, if it can be told."""
_SYNCER_AT_ONCE = 16


def found() -> dict[str, Callable[[Run], Sequence[str]]]:
    """Name the programs that are on PATH, in ``PEERS`` (a directory) or in ``~/go/bin``; skopeo always is."""
    known = {"crane": _crane, "regsync": _regsync, "image-syncer": _image_syncer}
    there: dict[str, Callable[[Run], Sequence[str]]] = {}
    for name, command in known.items():
        if (program := _which(name)) is not None:
            there[name] = _with(program, command)
    there["skopeo"] = _skopeo
    return there


def _which(name: str) -> str | None:
    places = [os.environ.get("PATH", os.defpath), os.environ.get("PEERS", ""), str(Path.home() / "go" / "bin")]
    return shutil.which(name, path=os.pathsep.join(filter(None, places)))


def _with(program: str, command: Callable[[str, Run], Sequence[str]]) -> Callable[[Run], Sequence[str]]:
    return lambda run: command(program, run)


def _crane(program: str, run: Run) -> list[str]:
    """A command for each repository, as a script would have it; all of them at once where there is one tag in each."""
    directory = run.scratch / "docker"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    copy = ["env", f"DOCKER_CONFIG={directory}", program, "copy", "--insecure", "--all-tags", "--jobs", str(_AT_ONCE)]
    script = run.scratch / "crane.sh"
    script.write_text("\n".join(["set -eu", *(shlex.join([*copy, *pair]) for pair in run.pairs)]))
    return ["/bin/sh", str(script)]


def _regsync(program: str, run: Run) -> list[str]:
    configuration = {
        "version": 1,
        "creds": [{"registry": host, "tls": "disabled"} for host in (run.source, run.destination)],
        "defaults": {"parallel": _AT_ONCE},
        "sync": [{"type": "repository", "source": source, "target": copy} for source, copy in run.pairs],
    }
    return [program, "once", "--config", str(_write(run.scratch / "regsync.json", configuration))]


def _image_syncer(program: str, run: Run) -> list[str]:
    # It takes no login for none, and an empty one for anonymous.
    auth = {host: {"username": "", "password": "", "insecure": True} for host in (run.source, run.destination)}
    files = [
        *("--auth", str(_write(run.scratch / "syncer-auth.json", auth))),
        *("--images", str(_write(run.scratch / "syncer-images.json", dict(run.pairs)))),
    ]
    return [program, "--proc", str(_SYNCER_AT_ONCE), "--retries", "3", *files]


def _skopeo(run: Run) -> list[str]:
    """It adds the last part of the source's name to the destination."""
    names: dict[str, list[str]] = {name: [] for name in run.content}
    file = _write(run.scratch / "skopeo.yaml", {run.source: {"images": names, "tls-verify": False}})
    plain = ["--all", "--dest-tls-verify=false", "--src", "yaml", "--dest", "docker"]
    return [SKOPEO, "--insecure-policy", "sync", *plain, str(file), f"{run.destination}/mirror"]


def _write(file: Path, document: dict[str, Any]) -> Path:
    file.write_text(json.dumps(document))
    return file
