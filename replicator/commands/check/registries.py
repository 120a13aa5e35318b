"""Probes of registries: connection, login, certificate, lists, one manifest, and the permission to push."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from replicator.aliyun.acr import EDITIONS
from replicator.commands.check.findings import Finding, FindingState, clock_problem, parse_date
from replicator.copy.options import Public
from replicator.harbor import HarborApi
from replicator.harbor.api import narrow_login
from replicator.queue import PublicAnswer
from replicator.reference import Reference, Repository
from replicator.registry.connection import Request, explicit_base, route, tls_of
from replicator.registry.errors import Denied, NotFound, ProxyFailed, RegistryError, Unauthorized
from replicator.registry.manifest import ACCEPT
from replicator.registry.proxies import connect
from replicator.replication.advice import close_to_anyone, explained, may_lack_repository
from replicator.replication.listing import Listing
from replicator.replication.publicity import compare_ends, judge_source
from replicator.replication.repositories import QuotaCount, WantedRepository, name_warnings
from replicator.replication.tag_lists import LabelsUnknown, read_labels

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from replicator.registry import Access, Registries
    from replicator.registry.proxies import Proxies
    from replicator.rules import Narrowing, Rules
    from replicator.rules.request import CopyRequest, Source

_NEEDED = "a robot account of Harbor needs repository:list, repository:pull and artifact:list"
_MAX_NAMED = 10
_MOST_FOUND = 20
"""Collisions, and names that a destination can't have, that are named."""
COLLISION_SECONDS = 60.0
"""Time for the lists of repositories and tags that may collide; those of a large Harbor take hundreds of requests."""
_SOON = timedelta(days=30)
"""Remaining validity below which a certificate should be renewed."""


async def log_in(registries: Registries, repository: Repository, *, anonymous: bool) -> list[Finding]:
    """Check name, connection, TLS, login and clock of a registry.

    Args:
        registries: the client.
        repository: any repository that the login is for.
        anonymous: without a login a 401 is no failure: single repositories may still be public.

    Raises:
        RegistryError: the host can't be reached, or refuses the login.
    """
    host = repository.registry
    transport = registries.transport(repository)
    try:
        reply = await transport.call(Request("GET", await transport.url("/v2/")), expect={200})
    except (Denied, Unauthorized):
        if not anonymous:
            raise
        return [Finding("login", host, FindingState.OK, "reachable, without a login")]
    found = [
        Finding("login", host, FindingState.OK, "reachable, without a login" if anonymous else "reachable, logged in")
    ]
    if (known := EDITIONS.find(host)) is not None:
        found.append(Finding("edition", host, FindingState.OK, str(known)))
    date = parse_date(reply.headers.get("Date"))
    problem = clock_problem(date, datetime.now(UTC), host, "logins and TLS fail") if date is not None else None
    if problem is not None:
        found.append(Finding("clock", host, FindingState.FAILED, problem))
    return found


async def look_at_projects(registries: Registries, rules: Rules, source: Source) -> list[Finding]:
    """Tell which projects the login of a pattern over projects sees.

    Raises:
        RegistryError: the list is refused, or there is no answer.
    """
    place = Repository(source.registry, "x")
    names = [
        name
        async for name in HarborApi(source.registry, registries.transport(place)).projects()
        if source.may_be_in(name)
    ]
    access = rules.credentials(place)
    narrow = narrow_login(access.username if access is not None else None)
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    message = f"the login sees {len(names)} ({', '.join(names[:_MAX_NAMED])}{more})" if names else "the login sees none"
    return [Finding("projects", _name(source), FindingState.OK, f"{message}; {narrow}" if narrow else message)]


async def look_for(
    registries: Registries, rules: Rules, narrowing: Narrowing, source: Source
) -> tuple[list[Finding], list[CopyRequest]]:
    """List a source until a tag matches, and check its manifest by HEAD, which does not count as a pull.

    Returns:
        The findings, and the copies of the first tag that matches, if any.

    Raises:
        RegistryError: a list or the manifest is refused, or there is no answer.
    """
    subject = _name(source)
    async with aclosing(_repositories(registries, source)) as repositories:
        async for repository in repositories:
            if rules.route(repository).labels:
                try:
                    infos = await read_labels(registries, repository)
                except LabelsUnknown as error:
                    return [Finding("list", subject, FindingState.FAILED, explained(error).stored)], []
                asked_of = rules.asked(repository, infos, {tag: info.labels for tag, info in infos.items()})
            else:
                names = [tag async for tag in registries.source(repository).tags()] if source.needs_tags else []
                asked_of = rules.asked(repository, names)
            requests = [
                asked.request for asked in asked_of if asked.rules.intersection(source.rules) and narrowing.takes(asked)
            ]
            if requests:
                sound = [request for request in requests if request.problem is None]
                if not sound:
                    words = f"matches {requests[0].source}, but {requests[0].problem}"
                    return [Finding("list", subject, FindingState.FAILED, words)], []
                first = sound[0].source
                found = [await _manifest(registries, first)]
                return (
                    [Finding("list", subject, FindingState.OK, f"matches {first}"), *found],
                    [request for request in sound if request.source == first],
                )
    if source.repository is None and source.project is not None and await _is_empty(registries, source):
        message = f"project {source.project} has no repository yet: push an image, then check again"
        return [Finding("list", subject, FindingState.NOT_TRIED, message)], []
    message = "no image matches: check names and tags in the rule, and whether the login can see the project"
    return [Finding("list", subject, FindingState.FAILED, message)], []


async def _is_empty(registries: Registries, source: Source) -> bool:
    """Tell whether the project of a pattern has no repository at all, which is no mistake of the rule."""
    place = Repository(source.registry, f"{source.project}/x")
    async with aclosing(HarborApi(source.registry, registries.transport(place)).repositories(place.name[:-2])) as rows:
        return await anext(rows, None) is None


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
    for project in filter(source.may_be_in, projects):
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
        return Finding("pull", str(image), FindingState.FAILED, "does not exist: check the name in the rule")
    except RegistryError as error:
        return Finding("pull", str(image), FindingState.FAILED, explained(error).stored)
    return Finding("pull", str(image), FindingState.OK, "can be pulled")


async def try_push(registries: Registries, destination: Reference) -> list[Finding]:
    """Start an upload at a destination and cancel it; no data is sent, and no repository created by the OpenAPI."""
    subject = str(destination.repository)
    try:
        location = await registries.destination(destination.repository).start_upload()
    except RegistryError as error:
        if registries.creates(destination.repository) and may_lack_repository(error, destination.repository):
            message = f"{error}; if the repository is missing, the first copy creates it"
            return [Finding("push", subject, FindingState.NOT_TRIED, message)]
        return [Finding("push", subject, FindingState.FAILED, explained(error, destination).stored)]
    message = "can be pushed to"
    if location is not None:
        scopes = frozenset({f"repository:{destination.repository.name}:pull,push"})
        try:
            transport = registries.transport(destination.repository)
            await transport.call(Request("DELETE", location, scopes), expect={200, 202, 204}, attempts=1)
        except RegistryError:
            message += "; the upload of this check could not be cancelled, the registry will expire it"
    return [Finding("push", subject, FindingState.OK, message)]


async def look_at_both_ends(registries: Registries, request: CopyRequest) -> list[Finding]:
    """Check whether anyone may pull at its destination what is private at its source."""
    source, destination, subject = request.source, request.destination, str(request.destination.repository)
    held = await registries.destination(destination.repository).head_destination(destination.identifier)
    if held is not None:
        answer = await compare_ends(registries, source, destination)
    elif (is_public := await registries.is_public(destination.repository)) is not None:
        answer = await judge_source(registries, source) if is_public else PublicAnswer.FINE
    else:
        # A request without a login would be refused, whatever the repository will be.
        message = "there is no image yet: the first copy shows whether anyone may pull a private image here"
        return [Finding("public", subject, FindingState.NOT_TRIED, message)]
    if answer is PublicAnswer.UNKNOWN:
        message = "the source or the destination gives no clear answer to an anonymous request"
        return [Finding("public", subject, FindingState.NOT_TRIED, message)]
    if answer is not PublicAnswer.PUBLIC:
        return [Finding("public", subject, FindingState.OK, "not public, or public at the source too")]
    message = f"{source.repository} is private, and anyone may pull it here"
    if request.options.public is Public.ALLOW:
        return [Finding("public", subject, FindingState.OK, f"{message}, as the rule allows")]
    state, refused = FindingState.WARNING, ""
    if request.options.public is Public.REFUSE:
        state, refused = FindingState.FAILED, ", so the rule refuses its copies"
    remedy = close_to_anyone(str(request.destination))
    return [Finding("public", subject, state, f"{message}{refused}: {remedy}")]


async def look_at_artifacts(registries: Registries, repository: Repository, *, whole: bool) -> list[Finding]:
    """Check which of Harbor's lists a backfill can read tags from.

    Args:
        registries: the client.
        repository: a repository of the project.
        whole: prefer the list of the whole project, as for a rule with a pattern.

    Raises:
        RegistryError: there is no answer, or not one of Harbor.
    """
    project = repository.name.partition("/")[0]
    subject = f"{repository.registry}/{project}"
    api = HarborApi(repository.registry, registries.transport(repository))
    try:
        if whole and not registries.is_anonymous(repository):
            try:
                await _first(api.artifacts_of_project(project))
            except NotFound:
                await _first(api.artifacts(repository))
                message = "listed per repository, with digests; Harbor 2.12 and later can list a whole project"
                return [Finding("artifacts", subject, FindingState.OK, message)]
            return [Finding("artifacts", subject, FindingState.OK, "listed for the whole project, with digests")]
        await _first(api.artifacts(repository))
    except (Denied, Unauthorized):
        message = (
            "the login lacks artifact:list (Artifact: List), so a backfill needs one more request per tag for its "
            "digest"
        )
        return [Finding("artifacts", subject, FindingState.NOT_TRIED, message)]
    more = "; with a login, Harbor 2.12 and later can list a whole project" if whole else ""
    return [Finding("artifacts", subject, FindingState.OK, f"listed per repository, with digests{more}")]


async def _first(pages: AsyncGenerator[Any, None]) -> None:
    async with aclosing(pages):
        await anext(pages, None)


def _name(source: Source) -> str:
    return str(source.repository) if source.repository is not None else f"{source.registry}/{source.glob}"


async def look_at_destinations(registries: Registries, rules: Rules, narrowing: Narrowing) -> list[Finding]:
    """Report names that ACR can't hold, quotas that do not suffice, and tags where sources collide.

    The repositories are listed only where a destination at ACR or a collision depends on them.
    """
    found: list[Finding] = []
    seconds, listing = COLLISION_SECONDS, Listing(rules, registries, narrowing)
    try:
        async with asyncio.timeout(seconds):
            if rules.may_collide or rules.finds_names_for_acr:
                wanted = await listing.repositories()
            else:
                sources = (source.repository for source in narrowing.sources())
                wanted = [WantedRepository(source, named=True) for source in sources if source is not None]
            found += [*_judge_names(rules, wanted), *_judge_quotas(rules, wanted)]
            collisions = await _find_collisions(listing, wanted)
    except TimeoutError:
        message = f"not all lists were read within {seconds:g} s: backfill --dry-run finds every such problem"
        return [*found, Finding("collision", "all rules", FindingState.NOT_TRIED, message)]
    if not collisions and rules.may_collide and listing.incomplete:
        message = "skipped: not all lists could be read"
        collisions = [Finding("collision", "all rules", FindingState.NOT_TRIED, message)]
    elif not collisions and rules.may_collide:
        collisions = [Finding("collision", "all rules", FindingState.OK, "no two sources go to one destination tag")]
    return found + collisions


async def _find_collisions(listing: Listing, wanted: list[WantedRepository]) -> list[Finding]:
    found: list[Finding] = []
    async with aclosing(listing.collisions(wanted)) as collisions:
        async for collision in collisions:
            if len(found) == _MOST_FOUND:
                message = f"there are more than {_MOST_FOUND} collisions: backfill --dry-run lists all"
                return [*found, Finding("collision", "all rules", FindingState.FAILED, message)]
            sources = " and from ".join(map(str, collision.sources))
            message = f"would come from {sources}: give the sources different destinations"
            found.append(Finding("collision", str(collision.destination), FindingState.FAILED, message))
    return found


def _judge_names(rules: Rules, wanted: list[WantedRepository]) -> list[Finding]:
    """Report the sources whose destination can't have its name."""
    found = [
        Finding("name", str(each.repository), FindingState.FAILED, problem)
        for each in wanted
        for problem in rules.route(each.repository).problems
    ]
    if (more := len(found) - _MOST_FOUND) > 0:
        message = f"{more} more repositories have such names: backfill --dry-run lists all"
        found = [*found[:_MOST_FOUND], Finding("name", "all rules", FindingState.FAILED, message)]
    return found + [Finding("name", "all rules", FindingState.WARNING, text) for text in name_warnings(rules, wanted)]


def _judge_quotas(rules: Rules, wanted: list[WantedRepository]) -> list[Finding]:
    """Report the need of the rules at each account of ACR's Personal Edition; the other content there is not known."""
    quota = QuotaCount(rules)
    quota.add(wanted)
    found: list[Finding] = []
    for use in quota.uses.all():
        doubts: list[str] = []
        for certain, possible in (
            (use.too_many_namespaces, use.maybe_too_many_namespaces),
            (use.too_many_repositories, use.maybe_too_many_repositories),
        ):
            if certain is not None:
                doubts.append(certain)
            elif possible is not None:
                doubts.append(f"{possible}; backfill --dry-run counts those that have a matching tag")
        found += [Finding("quota", use.place, FindingState.WARNING, text) for text in doubts]
        if not doubts:
            found.append(Finding("quota", use.place, FindingState.OK, use.summary))
    return found


def look_at_route(registry: str, access: Access, proxies: Proxies) -> list[Finding]:
    """Report the proxy that a registry is reached by, or why it is reached directly; nothing if no proxy is named.

    Args:
        registry: a host.
        access: how to reach it.
        proxies: those of the environment.
    """
    words = route(registry, access, access.proxies or proxies)
    return [Finding("proxy", registry, FindingState.OK, words)] if words else []


async def look_at_certificate(registry: str, access: Access, proxies: Proxies) -> list[Finding]:
    """Report the verified certificate of a registry; nothing over plain HTTP or without verification.

    Args:
        registry: a host that is known to answer.
        access: how to reach it.
        proxies: those of the environment.
    """
    base = explicit_base(registry, access)
    tls = tls_of(access)
    if base is None or base.scheme != "https" or tls is False:
        return []
    context = tls if isinstance(tls, ssl.SSLContext) else ssl.create_default_context()
    try:
        writer = await connect(base, (access.proxies or proxies).find(base), context)
    except (OSError, ProxyFailed):
        return [Finding("certificate", registry, FindingState.NOT_TRIED, "a second connection, to read it, failed")]
    try:
        certificate = writer.get_extra_info("peercert")
    finally:
        writer.transport.abort()
    return [Finding("certificate", registry, FindingState.OK, certificate_words(certificate, datetime.now(UTC)))]


def certificate_words(certificate: Mapping[str, Any], now: datetime) -> str:
    """Name a certificate's issuer, and its end if that is within 30 days.

    Args:
        certificate: from `ssl.SSLSocket.getpeercert`.
        now: the present, UTC.
    """
    issuer = {name: value for part in certificate.get("issuer", ()) for name, value in part}
    issued = f"issued by {issuer.get('organizationName') or issuer.get('commonName') or 'an unnamed issuer'}"
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate["notAfter"]), UTC)
    return issued if ends - now > _SOON else f"{issued}, expires on {ends:%Y-%m-%d}: renew it before"
