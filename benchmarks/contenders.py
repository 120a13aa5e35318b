"""The programs that are compared: how each is told to do the work."""

from __future__ import annotations

import json
import shutil
import textwrap
from typing import TYPE_CHECKING

from benchmarks.contest import DESTINATION_REPOSITORY, SOURCE_REPOSITORY, Contender, Route
from tests.running import PROGRAM
from tests.standins.skopeo import PROGRAM as SKOPEO

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.standins.images import Image

_SKOPEO = (SKOPEO, "--insecure-policy")
_SKOPEO_PLAIN = ("--quiet", "--all", "--src-tls-verify=false", "--dest-tls-verify=false")


def replicator_copy(tag: str) -> Contender:
    """Ours, one image."""

    def command(route: Route) -> list[str]:
        insecure = ["--insecure", route.source, "--insecure", route.destination]
        return [*PROGRAM, "copy", route.of_source(tag), route.of_destination(tag), *insecure]

    return Contender("replicator", command)


def replicator_backfill() -> Contender:
    """Ours, through rules and queue; the embedded queue's start and its processor time are in it."""

    def command(route: Route) -> list[str]:
        plain = {"anonymous": True, "insecure": True}
        rules = {
            "auth": {route.source: plain, route.destination: plain},
            "images": {route.of_source(): route.of_destination()},
        }
        file = route.scratch / "rules.json"
        file.write_text(json.dumps(rules))
        return [*PROGRAM, "backfill", "--config", str(file)]

    return Contender("replicator", command)


def skopeo_copy(tag: str) -> Contender:
    """Debian's skopeo, one image."""

    def command(route: Route) -> list[str]:
        ends = [f"docker://{route.of_source(tag)}", f"docker://{route.of_destination(tag)}"]
        return [*_SKOPEO, "copy", *_SKOPEO_PLAIN, *ends]

    return Contender("skopeo", command)


def skopeo_sync() -> Contender:
    """Debian's skopeo, every tag of the repository."""

    def command(route: Route) -> list[str]:
        # It adds the last part of the source's name to the destination.
        above = DESTINATION_REPOSITORY.rpartition("/")[0]
        ends = ["--src", "docker", "--dest", "docker", route.of_source(), f"{route.destination}/{above}"]
        options = [option for option in _SKOPEO_PLAIN if option != "--quiet"]
        return [*_SKOPEO, "sync", *options, *ends]

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
    return _if_there("crane", lambda route: ["copy", "--insecure", route.of_source(tag), route.of_destination(tag)])


def crane_all_tags() -> list[Contender]:
    """Crane, every tag of the repository, eight at once; nobody where it is not on PATH."""
    return _if_there(
        "crane",
        lambda route: ["copy", "--insecure", "--all-tags", "--jobs", "8", route.of_source(), route.of_destination()],
    )


def regctl_copy(tag: str) -> list[Contender]:
    """Regctl, one image; nobody where it is not on PATH."""
    return _if_there(
        "regctl",
        lambda route: [
            *(
                option
                for host in (route.source, route.destination)
                for option in ("--host", f"reg={host},tls=disabled")
            ),
            *("image", "copy", route.of_source(tag), route.of_destination(tag)),
        ],
    )


def _if_there(name: str, arguments: Callable[[Route], list[str]]) -> list[Contender]:
    program = shutil.which(name)
    return [Contender(name, lambda route: [program, *arguments(route)])] if program is not None else []
