"""Harbor's REST API, as far as replication uses it."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from aiohttp import web

from tests.standins.harbor_content import moment
from tests.standins.harbor_rows import page_of, page_of_artifacts, page_with
from tests.standins.harbor_webhooks import policy_body
from tests.standins.tokens import DELETE, PULL, PUSH, ApiError, Credentials, answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.standins.harbor_content import Artifact, Content
    from tests.standins.harbor_projects import Project, Projects
    from tests.standins.harbor_webhooks import Policy, Webhooks

PREFIX = "/api/v2.0"
_KEPT_EXECUTIONS = 50


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
            return await self._respond(request, parts)
        except ApiError as error:
            return error.response

    async def _respond(self, request: web.BaseRequest, parts: Sequence[str]) -> web.Response:
        subject = self._projects.login(Credentials.of(request))
        match parts:
            case ["ping"]:
                return answer("Pong")
            case ["health"]:
                status = "healthy" if self.healthy else "unhealthy"
                components = [{"name": name, "status": status} for name in ("core", "database", "redis", "registry")]
                return answer({"status": status, "components": components})
            case ["systeminfo"]:
                return answer(self._shown_system(subject))
            case ["users", "current"]:
                return _shown_user(subject)
            case ["projects"]:
                return self._list_projects(request, subject)
            case ["projects", name, *below]:
                project = self._projects.find(name, request)
                if project is None and self._projects.is_system_administrator(subject):
                    raise ApiError(404, "NOT_FOUND", f"project {name} not found")
                # To others, a project that is missing is one that they may not see.
                if project is None or PULL not in self._projects.actions(subject, project.name):
                    raise _refusal(subject)
                return await self._project(request, subject, project, below)
        raise _no_route(request)

    def _shown_system(self, subject: str) -> dict[str, Any]:
        shown: dict[str, Any] = {"auth_mode": "db_auth", "banner_message": "", "oidc_provider_name": ""}
        shown |= {"primary_auth_mode": False, "self_registration": False}
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
                return answer(_shown_project(project))
            case ["repositories"]:
                return await self._list_repositories(request, project)
            case ["logs"]:
                return await self._show_logs(request, project)
            case ["repositories", repository]:
                return await self._show_repository(project, repository)
            case ["repositories", repository, "artifacts"]:
                # Harbor asks only whether the project is there: of a repository that is not, the list is empty.
                artifacts = await self._content.artifacts(f"{project.name}/{unquote(repository)}") or []
                return await page_of_artifacts(request, project, artifacts, self._content)
            case ["repositories", repository, "artifacts", reference, "tags", *names]:
                whole = f"{project.name}/{unquote(repository)}"
                return await self._change_tags(request, subject, whole, reference, names)
            case ["artifacts"] if self.lists_projects_artifacts:
                if not subject:
                    # Although anyone may list the artifacts of each repository of a public project.
                    raise _refusal(subject)
                found: list[Artifact] = []
                for repository in await self._repositories(project):
                    found += await self._content.artifacts(repository) or []
                return await page_of_artifacts(request, project, found, self._content)
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
        return page_of(request, visible, default="name", key="project_id")

    async def _repositories(self, project: Project) -> list[str]:
        return [name for name in await self._content.repositories() if name.startswith(f"{project.name}/")]

    async def _list_repositories(self, request: web.BaseRequest, project: Project) -> web.Response:
        rows = [self._shown_repository(project, name) for name in await self._repositories(project)]
        if self._minor >= 15 and "update_time" in request.query.get("sort", ""):
            rows = [{**row, "update_time": moment(await self._content.changed(row["name"]))} for row in rows]
        return await page_with(request, rows, self._count_artifacts, key="repository_id")

    @property
    def _minor(self) -> int:
        return int(self.version.split(".")[1])

    async def _show_logs(self, request: web.BaseRequest, project: Project) -> web.Response:
        if not self.shows_logs:
            raise ApiError(403, "FORBIDDEN", "forbidden")
        for name in await self._repositories(project):
            await self._content.changed(name)
        rows = [
            {"id": number, "operation": "create", "resource": tag, "resource_type": "artifact", "op_time": moment(made)}
            for number, (tag, made) in enumerate(self._content.log(project.name), 1)
        ]
        return page_of(request, rows, default="-op_time")

    async def _show_repository(self, project: Project, repository: str) -> web.Response:
        name = f"{project.name}/{unquote(repository)}"
        if name not in await self._repositories(project):
            raise ApiError(404, "NOT_FOUND", f"repository {name} not found")
        return answer(await self._count_artifacts(self._shown_repository(project, name)))

    def _shown_repository(self, project: Project, name: str) -> dict[str, Any]:
        number, created = self._content.repository(name)
        times = {"creation_time": moment(created), "update_time": moment(created)}
        return {"id": number, "project_id": project.id, "name": name, "pull_count": 0, **times}

    async def _count_artifacts(self, row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "artifact_count": len(await self._content.artifacts(row["name"]) or [])}

    async def _change_tags(
        self, request: web.BaseRequest, subject: str, repository: str, reference: str, names: Sequence[str]
    ) -> web.Response:
        """Make or delete a tag, as the UI does: no event tells of it."""
        actions = self._projects.actions(subject, repository)
        if (PUSH if request.method == "POST" else DELETE) not in actions:
            raise _refusal(subject)
        digest = await self._content.digest(repository, reference)
        if digest is None:
            raise ApiError(404, "NOT_FOUND", await self._content.missing(repository, reference))
        if request.method == "POST" and not names:
            await self._content.set_tag(repository, digest, json.loads(await request.read())["name"])
            return web.Response(status=201)
        if request.method == "DELETE" and names:
            self._content.delete_tag(repository, names[0])
            return web.Response()
        raise _no_route(request)

    async def _webhook_policies(self, request: web.BaseRequest, project: Project, parts: Sequence[str]) -> web.Response:
        policies = self._webhooks.of(project.name)
        if not parts:
            if request.method == "GET":
                return page_of(request, [policy.shown() for policy in policies], default="-id")
            if request.method == "POST":
                policy = self._webhooks.add(project.name, project.id, await self._policy_body(request, policies))
                location = f"{request.raw_path.partition('?')[0]}/{policy.id}"
                return web.Response(status=201, headers={"Location": location})
            raise _no_route(request)
        found = next((policy for policy in policies if str(policy.id) == parts[0]), None)
        if found is None:
            raise ApiError(404, "NOT_FOUND", f"notificationPolicy {parts[0]} not found")
        if len(parts) > 1:
            return self._executions(request, found, parts[1:])
        if request.method == "PUT":
            others = [policy for policy in policies if policy is not found]
            found.change(await self._policy_body(request, others))
            return web.Response()
        if request.method == "DELETE":
            if self._webhooks.is_busy(found):
                message = f"the policy {found.id} contains executions that aren't in final status"
                raise ApiError(412, "PRECONDITION", message)
            del self._webhooks.policies[found.id]
            return web.Response()
        return answer(found.shown())

    async def _policy_body(self, request: web.BaseRequest, others: Sequence[Policy]) -> dict[str, Any]:
        try:
            body = policy_body(json.loads(await request.read()), has_formats=self._minor >= 8)
        except (KeyError, TypeError, AttributeError) as error:
            raise ApiError(422, "UNPROCESSABLE_ENTITY", f"not a webhook policy: {error!r}") from error
        except ValueError as error:
            raise ApiError(400, "BAD_REQUEST", str(error)) from error
        if body["name"] in [policy.body["name"] for policy in others]:
            raise ApiError(409, "CONFLICT", f"notification policy named {body['name']} already exists")
        return body

    def _executions(self, request: web.BaseRequest, policy: Policy, parts: Sequence[str]) -> web.Response:
        """Show recent attempts: ``executions``, ``executions/{n}/tasks`` and ``executions/{n}/tasks/{n}/log``."""
        kept = [each for each in self._webhooks.deliveries if each.policy == policy.id][-_KEPT_EXECUTIONS:]
        rows = [
            {"id": number, "vendor_type": "WEBHOOK", "status": "Success" if each.succeeded else "Error"}
            for number, each in enumerate(kept, 1)
        ]
        match parts:
            case ["executions"]:
                return page_of(request, rows, default="-id")
            case ["executions", number, "tasks"]:
                return page_of(request, [row for row in rows if str(row["id"]) == number], default="-id")
            case ["executions", number, "tasks", _, "log"] if number in [str(row["id"]) for row in rows]:
                delivery = kept[int(number) - 1]
                return web.Response(text=f"{delivery.status} {delivery.error} {delivery.body}")
        raise _no_route(request)


def _shown_user(subject: str) -> web.Response:
    if not subject:
        raise ApiError(401, "UNAUTHORIZED", "unauthorized")
    if subject.startswith("robot$"):
        raise ApiError(412, "PRECONDITION", "get current user not available for security context: robot")
    return answer({"user_id": 1, "username": subject})


def _refusal(subject: str) -> ApiError:
    return ApiError(403, "FORBIDDEN", "forbidden") if subject else ApiError(401, "UNAUTHORIZED", "unauthorized")


def _no_route(request: web.BaseRequest) -> ApiError:
    return ApiError(404, "NOT_FOUND", f"path {request.path} was not found")


def _shown_project(project: Project) -> dict[str, Any]:
    metadata = {"public": str(project.public).lower()}
    return {"project_id": project.id, "name": project.name, "metadata": metadata, "owner_name": "admin"}
