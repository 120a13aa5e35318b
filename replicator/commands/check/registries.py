"""Probes of registries: the way there, the login, the lists, one manifest, the permission to push.

Whose certificate a registry shows, and until when it is valid.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from replicator.commands.check.findings import Finding, FindingState, clock_complaint, parse_date
from replicator.harbor import HarborApi
from replicator.reference import Reference, Repository
from replicator.registry.connection import Request, explicit_base, tls_of
from replicator.registry.errors import Denied, NotFound, RegistryError, Unauthorized
from replicator.registry.manifest import ACCEPT
from replicator.replication.advice import explained, may_lack_repository

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from replicator.registry import Access, Registries
    from replicator.rules import Narrowing, Rules
    from replicator.rules.request import CopyRequest, Source

_NEEDED = "a robot account of Harbor needs: list and pull repository, list and read artifact, list tag"


async def log_in(registries: Registries, repository: Repository, *, anonymous: bool) -> list[Finding]:
    """Reach a host under the login for ``repository``: name, connection, TLS, login and clock.

    Args:
        registries: the way there.
        repository: one that the login is for.
        anonymous: whether there is none; to be asked for one is no failure then.

    Raises:
        RegistryError: the host can't be reached, or refuses the login.
    """
    host = repository.registry
    transport = registries.transport(repository)
    try:
        reply = await transport.call(Request("GET", await transport.url("/v2/")), expect={200})
    except Unauthorized:
        if not anonymous:
            raise
        return [Finding("login", host, FindingState.OK, "reached, without a login")]
    found = [
        Finding("login", host, FindingState.OK, "reached, without a login" if anonymous else "reached and logged in")
    ]
    date = parse_date(reply.headers.get("Date"))
    complaint = (
        clock_complaint(date, datetime.now(UTC), host, "logins and TLS fail by that") if date is not None else None
    )
    if complaint is not None:
        found.append(Finding("clock", host, FindingState.FAILED, complaint))
    return found


async def look_for(
    registries: Registries, rules: Rules, narrowing: Narrowing, source: Source
) -> tuple[list[Finding], list[CopyRequest]]:
    """List until something matches, and ask for one manifest by HEAD, which counts as no pull.

    Args:
        registries: the way there.
        rules: say what is copied where.
        narrowing: what is meant of that.
        source: one of those that the narrowing names.

    Returns:
        What was found, and the copies of the tag that matched, if there was one.

    Raises:
        RegistryError: a list or the manifest is refused, or there was no answer.
    """
    subject = _name(source)
    async with aclosing(_repositories(registries, source)) as repositories:
        async for repository in repositories:
            tags = [tag async for tag in registries.source(repository).tags()] if source.needs_tags else []
            requests = [
                asked.request
                for asked in rules.asked(repository, tags)
                if asked.rules.intersection(source.rules) and narrowing.takes(asked)
            ]
            if requests:
                first = requests[0].source
                found = [await _manifest(registries, first)]
                return (
                    [Finding("list", subject, FindingState.OK, f"matches {first}"), *found],
                    [request for request in requests if request.source == first],
                )
    message = "nothing matches: check the rule's names and tags, and whether the login sees the project"
    return [Finding("list", subject, FindingState.FAILED, message)], []


async def _repositories(registries: Registries, source: Source) -> AsyncGenerator[Repository, None]:
    if source.repository is not None:
        yield source.repository
        return
    try:
        async with aclosing(_listed(registries, source)) as repositories:
            async for repository in repositories:
                yield repository
    except RegistryError as error:
        error.add_note(_NEEDED)
        raise


async def _listed(registries: Registries, source: Source) -> AsyncGenerator[Repository, None]:
    def api(project: str) -> HarborApi:
        return HarborApi(source.registry, registries.transport(Repository(source.registry, project)))

    projects = [source.project] if source.project is not None else [name async for name in api("x").projects()]
    for project in projects:
        async with aclosing(api(f"{project}/x").repositories(project)) as rows:
            async for row in rows:
                if source.includes(row.repository.name):
                    yield row.repository


async def _manifest(registries: Registries, image: Reference) -> Finding:
    transport = registries.transport(image.repository)
    url = await transport.url(f"/v2/{image.repository.name}/manifests/{image.identifier}")
    scopes = frozenset({f"repository:{image.repository.name}:pull"})
    try:
        await transport.call(Request("HEAD", url, scopes, {"Accept": ACCEPT}), expect={200})
    except NotFound:
        return Finding("pull", str(image), FindingState.FAILED, "is not there: check the name in the rule")
    except RegistryError as error:
        return Finding("pull", str(image), FindingState.FAILED, explained(error))
    return Finding("pull", str(image), FindingState.OK, "may be read")


async def try_push(registries: Registries, destination: Reference) -> list[Finding]:
    """Open an upload at a destination and cancel it; nothing is sent, and no repository is created by the OpenAPI."""
    subject = str(destination.repository)
    try:
        location = await registries.destination(destination.repository).start_upload()
    except RegistryError as error:
        if registries.creates(destination.repository) and may_lack_repository(error, destination.repository):
            message = f"{error}; if the repository is not there, the first copy creates it"
            return [Finding("push", subject, FindingState.NOT_TRIED, message)]
        return [Finding("push", subject, FindingState.FAILED, explained(error, destination))]
    message = "may be pushed to"
    if location is not None:
        scopes = frozenset({f"repository:{destination.repository.name}:pull,push"})
        try:
            transport = registries.transport(destination.repository)
            await transport.call(Request("DELETE", location, scopes), expect={200, 202, 204}, attempts=1)
        except RegistryError:
            message += "; the upload that was opened for this could not be cancelled, and is left to the registry"
    return [Finding("push", subject, FindingState.OK, message)]


async def look_at_artifacts(registries: Registries, repository: Repository, *, whole: bool) -> list[Finding]:
    """Tell which list a backfill reads the tags of a Harbor's repository from.

    Args:
        registries: the way there.
        repository: one in a project.
        whole: whether a pattern led to it: then the list of the whole project is the first choice.

    Raises:
        RegistryError: there was no answer, or none that Harbor gives.
    """
    project = repository.name.partition("/")[0]
    subject = f"{repository.registry}/{project}"
    api = HarborApi(repository.registry, registries.transport(repository))
    try:
        if whole:
            try:
                await _first(api.artifacts_of_project(project))
            except NotFound:
                await _first(api.artifacts(repository))
                message = "listed repository by repository, with digests; Harbor 2.12 and later lists a whole project"
                return [Finding("artifacts", subject, FindingState.OK, message)]
            return [Finding("artifacts", subject, FindingState.OK, "listed for the whole project, with digests")]
        await _first(api.artifacts(repository))
    except (Denied, Unauthorized):
        message = (
            "the login lacks artifact:list (Artifact: List): a backfill lists the tags of each repository by "
            "themselves, and asks for the digest of each"
        )
        return [Finding("artifacts", subject, FindingState.NOT_TRIED, message)]
    return [Finding("artifacts", subject, FindingState.OK, "listed repository by repository, with digests")]


async def _first(pages: AsyncGenerator[Any, None]) -> None:
    async with aclosing(pages):
        await anext(pages, None)


def _name(source: Source) -> str:
    return str(source.repository) if source.repository is not None else f"{source.registry}/{source.glob}"


_SOON = timedelta(days=30)


async def look_at_certificate(registry: str, access: Access) -> list[Finding]:
    """Tell of a certificate that was verified; of plain HTTP, and where nothing is verified, there is none to tell of.

    Args:
        registry: the host the rules name, known to answer.
        access: how it is reached.
    """
    base = explicit_base(registry, access)
    tls = tls_of(access)
    if base is None or base.scheme != "https" or tls is False:
        return []
    context = tls if isinstance(tls, ssl.SSLContext) else ssl.create_default_context()
    try:
        _, writer = await asyncio.open_connection(base.host, base.port, ssl=context)
    except OSError:
        return [Finding("certificate", registry, FindingState.NOT_TRIED, "no second connection to look at it")]
    try:
        certificate = writer.get_extra_info("peercert")
    finally:
        writer.transport.abort()
    return [Finding("certificate", registry, FindingState.OK, certificate_words(certificate, datetime.now(UTC)))]


def certificate_words(certificate: Mapping[str, Any], now: datetime) -> str:
    """Say who issued a certificate, and when it ends if that is within 30 days.

    Args:
        certificate: as `ssl.SSLSocket.getpeercert` gives it.
        now: the moment to count from, UTC.
    """
    issuer = {name: value for part in certificate.get("issuer", ()) for name, value in part}
    whose = f"issued by {issuer.get('organizationName') or issuer.get('commonName') or 'nobody it names'}"
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate["notAfter"]), UTC)
    return whose if ends - now > _SOON else f"{whose}, ends on {ends:%Y-%m-%d}: renew it before"
