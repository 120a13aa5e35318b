"""The fuzz targets: every parser of outside input, and its promise for any input."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from replicator.commands.convert import File, Options, Program, convert_files
from replicator.errors import ConfigError, ReplicatorError
from replicator.harbor.events import MalformedEvent, parse_event
from replicator.harbor.lists import artifact_of, project_of, repository_of
from replicator.networks import Networks
from replicator.queue.job import decode_job
from replicator.reference import Reference, is_repository_name, is_tag
from replicator.registry.connection import Reply, resolve
from replicator.registry.connection_errors import from_answer
from replicator.registry.docker_config import parse_config
from replicator.registry.errors import ProtocolViolated
from replicator.registry.manifest import MAX_MANIFEST_BYTES, parse_manifest, refuse_foreign_type
from replicator.registry.manifests import next_page
from replicator.registry.token_endpoint import lacks_scope, parse_challenges
from replicator.replication.attestation import check
from replicator.replication.signing import envelope, open_signing_key
from replicator.retry import parse_retry_after
from replicator.rules import CopyRequest, TagFilter, parse
from replicator.schedule import parse_duration, parse_schedule
from tests.fuzz import corpus

if TYPE_CHECKING:
    from collections.abc import Callable

    from replicator.replication.signing import SigningKey

HOST = "h.example.com"
BASE = URL(f"https://{HOST}/v2/a/tags/list")
DIGEST = f"sha256:{'a' * 64}"
SAMPLES = tuple(
    Reference.parse(f"harbor.example.com/{name}")
    for name in ("team/app:v1", "team/app/x:latest", f"library/a@{DIGEST}")
)


@dataclass(frozen=True, slots=True)
class Target:
    """A parser.

    Attributes:
        seeds: valid inputs.
        attempt: gives it an input; an exception of `refusals` is an answer, and any other a finding.
        refusals: the documented errors.
    """

    seeds: tuple[str, ...]
    attempt: Callable[[str], None]
    refusals: tuple[type[Exception], ...] = ()


def encoded(text: str) -> bytes:
    """An input as bytes; what is half a surrogate pair becomes bytes that are no UTF-8."""
    return text.encode("utf-8", "surrogatepass")


def _events(text: str) -> None:
    event = parse_event(encoded(text))
    assert event.type.isprintable()
    for push in event.pushes:
        assert is_repository_name(push.repository)
        assert push.tag is None or is_tag(push.tag)
        assert push.tag or push.digest


def _references(text: str) -> None:
    assert str(Reference.parse(text)) == text


def _rules(text: str) -> None:
    rules = parse(text, "rules", environ={"X": "x"})
    for sample in SAMPLES:
        for request in rules.destinations(sample):
            assert request.destination.registry in rules.hosts
            assert CopyRequest.from_json(json.loads(json.dumps(request.to_json()))) == request
        rules.explain(sample)


def _challenges(text: str) -> None:
    headers = text.split("\n")
    assert lacks_scope(headers) in (True, False)
    for challenge in parse_challenges(headers):
        assert challenge.scheme
        assert all(challenge.parameters)


def _links(text: str) -> None:
    headers = text.split("\n")
    found = next_page(Reply(200, CIMultiDictProxy(CIMultiDict([("Link", one) for one in headers])), b"", BASE))
    if found is not None:
        with contextlib.suppress(ProtocolViolated):
            target = resolve(BASE, found)
            assert target.scheme in ("http", "https")
            assert target.host
    seconds = parse_retry_after(text)
    assert seconds is None or seconds >= 0


def _manifests(text: str) -> None:
    content_type, _, body = text.partition("\n")
    try:
        refuse_foreign_type(content_type)
        manifest = parse_manifest(encoded(body), content_type, DIGEST)
    except ValueError as error:
        if not str(error).isprintable():
            raise AssertionError(error) from error
        raise
    assert not (manifest.manifests and manifest.blobs)
    assert len(manifest.content) <= MAX_MANIFEST_BYTES


def _docker(text: str) -> None:
    config = parse_config(text)
    assert all(config.logins)
    config.find("registry.example.com/team/app")


def _converts(program: Program) -> Callable[[str], None]:
    # A file of regsync names every target itself, and so does a policy of Harbor.
    registry, namespace = (None, None) if program in ("regsync", "harbor") else ("r.example.com", "n")
    options = Options(registry, namespace, harbor="harbor.example.com", environ={"X": "x"})

    def attempt(text: str) -> None:
        converted = convert_files([File("images.yaml", text)], options, program)
        parse(converted.text, "converted", environ=dict.fromkeys((*converted.variables, "X"), "x"))

    return attempt


def _answers(text: str) -> None:
    error = from_answer(400, encoded(text)).at(HOST, "GET /")
    assert str(error).isprintable()
    assert len(str(error)) < 600


def _jobs(text: str) -> None:
    job = decode_job(encoded(text))
    CopyRequest.from_json(job.payload)


def _rows(text: str) -> None:
    # Who reads a page refuses what is no list in JSON; here that is whatever goes wrong before a row.
    for row in json.loads(text):
        if isinstance(row, dict):
            artifact = artifact_of(row, HOST, "team")
            assert artifact is None or all(is_tag(tag.name) for tag in artifact.tags)
            repository_of(row, HOST, "team")
            project_of(row)


def _settings(text: str) -> None:
    refused: list[ValueError] = []
    for read in (parse_duration, parse_schedule, Networks):
        try:
            read(text)
        except ValueError as error:
            refused.append(error)
    if len(refused) == 3:
        raise refused[0]


def _filters(text: str) -> None:
    tags = TagFilter.from_json(json.loads(text))
    tags.select(["v1.2.3", "latest", "1.10", f"sha256-{'a' * 64}.sig"])


class _Memory:
    """A file in memory, as far as a check reads one."""

    def __init__(self, text: str) -> None:
        self._content = encoded(text)

    def open(self, _: str) -> io.BytesIO:
        return io.BytesIO(self._content)


@cache
def _key() -> SigningKey:
    with tempfile.TemporaryDirectory() as directory:
        return open_signing_key(Path(directory, "a.key"))


def _attested(text: str) -> None:
    """A file that was damaged after it was signed is never taken for genuine."""
    whole = "".join(f"{row}\n" for row in corpus.ATTESTED_ROWS)
    last = f"{envelope(corpus.STATEMENT.encode(), _key())}\n"
    file = cast("Path", _Memory(text.replace(corpus.ENVELOPE, last)))
    try:
        check(file, _key().public)
    except ReplicatorError as error:
        if not str(error).isprintable() or text == whole + corpus.ENVELOPE:
            raise AssertionError(error) from error
        raise
    assert text.partition(corpus.ENVELOPE)[0] == whole, "a changed row went unnoticed"


def _statements(text: str) -> None:
    """A statement of any content, under a genuine signature, is a comparison with these rows or refused."""
    rows = "".join(f"{row}\n" for row in corpus.ATTESTED_ROWS)
    file = _Memory(f"{rows}{envelope(encoded(text), _key())}\n")
    try:
        found = check(cast("Path", file), _key().public)
    except ReplicatorError as error:
        if not str(error).isprintable():
            raise AssertionError(error) from error
        raise
    assert found.rows == len(corpus.ATTESTED_ROWS)
    assert found.is_equal in (True, False)


TARGETS = {
    "attestations": Target((corpus.ATTESTATION,), _attested, (ReplicatorError,)),
    "statements": Target((corpus.STATEMENT,), _statements, (ReplicatorError,)),
    "events": Target(corpus.EVENTS, _events, (MalformedEvent,)),
    "references": Target(corpus.REFERENCES, _references, (ValueError,)),
    "rules": Target(corpus.RULES, _rules, (ConfigError,)),
    "challenges": Target(corpus.CHALLENGES, _challenges),
    "links": Target(corpus.LINKS, _links),
    "manifests": Target(corpus.MANIFESTS, _manifests, (ValueError,)),
    "docker": Target(corpus.DOCKER, _docker, (ValueError,)),
    "convert image-syncer": Target(corpus.IMAGE_SYNCER, _converts("image-syncer"), (ConfigError,)),
    "convert regsync": Target(corpus.REGSYNC, _converts("regsync"), (ConfigError,)),
    "convert skopeo": Target(corpus.SKOPEO, _converts("skopeo"), (ConfigError,)),
    "convert harbor": Target(corpus.POLICIES, _converts("harbor"), (ConfigError,)),
    "answers": Target(corpus.ANSWERS, _answers),
    "jobs": Target(corpus.JOBS, _jobs, (ValueError,)),
    "rows": Target(corpus.ROWS, _rows, (ValueError, TypeError, RecursionError)),
    "settings": Target(corpus.SETTINGS, _settings, (ValueError,)),
    "filters": Target(corpus.FILTERS, _filters, (ValueError, RecursionError)),
}
