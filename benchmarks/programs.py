"""The programs that are compared, and their command lines with the best of their options."""

from __future__ import annotations

import base64
import json
import re
import shlex
import shutil
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.contest import Contender, Route
from benchmarks.measuring import SAID, RunFailed, measure
from tests.running import PROGRAM
from tests.standins.skopeo import PROGRAM as SKOPEO

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from benchmarks.measuring import Measurement
    from tests.standins.images import Image

Command = Callable[[Route], Sequence[str]]
TREES: dict[str, Path | None] = {"replicator": None}
"""Checkouts of our program by the name that a table gives them; None for this one."""
AT_ONCE = 8
"""Images, or blobs, that a program copies at once, if it can be told; ours is left as it comes."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program that copies images.

    Attributes:
        executable: what has to be on PATH.
        copy: makes the command line that copies the one tag of a route.
        mirror: makes the one that copies all tags of all repositories of a route; None for a script with ``copy`` for
            each, eight at once.
        version: prints the version.
    """

    executable: str
    copy: Command
    mirror: Command | None
    version: Sequence[str]


def copies(*without: str) -> list[Contender]:
    """Everyone who is there but these, copying one image."""
    return _everyone(without, lambda program: program.copy)


def defaults() -> list[Contender]:
    """Those who are told to copy more blobs at once elsewhere, with their own defaults, copying one image."""
    commands = {
        "crane": lambda route: _crane(route, *_one(route), tuned=False),
        "regctl": lambda route: _regctl(route, tuned=False),
        "oras": lambda route: _oras(route, tuned=False),
    }
    there = programs()
    return [contender(f"{name}, default", command) for name, command in commands.items() if name in there]


def mirrors(*without: str, **shares: int) -> list[Contender]:
    """Everyone who is there but these, copying all tags; ``shares`` are repositories that one gets at the most."""
    return _everyone(without, mirror, shares)


def versions() -> list[Contender]:
    """Everyone who is there, printing the version."""
    return _everyone((), lambda program: lambda _: program.version)


def absent() -> list[str]:
    """Name the programs that are not on PATH."""
    return [name for name, program in _OTHERS.items() if shutil.which(program.executable) is None]


def backfills(name: str = "", *options: str, says: str = "", again: bool = False) -> list[Contender]:
    """Our backfill with options, of every tree.

    Args:
        name: what the table adds to the name.
        options: of the command line.
        says: the outcome that it has to tell of every tag.
        again: it runs after one without options, in the same state directory.
    """

    def made(tree: str) -> Contender:
        async def run(route: Route) -> Measurement:
            if again:
                await measure(_backfill(tree, route), route.scratch)
                route.forget()
            took = await measure(_backfill(tree, route, *options), route.scratch)
            said = (route.scratch / SAID).read_text("utf-8", "replace")
            if says and not re.search(rf"(?m)^ *{len(route.references)} +{says}\b", said):
                raise RunFailed(f"not all of {len(route.references)} tags are {says}: {said[-2000:]}")
            return took

        return Contender(f"{tree}{name}", run)

    return [made(tree) for tree in TREES]


def contender(name: str, command: Command, share: int | None = None, *, floor: bool = False) -> Contender:
    """Who does the work with one command."""
    return Contender(name, lambda route: measure(command(route), route.scratch), share, floor)


def ours(tree: str, *arguments: str) -> list[str]:
    """The command line of our program, as a tree has it."""
    path = TREES[tree]
    return [*(("env", f"PYTHONPATH={path}") if path is not None else ()), *PROGRAM, *arguments]


def curl(image: Image) -> Contender:
    """The floor: for each blob at once one curl reads and another writes; nothing is asked, nothing is verified."""

    def command(route: Route) -> list[str]:
        manifest = route.scratch / "manifest.json"
        manifest.write_bytes(image.content)
        ((source, target),) = ((a.split("/", 1), b.split("/", 1)) for a, b in route.repositories)
        ((tag,),) = route.tags.values()
        scheme, curl = ("https", f"curl -fsS --cacert {route.ca}") if route.ca else ("http", "curl -fsS")
        reads = f"{scheme}://{source[0]}/v2/{source[1]}"
        writes = f"{scheme}://{target[0]}/v2/{target[1]}"
        transfers = "\n".join(f'transfer {blob.digest} & jobs="$jobs $!"' for blob in image.blobs)
        return _script(
            route,
            textwrap.dedent(f"""\
                transfer() {{
                    url=$({curl} -o /dev/null -D - -X POST -H Content-Length:0 {writes}/blobs/uploads/ |
                        sed -n 's/\\r$//; s/^[Ll]ocation: //p')
                    {curl} {reads}/blobs/$1 |
                        {curl} -o /dev/null -T - -H Expect: -H Content-Type:application/octet-stream "$url&digest=$1"
                }}
                jobs=
                """),
            transfers,
            textwrap.dedent(f"""\
                for job in $jobs; do wait "$job"; done
                {curl} -o /dev/null -X PUT -H Content-Type:{image.media_type} \\
                    --data-binary @{manifest} {writes}/manifests/{tag}
                """),
        )

    return contender("curl | curl", command, floor=True)


def replicator_auth(route: Route) -> dict[str, dict[str, Any]]:
    """The ``auth`` of a rules file."""
    how: dict[str, Any] = {"insecure": True} if route.ca is None else {"ca_file": str(route.ca)}
    auth: dict[str, dict[str, Any]] = {}
    for host in route.hosts:
        known = route.logins.get(host)
        login = {"anonymous": True} if known is None else dict(zip(("username", "password"), known, strict=True))
        auth[host] = {**login, **how}
    return auth


def replicator_rules(route: Route) -> Path:
    """Write a rules file."""
    images = dict(route.repositories) if route.images is None else dict(route.images)
    return _write(route.scratch / "rules.json", {"auth": replicator_auth(route), "images": images})


def _copy(tree: str, route: Route) -> list[str]:
    file = _write(route.scratch / "auth.json", replicator_auth(route))
    return ours(tree, "copy", *_one(route), "--auth", str(file))


def _backfill(tree: str, route: Route, *options: str) -> list[str]:
    """The embedded queue's start and its processor time are in it."""
    return ours(tree, "backfill", "--config", str(replicator_rules(route)), *options)


def _ours(tree: str) -> Program:
    return Program(PROGRAM[0], partial(_copy, tree), partial(_backfill, tree), ours(tree, "--version"))


def _crane(route: Route, *arguments: str, tuned: bool = True) -> list[str]:
    plain = ["--insecure"] if route.ca is None else []
    jobs = ["--jobs", str(AT_ONCE)] if tuned else []
    return [*_environment(route), "crane", "copy", *plain, *jobs, *arguments]


def _crane_mirror(route: Route) -> list[str]:
    commands = [_crane(route, "--all-tags", *ends) for ends in route.repositories]
    return commands[0] if len(commands) == 1 else _script(route, *map(shlex.join, commands))


def _regctl(route: Route, *, tuned: bool = True) -> list[str]:
    at_once = {"reqConcurrent": AT_ONCE} if tuned else {}
    hosts = {
        host: {"tls": "enabled" if route.ca else "disabled", "hostname": host, **at_once}
        | dict(zip(("user", "pass"), route.logins.get(host, ()), strict=False))
        for host in route.hosts
    }
    file = _write(route.scratch / "regctl.json", {"hosts": hosts})
    return [*_environment(route, REGCTL_CONFIG=str(file)), "regctl", "image", "copy", *_one(route)]


def _regsync(route: Route) -> list[str]:
    """Tags of one repository need an entry each: it copies eight entries at once, and the tags of one in turn."""
    kind, ends = ("image", route.references) if len(route.tags) == 1 else ("repository", route.repositories)
    credentials = [
        # A token for each repository: else it asks for one for all it has seen, in a URL that grows past the 8 KiB
        # that servers take.
        {"registry": host, "tls": "enabled" if route.ca else "disabled", "repoAuth": True, "reqConcurrent": AT_ONCE}
        | dict(zip(("user", "pass"), route.logins.get(host, ()), strict=False))
        for host in route.hosts
    ]
    configuration = {
        "version": 1,
        "creds": credentials,
        "defaults": {"parallel": AT_ONCE},
        "sync": [{"type": kind, "source": source, "target": target} for source, target in ends],
    }
    file = _write(route.scratch / "regsync.json", configuration)
    return [*_environment(route), "regsync", "once", "--config", str(file)]


def _skopeo(route: Route) -> list[str]:
    trust = {side: f"--{side}-cert-dir={_ca_directory(route)}" for side in ("src", "dest")} if route.ca else {}
    how = [trust.get(side, f"--{side}-tls-verify=false") for side in ("src", "dest")]
    for side, host in zip(("src", "dest"), route.hosts, strict=True):
        if host in route.logins:
            how += [f"--{side}-creds", ":".join(route.logins[host])]
    return [SKOPEO, "--insecure-policy", "copy", "--all", "--quiet", *how, *(f"docker://{end}" for end in _one(route))]


def _skopeo_mirror(route: Route) -> list[str]:
    """It adds the last part of a source's name to one destination: so a list for each of these, in turn."""
    lists: dict[str, dict[str, list[str]]] = {}
    for name in route.tags:
        lists.setdefault(route.targets[name].rpartition("/")[0], {})[name] = []
    source: dict[str, Any] = {"cert-dir": str(_ca_directory(route))} if route.ca else {"tls-verify": False}
    if route.source in route.logins:
        source["credentials"] = dict(zip(("username", "password"), route.logins[route.source], strict=True))
    how = [f"--dest-cert-dir={_ca_directory(route)}" if route.ca else "--dest-tls-verify=false"]
    if route.destination in route.logins:
        how += ["--dest-creds", ":".join(route.logins[route.destination])]
    commands = []
    for number, (namespace, names) in enumerate(lists.items()):
        file = _write(route.scratch / f"skopeo-{number}.yaml", {route.source: {**source, "images": names}})
        ends = ["--src", "yaml", "--dest", "docker", str(file), f"{route.destination}/{namespace}"]
        commands.append([SKOPEO, "--insecure-policy", "sync", "--all", *how, *ends])
    return commands[0] if len(commands) == 1 else _script(route, *map(shlex.join, commands))


def _oras(route: Route, *, tuned: bool = True) -> list[str]:
    # It speaks plain HTTP to localhost unless it is told not to.
    plain = "true" if route.ca is None else "false"
    how = [f"--{side}-plain-http={plain}" for side in ("from", "to")]
    how += [f"--{side}-ca-file={route.ca}" for side in ("from", "to") if route.ca]
    how += ["--concurrency", str(AT_ONCE)] if tuned else []
    return [*_environment(route), "oras", "cp", "--no-tty", *how, *_one(route)]


def _image_syncer(route: Route) -> list[str]:
    # It takes no login for none, and an empty one for anonymous.
    auth: dict[str, Any] = {}
    for host in route.hosts:
        username, password = route.logins.get(host, ("", ""))
        auth[host] = {"username": username, "password": password, "insecure": route.ca is None}
    files = [
        *("--auth", str(_write(route.scratch / "syncer-auth.json", auth))),
        *("--images", str(_write(route.scratch / "syncer-images.json", dict(route.references)))),
    ]
    return [*_environment(route), "image-syncer", "--proc", str(2 * AT_ONCE), "--retries", "3", *files]


_OTHERS = {
    "crane": Program("crane", lambda route: _crane(route, *_one(route)), _crane_mirror, ["crane", "version"]),
    "regctl": Program("regctl", _regctl, None, ["regctl", "version"]),
    "regsync": Program("regsync", _regsync, _regsync, ["regsync", "version"]),
    "skopeo": Program(SKOPEO, _skopeo, _skopeo_mirror, [SKOPEO, "--version"]),
    "oras": Program("oras", _oras, None, ["oras", "version"]),
    "image-syncer": Program("image-syncer", _image_syncer, _image_syncer, ["image-syncer", "--help"]),
}


def programs() -> dict[str, Program]:
    """Everyone who is there, ours first."""
    there = {name: program for name, program in _OTHERS.items() if name not in absent()}
    return {tree: _ours(tree) for tree in TREES} | there


def _everyone(
    without: Collection[str], command: Callable[[Program], Command], shares: dict[str, int] | None = None
) -> list[Contender]:
    return [
        contender(name, command(program), (shares or {}).get(name))
        for name, program in programs().items()
        if name not in without
    ]


def mirror(program: Program) -> Command:
    """Make the command line that copies all tags of all repositories."""
    return program.mirror or _each(program.copy)


def _each(copy: Command) -> Command:
    """Make a script with a command for each tag: the first brings what all share, then eight at once."""

    def command(route: Route) -> list[str]:
        lines = []
        for repository, tags in route.tags.items():
            for tag in tags:
                one = replace(route, tags={repository: [tag]})
                lines.append(f" {shlex.join(copy(one))}")
        file = route.scratch / "commands"
        file.write_text("\n".join(f"exec {line}" for line in lines[1:]))
        return _script(route, lines[0], f"xargs -a {file} -r -d '\\n' -P {AT_ONCE} -n 1 /bin/sh -c")

    return command


def _one(route: Route) -> tuple[str, str]:
    (ends,) = route.references
    return ends


def _environment(route: Route, **variables: str) -> list[str]:
    """Variables of a program in Go: the authorities to trust, and Docker's logins, of which it has no others."""
    directory = route.scratch / "docker"
    if not directory.is_dir():
        directory.mkdir()
        logins = {
            host: {"auth": base64.b64encode(":".join(login).encode()).decode()} for host, login in route.logins.items()
        }
        _write(directory / "config.json", {"auths": logins})
    trust = {"SSL_CERT_FILE": str(route.ca)} if route.ca else {}
    return ["env", *(f"{name}={value}" for name, value in {"DOCKER_CONFIG": directory, **trust, **variables}.items())]


def _ca_directory(route: Route) -> Path:
    """A directory with the authority alone, as skopeo wants it."""
    assert route.ca is not None
    directory = route.scratch / "certificates"
    if not directory.is_dir():
        directory.mkdir()
        shutil.copy(route.ca, directory / "ca.crt")
    return directory


def _script(route: Route, *lines: str) -> list[str]:
    script = route.scratch / "all.sh"
    script.write_text("\n".join(["set -eu", *lines]))
    return ["/bin/sh", str(script)]


def _write(file: Path, content: dict[str, Any]) -> Path:
    file.write_text(json.dumps(content))
    return file
