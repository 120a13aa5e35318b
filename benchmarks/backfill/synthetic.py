"""A Harbor and a destination that store nothing: ``python -m benchmarks.backfill.synthetic REPOSITORIES TAGS``.

It is a process of its own, so that what it takes counts for nobody. It prints a line of JSON with its two hosts and
runs until its input ends. Every answer is made from the numbers alone: a tag's manifest names a config and a layer that
nobody ever asks for. The destination holds everything in the namespaces that `PROJECTS` names, and nothing elsewhere;
it takes no writes. ``/counts`` at either host says what that host was asked, of its API and of its registry.
"""

from __future__ import annotations

import asyncio
import bisect
import hashlib
import json
import sys
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import aiohttp
import uvloop
from aiohttp import web

from benchmarks.backfill.content import PROJECTS, names
from benchmarks.kinds import is_api
from benchmarks.kinds import kind as kind_of
from benchmarks.measuring import RunFailed
from replicator.registry.manifest import OCI_MANIFEST
from tests.running import environment
from tests.standins.faults import Entry
from tests.standins.server import serve
from tests.standins.tokens import Route, errors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

_PROJECT_OF = {namespace: project for project, namespace in PROJECTS.items()}
_PUSHED = "2026-01-01T00:00:00.000Z"
_API = "/api/v2.0/"
_MAX_PAGE = 100
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_BLOB_SIZE = 500

_Row = TypeVar("_Row")


@dataclass(frozen=True, slots=True)
class Hosts:
    """Where the two listen.

    Attributes:
        harbor: ``127.0.0.1:PORT``.
        destination: ``127.0.0.1:PORT``.
    """

    harbor: str
    destination: str


def manifest(repository: str, tag: str) -> bytes:
    """Make the manifest of a tag of Harbor's: different ones for all tags of all repositories."""
    blobs = [
        {"mediaType": kind, "digest": _sha256(f"{repository}:{tag} {kind}".encode()), "size": _BLOB_SIZE}
        for kind in (_CONFIG, _LAYER)
    ]
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": blobs[0], "layers": blobs[1:]}
    return json.dumps(document, separators=(",", ":")).encode()


class Registry:
    """``/v2/`` of a registry that holds these tags, and nobody has to log in to."""

    def __init__(self, held: Mapping[str, Sequence[str]]) -> None:
        self.held = held
        self.counts: dict[str, Counter[str]] = {"api": Counter(), "registry": Counter()}
        # The tag of each reference: of itself, and of the digest it names.
        self._tag = {
            repository: {reference: tag for tag in tags for reference in (tag, _sha256(manifest(repository, tag)))}
            for repository, tags in held.items()
        }

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer, and count."""
        if request.path == "/counts":
            return web.json_response(self.counts)
        response = self.answer(request)
        entry = Entry(request.method, request.path, request.query_string, request.headers.copy(), response.status)
        self.counts["api" if is_api(entry) else "registry"][kind_of(entry)] += 1
        return response

    def answer(self, request: web.BaseRequest) -> web.Response:
        """Answer a request."""
        if request.path == "/v2/":
            return web.json_response({})
        route = Route.parse(request.path)
        if route is None:
            return web.Response(status=404)
        if request.method not in ("GET", "HEAD"):
            return errors(405, "UNSUPPORTED", "nothing is taken here")
        repository = self.at_harbor(route.repository)
        if route.kind == "tags" and repository in self.held:
            return _tags(request, route.repository, self.held[repository])
        if route.kind == "manifests" and (tag := self._tag.get(repository, {}).get(route.rest)) is not None:
            return _manifest(request, repository, tag)
        return errors(404, f"{route.kind.removesuffix('s').upper()}_UNKNOWN", "not here")

    def at_harbor(self, repository: str) -> str:
        """Name the repository that a repository is at Harbor."""
        return repository


class Destination(Registry):
    """The registry to bring all to: it has all of it already, in the namespaces that are meant for it."""

    def at_harbor(self, repository: str) -> str:
        """Name the repository of Harbor that a repository is a copy of; nothing, where it is none."""
        namespace, _, name = repository.partition("/")
        return f"{_PROJECT_OF.get(namespace, '')}/{name}"


@dataclass(frozen=True, slots=True)
class _Tag:
    """A row of a list of artifacts."""

    number: int
    repository: str
    name: str


class Harbor(Registry):
    """The registry with the lists of Harbor's API beside it."""

    def __init__(self, held: Mapping[str, Sequence[str]]) -> None:
        super().__init__(held)
        self._of_repository: dict[str, list[_Tag]] = {}
        self._of_project: dict[str, list[_Tag]] = {project: [] for project in PROJECTS}
        number = 0
        for repository, tags in held.items():
            rows = [_Tag(number := number + 1, repository, tag) for tag in tags]
            self._of_repository[repository] = rows
            self._of_project[repository.partition("/")[0]] += rows

    def answer(self, request: web.BaseRequest) -> web.Response:
        """Answer a request."""
        if not request.path.startswith(_API):
            return super().answer(request)
        match request.path.removeprefix(_API).split("/"):
            case ["ping"]:
                return web.Response(text="Pong")
            case ["projects"]:
                return _page(request, [{"project_id": number, "name": name} for number, name in enumerate(PROJECTS, 1)])
            case ["projects", project, "repositories"] if project in PROJECTS:
                return _page(request, [name for name in self.held if name.startswith(f"{project}/")], self._repository)
            case ["projects", project, "artifacts"] if project in PROJECTS:
                return _page(request, self._of_project[project], _artifact)
            case ["projects", project, "repositories", name, "artifacts"] if f"{project}/{name}" in self.held:
                return _page(request, self._of_repository[f"{project}/{name}"], _artifact)
        return errors(404, "NOT_FOUND", "no such path")

    def _repository(self, name: str) -> dict[str, Any]:
        tags = self._of_repository[name]
        return {"id": tags[0].number, "name": name, "artifact_count": len(tags), "pull_count": 0}


def held(repositories: int, tags: int) -> dict[str, list[str]]:
    """Name so many tags in so many repositories, as evenly as it goes; sorted in each."""
    return {
        repository: [f"v{number:06}" for number in range(len(range(place, tags, repositories)))]
        for place, repository in enumerate(names(repositories))
    }


def _artifact(row: _Tag) -> dict[str, Any]:
    content = manifest(row.repository, row.name)
    return {
        "id": row.number,
        "type": "IMAGE",
        "media_type": _CONFIG,
        "manifest_media_type": OCI_MANIFEST,
        "digest": _sha256(content),
        "size": len(content) + 2 * _BLOB_SIZE,
        "push_time": _PUSHED,
        "repository_name": row.repository,
        "tags": [{"name": row.name, "artifact_id": row.number, "push_time": _PUSHED, "immutable": False}],
        "references": None,
        "accessories": None,
    }


def _page(
    request: web.BaseRequest, rows: Sequence[_Row], shown: Callable[[_Row], Any] = lambda row: row
) -> web.Response:
    """Answer the page that is asked for; the newest first, unless they are to be sorted by ``id``."""
    page, size = int(request.query.get("page", "1")), int(request.query.get("page_size", "10"))
    if page < 1 or not 0 < size <= _MAX_PAGE:
        return errors(422, "UNPROCESSABLE_ENTITY", "no such page")
    ordered = rows if request.query.get("sort") == "id" else rows[::-1]
    return web.json_response(
        [shown(row) for row in ordered[(page - 1) * size : page * size]], headers={"X-Total-Count": str(len(rows))}
    )


def _tags(request: web.BaseRequest, repository: str, tags: Sequence[str]) -> web.Response:
    last = request.query.get("last")
    start = bisect.bisect_right(tags, last) if last is not None else 0
    number = int(request.query.get("n", len(tags)))
    page = tags[start : start + number]
    headers = {}
    if start + number < len(tags):
        headers["Link"] = f'</v2/{repository}/tags/list?n={number}&last={page[-1]}>; rel="next"'
    return web.json_response({"name": repository, "tags": page}, headers=headers)


def _manifest(request: web.BaseRequest, repository: str, tag: str) -> web.Response:
    content = manifest(repository, tag)
    headers = {
        "Content-Type": OCI_MANIFEST,
        "Docker-Content-Digest": _sha256(content),
        "Content-Length": str(len(content)),
    }
    return web.Response(headers=headers, body=content if request.method == "GET" else None)


def _sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@asynccontextmanager
async def served(repositories: int, tags: int) -> AsyncIterator[Hosts]:
    """Have both run in a process of their own for as long as the context lasts."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__, str(repositories), str(tags)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        line = await process.stdout.readline()
        if not line:
            raise RunFailed("the synthetic Harbor did not start")
        yield Hosts(**json.loads(line))
    finally:
        process.stdin.close()
        await process.wait()


async def counts(host: str) -> tuple[Counter[str], Counter[str]]:
    """Ask what a host was asked, of its API and of its registry."""
    async with aiohttp.request("GET", f"http://{host}/counts") as answer:
        answer.raise_for_status()
        found = await answer.json()
    return Counter(found["api"]), Counter(found["registry"])


async def main(repositories: int, tags: int) -> None:
    """Serve until the input ends."""
    everything = held(repositories, tags)
    async with serve(Harbor(everything)) as harbor, serve(Destination(everything)) as destination:
        print(json.dumps(asdict(Hosts(harbor, destination))), flush=True)
        await asyncio.to_thread(sys.stdin.buffer.read)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(*map(int, sys.argv[1:3])))
