"""Harbor's REST API, as far as replication uses it."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlencode

from aiohttp import web

from tests.standins.harbor_content import moment
from tests.standins.harbor_webhooks import CLOUD_EVENT_TYPES
from tests.standins.tokens import PULL, Credentials, errors

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tests.standins.harbor_content import Artifact, Content
    from tests.standins.harbor_projects import Project, Projects
    from tests.standins.harbor_webhooks import Policy, Webhooks

PREFIX = "/api/v2.0"
MAX_PAGE_SIZE = 100
_FORMATS = ("Default", "CloudEvents")
_KEPT_EXECUTIONS = 50


class ApiError(Exception):
    """An answer other than the one asked for.

    Attributes:
        response: what is answered.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.response = errors(status, code, message)


class HarborApi:
    """Answers what comes in below ``/api/v2.0``.

    Args:
        projects: the projects and accounts.
        content: the registry behind.
        webhooks: the policies and deliveries.

    Attributes:
        healthy: what ``/health`` says; its HTTP status is 200 all the same.
        lists_projects_artifacts: whether there is ``/projects/{p}/artifacts``; a Harbor before 2.12 has none.
        version: what ``/systeminfo`` says to who is logged in. Before 2.15 no tag moves ``update_time``.
        shows_logs: whether the login may list the logs of projects.
        external_url: the same.
        notifies: the same; a Harbor whose system settings switch webhooks off sends no event at all.
    """

    def __init__(self, projects: Projects, content: Content, webhooks: Webhooks) -> None:
        self.healthy = True
        self.lists_projects_artifacts = True
        self.version = "v2.16.0-00000000"
        self.shows_logs = True
        self.external_url = ""
        self.notifies = True
        self._projects = projects
        self._content = content
        self._webhooks = webhooks

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request."""
        path = request.raw_path.partition("?")[0].removeprefix(PREFIX)
        # The path is decoded once before it is split: a slash in a name survives only if it was encoded twice.
        parts = [part for part in unquote(path).split("/") if part]
        try:
            return await self._answer(request, parts)
        except ApiError as error:
            return error.response

    async def _answer(self, request: web.BaseRequest, parts: Sequence[str]) -> web.Response:
        subject = self._projects.login(Credentials.of(request))
        match parts:
            case ["ping"]:
                return web.Response(text="Pong")
            case ["health"]:
                status = "healthy" if self.healthy else "unhealthy"
                components = [{"name": name, "status": status} for name in ("core", "database", "redis", "registry")]
                return web.json_response({"status": status, "components": components})
            case ["systeminfo"]:
                return web.json_response(self._shown_system(subject))
            case ["users", "current"]:
                return _shown_user(subject)
            case ["projects"]:
                return self._list_projects(request, subject)
            case ["projects", name, *below]:
                project = self._projects.find(name, request)
                if project is None or PULL not in self._projects.actions(subject, project.name):
                    raise _refusal(subject)
                return await self._project(request, subject, project, below)
        raise _no_route(request)

    def _shown_system(self, subject: str) -> dict[str, Any]:
        shown = {"auth_mode": "db_auth", "banner_message": "", "primary_auth_mode": False, "self_registration": False}
        if not subject:
            return shown
        return shown | {
            "current_time": moment(time.time()),
            "external_url": self.external_url,
            "harbor_version": self.version,
            "has_ca_root": False,
            "notification_enable": self.notifies,
            "project_creation_restriction": "everyone",
            "read_only": False,
            "registry_storage_provider_name": "filesystem",
            "registry_url": self.external_url.partition("://")[2],
        }

    async def _project(
        self, request: web.BaseRequest, subject: str, project: Project, parts: Sequence[str]
    ) -> web.Response:
        match parts:
            case []:
                return web.json_response(_shown_project(project))
            case ["repositories"]:
                return await self._list_repositories(request, project)
            case ["logs"] if self.shows_logs:
                return await self._show_logs(request, project)
            case ["logs"]:
                raise ApiError(403, "FORBIDDEN", "forbidden")
            case ["repositories", repository]:
                return await self._show_repository(project, repository)
            case ["repositories", repository, "artifacts"]:
                # Harbor asks only whether the project is there: of a repository that is not, the list is empty.
                artifacts = await self._content.artifacts(f"{project.name}/{unquote(repository)}") or []
                return await _page_of_artifacts(request, project, artifacts, self._content)
            case ["artifacts"] if self.lists_projects_artifacts:
                found: list[Artifact] = []
                for repository in await self._repositories(project):
                    found += await self._content.artifacts(repository) or []
                return await _page_of_artifacts(request, project, found, self._content)
            case ["webhook", "policies", *below]:
                if not self._projects.administers(subject, project):
                    raise _refusal(subject)
                return await self._webhook_policies(request, project, below)
        raise _no_route(request)

    def _list_projects(self, request: web.BaseRequest, subject: str) -> web.Response:
        visible = [
            _shown_project(project)
            for project in self._projects.by_name.values()
            if PULL in self._projects.actions(subject, project.name)
            and request.query.get("name", "") in project.name
            and request.query.get("public", str(project.public).lower()) == str(project.public).lower()
        ]
        return _page(request, visible, default="name", key="project_id")

    async def _repositories(self, project: Project) -> list[str]:
        return [name for name in await self._content.repositories() if name.startswith(f"{project.name}/")]

    async def _list_repositories(self, request: web.BaseRequest, project: Project) -> web.Response:
        rows = [self._shown_repository(project, name) for name in await self._repositories(project)]
        if self._counts_changes and "update_time" in request.query.get("sort", ""):
            rows = [{**row, "update_time": moment(await self._content.changed(row["name"]))} for row in rows]
        return await _page_with(request, rows, self._count_artifacts, key="repository_id")

    @property
    def _counts_changes(self) -> bool:
        return int(self.version.split(".")[1]) >= 15

    async def _show_logs(self, request: web.BaseRequest, project: Project) -> web.Response:
        for name in await self._repositories(project):
            await self._content.changed(name)
        rows = [
            {"id": number, "operation": "create", "resource": tag, "resource_type": "artifact", "op_time": moment(made)}
            for number, (tag, made) in enumerate(self._content.log(project.name), 1)
        ]
        return _page(request, rows, default="-op_time")

    async def _show_repository(self, project: Project, repository: str) -> web.Response:
        name = f"{project.name}/{unquote(repository)}"
        if name not in await self._repositories(project):
            raise ApiError(404, "NOT_FOUND", f"repository {name} not found")
        return web.json_response(await self._count_artifacts(self._shown_repository(project, name)))

    def _shown_repository(self, project: Project, name: str) -> dict[str, Any]:
        number, created = self._content.repository(name)
        times = {"creation_time": moment(created), "update_time": moment(created)}
        return {"id": number, "project_id": project.id, "name": name, "pull_count": 0, **times}

    async def _count_artifacts(self, row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "artifact_count": len(await self._content.artifacts(row["name"]) or [])}

    async def _webhook_policies(self, request: web.BaseRequest, project: Project, parts: Sequence[str]) -> web.Response:
        policies = self._webhooks.of(project.name)
        if not parts:
            if request.method == "GET":
                return _page(request, [policy.shown() for policy in policies], default="-id")
            if request.method == "POST":
                policy = self._webhooks.add(project.name, project.id, await self._policy_body(request, policies))
                location = f"{request.raw_path.partition('?')[0]}/{policy.id}"
                return web.Response(status=201, headers={"Location": location})
            raise _no_route(request)
        found = next((policy for policy in policies if str(policy.id) == parts[0]), None)
        if found is None:
            raise ApiError(404, "NOT_FOUND", f"webhook policy {parts[0]} not found")
        if len(parts) > 1:
            return self._executions(request, found, parts[1:])
        if request.method == "PUT":
            others = [policy for policy in policies if policy is not found]
            found.body = {"enabled": True, "description": "", **await self._policy_body(request, others)}
            return web.Response()
        if request.method == "DELETE":
            if self._webhooks.is_busy(found):
                message = f"the policy {found.id} contains executions that aren't in final status"
                raise ApiError(412, "PRECONDITION", message)
            del self._webhooks.policies[found.id]
            return web.Response()
        return web.json_response(found.shown())

    async def _policy_body(self, request: web.BaseRequest, others: Sequence[Policy]) -> dict[str, Any]:
        try:
            body: dict[str, Any] = json.loads(await request.read())
            name, event_types, targets = body["name"], body["event_types"], body["targets"]
            good_targets = bool(targets) and all(
                target["type"] in ("http", "slack")
                and target["address"].startswith(("http://", "https://"))
                and target.get("payload_format", "Default") in _FORMATS
                for target in targets
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ApiError(422, "UNPROCESSABLE_ENTITY", f"not a webhook policy: {error!r}") from error
        if not name or not event_types or not good_targets:
            raise ApiError(400, "BAD_REQUEST", "a policy needs a name, event types and targets that can be reached")
        if unknown := set(event_types) - CLOUD_EVENT_TYPES.keys():
            raise ApiError(400, "BAD_REQUEST", f"unsupported event type {min(unknown)}")
        if name in [policy.body["name"] for policy in others]:
            raise ApiError(409, "CONFLICT", f"a policy named {name} is there already")
        shown = ("name", "description", "enabled", "event_types", "targets")
        return {key: body[key] for key in shown if key in body}

    def _executions(self, request: web.BaseRequest, policy: Policy, parts: Sequence[str]) -> web.Response:
        """Show recent attempts: ``executions``, ``executions/{n}/tasks`` and ``executions/{n}/tasks/{n}/log``."""
        kept = [each for each in self._webhooks.deliveries if each.policy == policy.id][-_KEPT_EXECUTIONS:]
        rows = [
            {"id": number, "vendor_type": "WEBHOOK", "status": "Success" if each.succeeded else "Error"}
            for number, each in enumerate(kept, 1)
        ]
        match parts:
            case ["executions"]:
                return _page(request, rows, default="-id")
            case ["executions", number, "tasks"]:
                return _page(request, [row for row in rows if str(row["id"]) == number], default="-id")
            case ["executions", number, "tasks", _, "log"] if number in [str(row["id"]) for row in rows]:
                delivery = kept[int(number) - 1]
                return web.Response(text=f"{delivery.status} {delivery.error} {delivery.body}")
        raise _no_route(request)


def _shown_user(subject: str) -> web.Response:
    if not subject:
        raise ApiError(401, "UNAUTHORIZED", "unauthorized")
    if subject.startswith("robot$"):
        raise ApiError(412, "PRECONDITION", "get current user not available for security context: robot")
    return web.json_response({"user_id": 1, "username": subject})


def _refusal(subject: str) -> ApiError:
    # Harbor doesn't tell a project that is missing from one that may not be seen.
    return ApiError(403, "FORBIDDEN", "forbidden") if subject else ApiError(401, "UNAUTHORIZED", "unauthorized")


def _no_route(request: web.BaseRequest) -> ApiError:
    return ApiError(404, "NOT_FOUND", f"path {request.path} was not found")


def _shown_project(project: Project) -> dict[str, Any]:
    metadata = {"public": str(project.public).lower()}
    return {"project_id": project.id, "name": project.name, "metadata": metadata, "owner_name": "admin"}


async def _page_of_artifacts(
    request: web.BaseRequest, project: Project, artifacts: Sequence[Artifact], content: Content
) -> web.Response:
    with_tag = request.query.get("with_tag", "true").lower() == "true"
    with_accessory = request.query.get("with_accessory", "false").lower() == "true"

    async def shown(row: dict[str, Any]) -> dict[str, Any]:
        accessories = (_shown_accessories(row["artifact"]) or None) if with_accessory else None
        return {**_shown_artifact(project, row["artifact"], content, with_tag=with_tag), "accessories": accessories}

    # What lists are sorted by; the rest is made for the rows of the page only.
    rows = [{"id": each.id, "size": each.size, "push_time": each.pushed, "artifact": each} for each in artifacts]
    return await _page_with(request, rows, shown)


def _shown_accessories(artifact: Artifact) -> list[dict[str, Any]]:
    about = {
        "subject_artifact_id": artifact.id,
        "subject_artifact_digest": artifact.stored.digest,
        "subject_artifact_repo": artifact.repository,
    }
    return [
        {"id": number, "artifact_id": number, **about, "digest": stored.digest, "size": stored.size, "type": kind}
        for number, stored, kind in artifact.accessories
    ]


def _shown_artifact(project: Project, artifact: Artifact, content: Content, *, with_tag: bool) -> dict[str, Any]:
    kind, media_type = artifact.stored.shown_type
    repository_id, _ = content.repository(artifact.repository)
    pushed = moment(artifact.pushed)
    tags = [
        {
            "name": tag,
            "artifact_id": artifact.id,
            "push_time": moment(content.tagged(artifact.repository, tag, artifact.stored.digest)),
            "immutable": False,
        }
        for tag in artifact.tags
    ]
    children = [{"child_digest": child, "parent_id": artifact.id} for child in artifact.stored.children]
    return {
        "id": artifact.id,
        "type": kind,
        "media_type": media_type,
        "manifest_media_type": artifact.stored.media_type,
        "digest": artifact.stored.digest,
        "size": artifact.size,
        "push_time": pushed,
        "project_id": project.id,
        "repository_id": repository_id,
        "repository_name": artifact.repository,
        "tags": (tags or None) if with_tag else None,
        "references": children or None,
        "accessories": None,
    }


def _window(request: web.BaseRequest) -> tuple[int, int]:
    numbers = []
    for name, unsaid, most in (("page", "1", None), ("page_size", "10", MAX_PAGE_SIZE)):
        text = request.query.get(name, unsaid)
        if not text.removeprefix("-").isdigit() or int(text) < 1:
            raise ApiError(422, "UNPROCESSABLE_ENTITY", f"{name} in query should be greater than or equal to 1")
        if most is not None and int(text) > most:
            raise ApiError(422, "UNPROCESSABLE_ENTITY", f"{name} in query should be less than or equal to {most}")
        numbers.append(int(text))
    return numbers[0], numbers[1]


def _slice(
    request: web.BaseRequest, rows: Sequence[dict[str, Any]], default: str, key: str
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return the rows of the page asked for, and the headers that tell of the others."""
    page, size = _window(request)
    ordered = list(rows)
    if rows:
        # A sort by what is no column of the table is passed over.
        columns = {name: name for name in rows[0] if name != "id"} | {key: "id" if "id" in rows[0] else key}
        wanted = request.query.get("sort", default)
        wanted = wanted if wanted.removeprefix("-") in columns else default
        column = columns[wanted.removeprefix("-")]
        ordered.sort(key=lambda row: row[column], reverse=wanted.startswith("-"))
    links = []
    for number, relation in ((page - 1, "prev"), (page + 1, "next")):
        if number > 0 and (number - 1) * size < len(rows):
            query = urlencode({**request.query, "page": number, "page_size": size})
            links.append(f'<{request.raw_path.partition("?")[0]}?{query}>; rel="{relation}"')
    headers = {"X-Total-Count": str(len(rows))} | ({"Link": ", ".join(links)} if links else {})
    return ordered[(page - 1) * size : page * size], headers


def _page(request: web.BaseRequest, rows: Sequence[dict[str, Any]], *, default: str, key: str = "id") -> web.Response:
    shown, headers = _slice(request, rows, default, key)
    return web.json_response(shown, headers=headers)


async def _page_with(
    request: web.BaseRequest,
    rows: Sequence[dict[str, Any]],
    complete: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]],
    *,
    key: str = "id",
) -> web.Response:
    """Answer a page whose rows alone are worth completing."""
    shown, headers = _slice(request, rows, f"-{key}", key)
    return web.json_response([await complete(row) for row in shown], headers=headers)
