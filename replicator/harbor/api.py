"""A client of Harbor's REST API."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from replicator.errors import ErrorClass, ErrorText, ReplicatorError
from replicator.harbor.lists import (
    ROWS_A_PAGE,
    Artifact,
    ListedRepository,
    ListPage,
    artifact_of,
    each_page,
    logged_repository_of,
    project_of,
    repository_of,
)
from replicator.reference import Repository, is_registry
from replicator.registry import Request
from replicator.registry.errors import (
    Denied,
    ForeignAnswer,
    NotFound,
    ProtocolViolated,
    Refused,
    RegistryError,
    Unauthorized,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection

    from replicator.registry.connection import Reply
    from replicator.registry.transport import Transport

_MAX_PAGE_BYTES = 8 * 1024 * 1024
_MAX_BODY = 1024 * 1024
_MAX_PONG_BYTES = 1024
_MAX_TRANSIENT = 3
"""Projects in a row for which a Harbor does not answer, before it is not asked about the others."""
# Without X-Is-Resource-Name, Harbor takes a project whose name is a number for the project with that id.
_HEADERS = {"Accept": "application/json", "X-Is-Resource-Name": "true"}
_ARTIFACTS = "&with_tag=true&with_accessory=true"
_LABELS = "&with_label=true"

SILENT = (
    "webhooks are switched off in the system settings of this Harbor, so it sends no events and images wait for the "
    "next sweep or reconcile; an administrator switches them on under Configuration, System Settings, Webhooks enabled"
)
"""Advice for a Harbor whose `SystemInfo.notifies` is False."""

_PROJECT_ROBOT = re.compile(r"[^$+]*\$(?P<project>[a-z0-9][a-z0-9._-]*)\+.+")
"""Name of a robot account that belongs to a project; that of one of the system has no ``+``."""


def narrow_login(username: str | None) -> str:
    """Say which projects a login can't see, as far as its name tells; empty if it does not.

    Harbor lists the projects of a robot account and the public ones, and tells it nothing of the others
    (``GET /projects``, ``GET /statistics``).
    """
    robot = _PROJECT_ROBOT.fullmatch(username or "")
    if robot is None:
        return ""
    return (
        f"{username} is a robot account of the project {robot['project']}, so it sees only the public ones "
        "of all other projects: use a system robot account that covers them"
    )


class NoHarbor(RegistryError):
    """The host is not a Harbor."""


@dataclass(frozen=True, slots=True)
class SystemInfo:
    """Harbor's system information (``GET /systeminfo``). Without a login it has none of these.

    Attributes:
        version: None if it is not said.
        notifies: False if its system settings switch webhooks off.
        names: the hosts by which it calls itself, in events and tokens; empty if it is not said.
    """

    version: str | None = None
    notifies: bool = True
    names: tuple[str, ...] = ()

    @classmethod
    def read(cls, document: Any) -> SystemInfo | None:
        """Read the answer; None if it is not one of Harbor's."""
        if not isinstance(document, dict) or "auth_mode" not in document:
            return None
        version = document.get("harbor_version")
        said = (document.get("registry_url"), document.get("external_url"))
        hosts = (text.rpartition("://")[2].partition("/")[0].lower() for text in said if isinstance(text, str))
        return cls(
            version if isinstance(version, str) else None,
            document.get("notification_enable") is not False,
            tuple(dict.fromkeys(host for host in hosts if is_registry(host))),
        )

    @property
    def release(self) -> tuple[int, int] | None:
        """The major and minor version; None if it is not said."""
        match = re.match(r"v?(\d{1,4})\.(\d{1,4})\b", self.version or "")
        return (int(match[1]), int(match[2])) if match else None


class HarborApi:
    """A client of one Harbor.

    Args:
        registry: the Harbor's host, as the rules name it.
        transport: sends the requests, with a login of the Harbor.
    """

    def __init__(self, registry: str, transport: Transport) -> None:
        self._registry = registry
        self._transport = transport

    async def is_harbor(self) -> bool:
        """Tell whether the host is a Harbor: its ``GET /ping`` answers ``Pong`` without a login.

        Raises:
            RegistryError: a transient error. Any other answer just means that it is not a Harbor.
        """
        try:
            url = await self._transport.url("/api/v2.0/ping")
            request = Request("GET", url, basic=True, anonymous=True)
            reply = await self._transport.call(request, expect={200}, max_body=_MAX_PONG_BYTES, patient=True)
        except RegistryError as error:
            if error.error_class is ErrorClass.TRANSIENT and not isinstance(error, ForeignAnswer):
                raise
            return False
        # A redirect to another host proves nothing about this one.
        answered_itself = (reply.url.host, reply.url.path) == (url.host, url.path)
        return answered_itself and reply.body.strip(b'"\r\n ') == b"Pong"

    async def projects(self) -> AsyncGenerator[str, None]:
        """List the names of all projects that the login can see (``GET /projects``).

        Raises:
            RegistryError: any other answer, or none; also from a registry that is not a Harbor.
        """
        async for page in self._named_pages("/projects", sort="project_id", key="project_id"):
            for row in page:
                name = project_of(row)
                if name is not None:
                    yield name

    async def repositories(self, project: str) -> AsyncGenerator[ListedRepository, None]:
        """List the repositories of a project (``GET /projects/{project}/repositories``).

        Raises:
            NotFound: the project does not exist, or the login can't see it.
            RegistryError: any other answer, or none; also from a registry that is not a Harbor.
        """
        async for page in self._named_pages(f"/projects/{project}/repositories", sort="repository_id", key="id"):
            for row in page:
                repository = repository_of(row, self._registry, project)
                if repository is not None:
                    yield repository

    async def changes(self, project: str) -> AsyncGenerator[list[ListedRepository], None]:
        """List the repositories of a project page by page, those with the latest change first.

        A repository that changes meanwhile may come twice. Before 2.15 Harbor counts no change of a tag.

        Raises:
            NotFound: the project does not exist, or the login can't see it.
            RegistryError: any other answer, or none.
        """
        path = f"/projects/{project}/repositories"
        async for rows in self._latest(path, "update_time"):
            found = (repository_of(row, self._registry, project) for row in rows)
            yield [each for each in found if each is not None]

    async def logged_changes(self, project: str) -> AsyncGenerator[list[ListedRepository], None]:
        """List the repositories of a project that its log says were changed, page by page, the latest change first.

        For a Harbor before 2.15. It takes a login with ``log:list``.

        Raises:
            RegistryError: any other answer, or none.
        """
        async for rows in self._latest(f"/projects/{project}/logs", "op_time"):
            found = (logged_repository_of(row, self._registry, project) for row in rows)
            yield [each for each in found if each is not None]

    async def system(self) -> SystemInfo | None:
        """Return Harbor's system information, which any login may read; None if the answer is not one of Harbor's.

        Raises:
            RegistryError: there is no such answer.
        """
        system = SystemInfo.read(await self.json("/systeminfo"))
        if system is not None and system.version is None:
            await self._transport.authorizer.doubt()
        return system

    async def is_user(self) -> bool:
        """Tell whether the login is a user; Harbor describes itself to users and to no robot account (412).

        The name alone does not tell: an administrator can change the prefix of robot accounts.

        Raises:
            RegistryError: it is neither, or there was no answer.
        """
        return (await self.call("GET", "/users/current", expect={200, 412})).status == 200

    async def artifacts_of_project(self, project: str, *, labels: bool = False) -> AsyncGenerator[list[Artifact], None]:
        """List the artifacts of all repositories of a project, page by page (``GET /projects/{project}/artifacts``).

        Raises:
            NotFound: Harbor is older than 2.12, where this list was added; or the project does not exist.
            RegistryError: any other answer, or none.
        """
        async for page in self.pages(f"/projects/{project}/artifacts", _ARTIFACTS + _LABELS * labels):
            found = (artifact_of(row, self._registry, project) for row in page)
            yield [artifact for artifact in found if artifact is not None]

    async def artifacts(
        self, repository: Repository, *, labels: bool = False, tag: str | None = None
    ) -> AsyncGenerator[list[Artifact], None]:
        """List a repository's artifacts, page by page (``GET /projects/{project}/repositories/{name}/artifacts``).

        Args:
            repository: the repository.
            labels: whether to ask for the labels too, which costs Harbor a look into its database for each artifact.
            tag: list only the artifact with this tag.

        Raises:
            NotFound: the repository does not exist.
            RegistryError: any other answer, or none.
        """
        project, _, name = repository.name.partition("/")
        # Harbor decodes the path before it splits it, so a slash in the name is encoded twice.
        path = f"/projects/{project}/repositories/{name.replace('/', '%252F')}/artifacts"
        query = _ARTIFACTS + _LABELS * labels + (f"&q=tags%3D{tag}" if tag is not None else "")
        async for page in self.pages(path, query):
            found = (artifact_of(row, self._registry, project, repository) for row in page)
            yield [artifact for artifact in found if artifact is not None]

    async def _named_pages(self, path: str, *, sort: str, key: str) -> AsyncGenerator[list[dict[str, Any]], None]:
        try:
            async for page in self.pages(path, sort=sort, key=key):
                yield page
        except NotFound as error:
            error.add_note("a pattern of repositories needs a Harbor, and a login that may list its repositories")
            raise

    def pages(
        self, path: str, query: str = "", *, sort: str = "id", key: str = "id"
    ) -> AsyncGenerator[list[dict[str, Any]], None]:
        """Read all pages of a list, sorted by the ids of its rows.

        Args:
            path: below ``/api/v2.0``, percent-encoded.
            query: further parameters, each after an ``&``; may be empty.
            sort: the column of the ids in Harbor's database. It differs by list, and Harbor ignores an unknown one.
            key: the id's key in a row.

        Raises:
            RegistryError: the answer is not such a list, or there is none.
        """

        def wrong(what: str) -> ProtocolViolated:
            return ProtocolViolated(what).at(self._registry, f"GET /api/v2.0{path}")

        async def fetch(number: int) -> ListPage:
            return await self._page(path, number, f"&sort={sort}{query}")

        return each_page(fetch, wrong, key)

    async def _latest(self, path: str, column: str) -> AsyncGenerator[list[dict[str, Any]], None]:
        """Read a list whose rows with the latest time come first, until the caller stops."""
        for number in itertools.count(1):
            page = await self._page(path, number, f"&sort=-{column}")
            yield page.rows
            if len(page.rows) < ROWS_A_PAGE:
                return

    async def _page(self, path: str, number: int, query: str) -> ListPage:
        reply = await self.call("GET", f"{path}?page={number}&page_size={ROWS_A_PAGE}{query}", max_body=_MAX_PAGE_BYTES)
        try:
            rows = json.loads(reply.body)
        except (ValueError, RecursionError):
            rows = None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            what = "the answer is not one of Harbor's lists"
            raise ProtocolViolated(what).at(self._registry, f"GET /api/v2.0{path}")
        total = reply.headers.get("X-Total-Count", "")
        return ListPage(rows, int(total) if total.isascii() and total.isdigit() and len(total) < 20 else None)

    async def json(self, path: str) -> Any:
        """Read a JSON document.

        Raises:
            RegistryError: the answer is not JSON, or there is none.
        """
        reply = await self.call("GET", path)
        try:
            return json.loads(reply.body)
        except (ValueError, RecursionError):
            what = "the answer is not JSON"
            request = f"GET {reply.url.path}"
            raise ProtocolViolated(what, status=reply.status).at(self._registry, request) from None

    async def call(
        self, method: str, path: str, *, expect: Collection[int] = (200,), body: Any = None, max_body: int = _MAX_BODY
    ) -> Reply:
        """Send a request.

        Args:
            method: GET, POST, PUT or DELETE.
            path: below ``/api/v2.0``, percent-encoded.
            expect: the statuses of a good answer.
            body: sent as JSON; None for no body.
            max_body: maximum of bytes of the answer that are read.

        Raises:
            RegistryError: any other answer, or none.
        """
        url = await self._transport.url(f"/api/v2.0{path}")
        headers = _HEADERS if body is None else {**_HEADERS, "Content-Type": "application/json"}
        content = None if body is None else json.dumps(body).encode()
        request = Request(method, url, headers=headers, body=content, basic=True)
        return await self._transport.call(request, expect=expect, max_body=max_body, patient=True)


class CircuitBreaker:
    """Spares Harbors further requests that would only time out."""

    def __init__(self) -> None:
        self._in_a_row: dict[str, int] = {}
        self._open: dict[str, ReplicatorError] = {}

    def check(self, registry: str) -> None:
        """Raise the last error of a registry that is not to be asked any more."""
        if registry in self._open:
            raise self._open[registry]

    def answered(self, registry: str) -> None:
        """Note that a registry answered."""
        self._in_a_row[registry] = 0

    def failed(self, registry: str, error: ReplicatorError) -> None:
        """Note that a registry failed."""
        transient = isinstance(error, RegistryError) and error.error_class is ErrorClass.TRANSIENT
        self._in_a_row[registry] = self._in_a_row.get(registry, 0) + 1 if transient else 0
        # Three in a row, because one broken project is no reason to leave out the others.
        if isinstance(error, NoHarbor) or self._in_a_row[registry] >= _MAX_TRANSIENT:
            self._open[registry] = error


def advised(error: ReplicatorError, project: str, user: str = "") -> str:
    """Return the text of an error that ended the work on a project's policies, with what to do, as it is stored.

    Args:
        error: the error.
        project: empty if the projects could not be listed.
        user: the name of ``--user``; empty for the logins of the rules.
    """
    advice, text = "", ErrorText.of(error)
    if not isinstance(error, RegistryError):
        return text.stored
    if isinstance(error, NoHarbor):
        advice = "this is not a Harbor, so it sends no events: only the reconcile finds its pushes"
    elif isinstance(error, Unauthorized) and user:
        return replace(text, do=f"the password of {user} was refused: run the command again with the right one").stored
    elif isinstance(error, Unauthorized):
        advice = (
            f"check the username and password of {error.registry} under auth, and that its robot account has not "
            "expired; an anonymous login may not manage webhooks"
        )
    elif isinstance(error, Denied):
        advice = (
            "use the login of a project administrator (replicator webhook register --user NAME), or a robot account "
            f"with all permissions of notification-policy; or there is no project {project!r}"
            if project
            else "name the projects (replicator webhook register --project NAME), or use a login that may list them "
            "(--user NAME)"
        )
    elif isinstance(error, NotFound):
        advice = (
            f"check the name and the login, which can see no project {project!r}; a Harbor before 2.0 has no such API: "
            "create the policy in its UI"
        )
    elif error.status == 409:
        advice = "run it again: a policy of this name was created at the same time"
    elif isinstance(error, Refused):
        advice = "check that the address is one that Harbor can reach: it refuses the policy"
    return replace(text, do="; ".join(filter(None, (text.do, advice)))).stored
