"""The programs that can backfill, and their command lines."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

from benchmarks.backfill.content import PROJECTS, destination_of
from benchmarks.backfill.contest import Contender, Route
from tests.running import PROGRAM, environment
from tests.standins.skopeo import PROGRAM as SKOPEO

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_AT_ONCE = 8
"""Images that a program copies at once, if it can be told; ours is left as it comes."""


def replicator(name: str = "replicator", *options: str) -> Contender:
    """Ours, with a state directory that is empty before; the embedded queue's start is in it."""
    return Contender(name, _backfill(*options))


def replicator_again(name: str, *options: str) -> Contender:
    """Ours, after a backfill without these options in the same state directory."""
    return Contender(name, _backfill(*options), rehearsal=_backfill())


def knows(option: str) -> bool:
    """Tell whether this program's backfill has an option."""
    said = subprocess.run(
        [*PROGRAM, "backfill", "--help"], env=environment(), capture_output=True, text=True, check=True
    ).stdout
    return re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", said) is not None


def skopeo_sync(share: int | None = None) -> Contender:
    """Debian's skopeo: a list of repositories for each project, one after another, as it knows one destination.

    Args:
        share: how many repositories it is given at the most; None for all.
    """

    def command(route: Route) -> list[str]:
        lines = []
        username, password = route.login
        for project, namespace in PROJECTS.items():
            wanted: dict[str, list[str]] = {name: [] for name in route.repositories if name.startswith(f"{project}/")}
            source: dict[str, Any] = {
                "images": wanted,
                "tls-verify": False,
                "credentials": {"username": username, "password": password},
            }
            # It adds the last part of the source's name to the destination.
            file = _write(route.scratch / f"{project}.yaml", {route.harbor: source})
            plain = ["--all", "--dest-tls-verify=false", "--src", "yaml", "--dest", "docker"]
            if wanted:
                lines.append(
                    [SKOPEO, "--insecure-policy", "sync", *plain, str(file), f"{route.destination}/{namespace}"]
                )
        return _script(route, lines)

    return Contender("skopeo sync", command, share=share)


def crane_copy() -> list[Contender]:
    """Crane, a command for each repository, as a scheduled script would; nobody where it is not on PATH."""

    def command(route: Route) -> list[str]:
        directory = route.scratch / "docker"
        directory.mkdir()
        username, password = route.login
        _write(directory / "config.json", {"auths": {route.harbor: {"username": username, "password": password}}})
        copy = [
            "env",
            f"DOCKER_CONFIG={directory}",
            "crane",
            "copy",
            "--insecure",
            "--all-tags",
            "--jobs",
            str(_AT_ONCE),
        ]
        return _script(route, [[*copy, *_ends(route, name)] for name in route.repositories])

    return [Contender("crane copy -a", command)] if shutil.which("crane") else []


def regsync() -> list[Contender]:
    """Regsync with an entry for each repository, eight images at once; nobody where it is not on PATH."""

    def command(route: Route) -> list[str]:
        username, password = route.login
        configuration = {
            "version": 1,
            "creds": [
                # A token for each repository: else it asks for one for all it has seen, in a URL that grows past the
                # 8 KiB that servers take.
                {"registry": route.harbor, "tls": "disabled", "user": username, "pass": password, "repoAuth": True},
                {"registry": route.destination, "tls": "disabled"},
            ],
            "defaults": {"parallel": _AT_ONCE},
            "sync": [
                {"type": "repository", "source": source, "target": target}
                for source, target in (_ends(route, name) for name in route.repositories)
            ],
        }
        return ["regsync", "once", "--config", str(_write(route.scratch / "regsync.json", configuration))]

    return [Contender("regsync once", command)] if shutil.which("regsync") else []


def _backfill(*options: str) -> Callable[[Route], Sequence[str]]:
    def command(route: Route) -> list[str]:
        username, password = route.login
        rules = {
            "auth": {
                route.harbor: {"username": username, "password": password, "insecure": True},
                route.destination: {"anonymous": True, "insecure": True},
            },
            "images": {
                f"{route.harbor}/{project}/**": f"{route.destination}/{namespace}/{{name}}"
                for project, namespace in PROJECTS.items()
            },
        }
        return [*PROGRAM, "backfill", "--config", str(_write(route.scratch / "rules.json", rules)), *options]

    return command


def _ends(route: Route, repository: str) -> tuple[str, str]:
    return f"{route.harbor}/{repository}", f"{route.destination}/{destination_of(repository)}"


def _script(route: Route, commands: Sequence[Sequence[str]]) -> list[str]:
    script = route.scratch / "all.sh"
    script.write_text("\n".join(["set -eu", *map(shlex.join, commands)]))
    return ["/bin/sh", str(script)]


def _write(file: Path, document: dict[str, Any]) -> Path:
    file.write_text(json.dumps(document))
    return file
