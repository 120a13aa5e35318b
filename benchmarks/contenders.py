"""The programs that are compared, and their command lines."""

from __future__ import annotations

import base64
import json
import shutil
import textwrap
from typing import TYPE_CHECKING, Any

from benchmarks.contest import DESTINATION_REPOSITORY, SOURCE_REPOSITORY, Contender, Route
from tests.running import PROGRAM
from tests.standins.skopeo import PROGRAM as SKOPEO

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tests.standins.images import Image

_AT_ONCE = 8
"""Images that a program copies at once, if it can be told; ours is left as it comes."""


def replicator_copy(tag: str) -> Contender:
    """Ours, one image."""

    def command(route: Route) -> list[str]:
        file = _write(route.scratch / "auth.json", _replicator_auth(route))
        return [*PROGRAM, "copy", route.of_source(tag), route.of_destination(tag), "--auth", str(file)]

    return Contender("replicator", command)


def replicator_backfill() -> Contender:
    """Ours, through rules and queue; the embedded queue's start and its processor time are in it."""

    def command(route: Route) -> list[str]:
        rules = {"auth": _replicator_auth(route), "images": {route.of_source(): route.of_destination()}}
        return [*PROGRAM, "backfill", "--config", str(_write(route.scratch / "rules.json", rules))]

    return Contender("replicator", command)


def skopeo_copy(tag: str) -> Contender:
    """Debian's skopeo, one image."""

    def command(route: Route) -> list[str]:
        ends = [f"docker://{route.of_source(tag)}", f"docker://{route.of_destination(tag)}"]
        return [*_skopeo(route, "copy"), "--quiet", *ends]

    return Contender("skopeo", command)


def skopeo_sync() -> Contender:
    """Debian's skopeo, every tag of the repository."""

    def command(route: Route) -> list[str]:
        # It adds the last part of the source's name to the destination.
        above = DESTINATION_REPOSITORY.rpartition("/")[0]
        ends = ["--src", "docker", "--dest", "docker", route.of_source(), f"{route.destination}/{above}"]
        return [*_skopeo(route, "sync"), *ends]

    return Contender("skopeo", command)


def curl_copy(tag: str, image: Image) -> Contender:
    """The floor: for each blob at once one curl reads and another writes; nothing is asked, nothing is verified."""

    def command(route: Route) -> list[str]:
        script = route.scratch / "curl.sh"
        manifest = route.scratch / "manifest.json"
        manifest.write_bytes(image.content)
        source = f"http://{route.source}/v2/{SOURCE_REPOSITORY}"
        destination = f"http://{route.destination}/v2/{DESTINATION_REPOSITORY}"
        transfers = "\n".join(f'transfer {blob.digest} & jobs="$jobs $!"' for blob in image.blobs)
        script.write_text(
            textwrap.dedent(f"""\
                set -eu
                transfer() {{
                    url=$(curl -fsS -o /dev/null -D - -X POST -H Content-Length:0 {destination}/blobs/uploads/ |
                        sed -n 's/\\r$//; s/^[Ll]ocation: //p')
                    curl -fsS {source}/blobs/$1 |
                        curl -fsS -o /dev/null -T - -H Expect: -H Content-Type:application/octet-stream "$url&digest=$1"
                }}
                jobs=
                """)
            + f"{transfers}\n"
            + textwrap.dedent(f"""\
                for job in $jobs; do wait "$job"; done
                curl -fsS -o /dev/null -X PUT -H Content-Type:{image.media_type} \\
                    --data-binary @{manifest} {destination}/manifests/{tag}
                """)
        )
        return ["/bin/sh", str(script)]

    return Contender("curl | curl", command)


def crane_copy(tag: str) -> list[Contender]:
    """Crane, one image; nobody where it is not on PATH."""
    return _if_there("crane", lambda route: _crane(route, route.of_source(tag), route.of_destination(tag)))


def crane_all_tags() -> list[Contender]:
    """Crane, every tag of the repository, eight at once; nobody where it is not on PATH."""
    return _if_there(
        "crane",
        lambda route: _crane(route, "--all-tags", "--jobs", str(_AT_ONCE), route.of_source(), route.of_destination()),
    )


def regctl_copy(tag: str) -> list[Contender]:
    """Regctl, one image; nobody where it is not on PATH."""

    def command(route: Route) -> list[str]:
        login = "" if route.login is None else ",user={},pass={}".format(*route.login)
        hosts = [f"reg={route.source},tls=disabled", f"reg={route.destination},tls=disabled{login}"]
        options = [option for host in hosts for option in ("--host", host)]
        return ["regctl", *options, "image", "copy", route.of_source(tag), route.of_destination(tag)]

    return _if_there("regctl", command)


def regsync(tags: Sequence[str]) -> list[Contender]:
    """Regsync, these tags, eight at once, which needs an entry each; nobody where it is not on PATH."""

    def command(route: Route) -> list[str]:
        configuration = {
            "version": 1,
            "creds": [{"registry": host, "tls": "disabled"} for host in (route.source, route.destination)],
            "defaults": {"parallel": _AT_ONCE},
            "sync": [
                {"type": "image", "source": route.of_source(tag), "target": route.of_destination(tag)} for tag in tags
            ],
        }
        return ["regsync", "once", "--config", str(_write(route.scratch / "regsync.json", configuration))]

    return _if_there("regsync", command)


def _replicator_auth(route: Route) -> dict[str, dict[str, Any]]:
    login: dict[str, Any] = {"anonymous": True}
    if route.login is not None:
        login = dict(zip(("username", "password"), route.login, strict=True))
    return {route.source: {"anonymous": True, "insecure": True}, route.destination: {**login, "insecure": True}}


def _skopeo(route: Route, action: str) -> list[str]:
    login = [] if route.login is None else ["--dest-creds", ":".join(route.login)]
    plain = ["--all", "--src-tls-verify=false", "--dest-tls-verify=false"]
    return [SKOPEO, "--insecure-policy", action, *plain, *login]


def _crane(route: Route, *arguments: str) -> list[str]:
    """Crane takes logins from Docker's file only."""
    logins = {}
    if route.login is not None:
        logins[route.destination] = {"auth": base64.b64encode(":".join(route.login).encode()).decode()}
    directory = route.scratch / "docker"
    directory.mkdir()
    _write(directory / "config.json", {"auths": logins})
    return ["env", f"DOCKER_CONFIG={directory}", "crane", "copy", "--insecure", *arguments]


def _write(file: Path, content: dict[str, Any]) -> Path:
    file.write_text(json.dumps(content))
    return file


def _if_there(name: str, command: Callable[[Route], Sequence[str]]) -> list[Contender]:
    return [Contender(name, command)] if shutil.which(name) is not None else []
