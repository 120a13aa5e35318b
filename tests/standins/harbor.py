"""A stand-in for Harbor: its logins, registry, REST API and webhooks, before a real registry.

What it does follows Harbor 2.16: ``src/server/middleware/v2auth``, ``src/core/service/token``,
``src/server/v2.0/handler``, ``src/controller/event/handler/webhook``.
"""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

from tests.standins.distribution import behind
from tests.standins.faults import FaultLayer
from tests.standins.harbor_api import PREFIX, HarborApi
from tests.standins.harbor_content import Content
from tests.standins.harbor_lists import bad_digest, list_referrers, list_tags
from tests.standins.harbor_projects import Project, Projects
from tests.standins.harbor_rows import shown_label
from tests.standins.harbor_webhooks import Delivery, Policy, Webhooks, push_payload
from tests.standins.proxy import Upstream
from tests.standins.server import serve
from tests.standins.tokens import (
    PULL,
    Credentials,
    Leak,
    Route,
    TokenStore,
    action_of,
    errors,
    leak,
    requested,
    unauthorized,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping, Sequence

    from tests.standins.tokens import Account

SERVICE = "harbor-registry"
REPLICATION_AGENT = "harbor-registry-client"
"""The one User-Agent whose GETs count as no pulls."""

_BASIC = 'Basic realm="harbor"'


class HarborStandIn:
    """A Harbor, for as long as its context lasts.

    Args:
        upstream: ``127.0.0.1:PORT`` of the registry behind.
        users: secrets or accounts by name; robots are those that begin with ``robot$``.
        projects: by name, whether each is public.
        tls: a server context to speak HTTPS with.
        name: the public name it has in events, if not its address; its external URL is HTTPS then, and so are the
            realms of its challenges, which have the request's Host.
        token_seconds: how long a token lives.
        webhook_timeout: seconds a webhook's receiver has for the whole request.
        webhook_attempts: how often an event is tried in all.
        webhook_backoff: seconds before the second attempt, the third, …; by default what Harbor waits on average.
        webhook_trust: what the certificates of receivers are checked against.
        keeps_content: the API shows what it read once until something is pushed or deleted through here; for a
            registry of thousands of tags, to which nobody pushes past this.

    Attributes:
        host: ``127.0.0.1:PORT``.
        faults: in front of everything.
        api: switches of the REST API: ``healthy``, ``lists_projects_artifacts``, ``version``.
        gated: full names of repositories whose manifests the vulnerability gate holds back.
        pulls: ``repository:reference`` of each manifest GET that counted as a pull.
        leaks: requests with credentials that were meant for another host.
        token_hosts: each Host by which a proxy routes to the token service; none for any.
        lag_seconds: for how long after a push its tag is shown as it was before, while the event tells of the push.
        empty_seconds: for how long after a push the layers of its repository come empty, as a cache has them.
        tokens: what was given out; ``tokens.revoke_all()`` ends them.
    """

    def __init__(
        self,
        upstream: str,
        *,
        users: Mapping[str, str | Account],
        projects: Mapping[str, bool],
        tls: ssl.SSLContext | None = None,
        name: str | None = None,
        token_seconds: float = 1800.0,
        webhook_timeout: float = 3.0,
        webhook_attempts: int = 3,
        webhook_backoff: Sequence[float] = (45.0, 75.0),
        webhook_trust: ssl.SSLContext | None = None,
        keeps_content: bool = False,
    ) -> None:
        self.host = ""
        self.projects = Projects(users, projects)
        self.webhooks = Webhooks(webhook_timeout, webhook_attempts, webhook_backoff, webhook_trust)
        self.tokens = TokenStore(token_seconds)
        self.gated: set[str] = set()
        self.pulls: list[str] = []
        self.leaks: list[Leak] = []
        self.token_hosts: set[str] = set()
        self.lag_seconds = 0.0
        self.empty_seconds = 0.0
        self._pushed: dict[str, float] = {}
        self.faults = FaultLayer(self._handle)
        self._upstream = Upstream(upstream)
        self._content = Content(self._upstream, kept=keeps_content)
        self.api = HarborApi(self.projects, self._content, self.webhooks)
        self._tls = tls
        self._name = name
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._upstream)
            await stack.enter_async_context(self.webhooks)
            self.host = await stack.enter_async_context(serve(self.faults, tls=self._tls))
            behind[self.host] = self._upstream.host
            stack.callback(behind.pop, self.host)
            self._stack = stack.pop_all()
        scheme = "https" if self._tls is not None or self._name is not None else "http"
        self.api.external_url = f"{scheme}://{self.public_name}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def url(self) -> str:
        """The address with its scheme."""
        return f"{'https' if self._tls is not None else 'http'}://{self.host}"

    @property
    def public_name(self) -> str:
        """What it calls itself in events."""
        return self._name or self.host

    @property
    def deliveries(self) -> list[Delivery]:
        """All attempts to tell a receiver, in the order they ended."""
        return self.webhooks.deliveries

    async def deliveries_settled(self) -> None:
        """Wait until every event so far was taken or given up."""
        await self.webhooks.settled()

    def add_project(self, name: str, *, public: bool = False) -> Project:
        """Create a project."""
        return self.projects.add(name, public=public)

    def add_policy(
        self,
        project: str,
        address: str,
        *,
        name: str | None = None,
        auth_header: str = "",
        payload_format: str = "Default",
        event_types: Sequence[str] = ("PUSH_ARTIFACT",),
        skip_cert_verify: bool = False,
    ) -> Policy:
        """Create a webhook policy without going through the API."""
        target = {
            "type": "http",
            "address": address,
            "auth_header": auth_header,
            "skip_cert_verify": skip_cert_verify,
            "payload_format": payload_format,
        }
        body = {
            "name": name or f"policy-{len(self.webhooks.policies) + 1}",
            "event_types": list(event_types),
            "targets": [target],
        }
        return self.webhooks.add(project, self.projects.by_name[project].id, body)

    def deliver(
        self,
        event_type: str,
        repository: str,
        tag: str | None,
        digest: str | None,
        *,
        operator: str = "admin",
        changes: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Send an event to each enabled policy of the project, subscribed or not.

        Args:
            event_type: Harbor's name of the event.
            repository: the full name.
            tag: None leaves it out.
            digest: None leaves it out.
            operator: who did it.
            changes: top-level keys of the Default format that replace the built ones.

        Returns:
            The event in the Default format.
        """
        payload = {**self._payload(event_type, repository, tag, digest, operator), **(changes or {})}
        for policy in self.webhooks.of(repository.partition("/")[0]):
            if policy.enabled:
                self.webhooks.send(policy, payload)
        return payload

    async def retag(self, repository: str, tag: str, new_tag: str) -> None:
        """Give an artifact another tag, as the UI does: no event tells of it."""
        digest = await self._content.digest(repository, tag)
        assert digest is not None, f"there is no {repository}:{tag}"
        await self._content.set_tag(repository, digest, new_tag)

    async def label(self, repository: str, reference: str, name: str, *, of_project: bool = False) -> None:
        """Give an artifact a label, a global one or one of its project, as the UI does: nothing tells of it."""
        digest = await self._content.digest(repository, reference)
        assert digest is not None, f"there is no {repository}:{reference}"
        project = self.projects.by_name[repository.partition("/")[0]] if of_project else None
        labels = self._content.labels.setdefault((repository, digest), [])
        labels.append(shown_label(len(labels) + 1, name, project))

    def catch_up(self) -> None:
        """Have the lag of all tags end."""
        self.lag_seconds = 0.0
        self._content.catch_up()

    def _payload(
        self, event_type: str, repository: str, tag: str | None, digest: str | None, operator: str
    ) -> dict[str, Any]:
        project = self.projects.by_name[repository.partition("/")[0]]
        _, created = self._content.repository(repository)
        return push_payload(
            self.public_name,
            repository,
            tag,
            digest,
            event_type=event_type,
            operator=operator,
            public=project.public,
            created=int(created),
        )

    def _tell(self, event_type: str, repository: str, reference: str, digest: str, operator: str) -> None:
        if not self.api.notifies:
            return
        payload = self._payload(event_type, repository, reference, digest, operator)
        for policy in self.webhooks.of(repository.partition("/")[0]):
            if policy.wants(event_type):
                self.webhooks.send(policy, payload)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if found := leak(request, self.projects.accounts, self.tokens, basic_allowed=True):
            self.leaks.append(found)
        if request.path == "/service/token":
            return self._token(request)
        if request.path.startswith(f"{PREFIX}/"):
            return await self.api(request)
        if request.path == "/v2/" or request.path.startswith("/v2/"):
            return self.projects.outage(request) or await self._registry(request)
        return web.Response(status=404, text="404 page not found")

    def _token(self, request: web.BaseRequest) -> web.Response:
        if self.token_hosts and request.headers.get("Host") not in self.token_hosts:
            return web.Response(status=404, text="default backend - 404")
        if request.method != "GET":
            return web.Response(status=405, text="")
        scopes = request.query.getall("scope", [])
        if request.query.get("service") != SERVICE:
            return web.Response(status=400, text=f"Unable to handle service: {request.query.get('service', '')}")
        # A wrong password makes it an anonymous request, which fails here only if it asks for nothing.
        subject = self.projects.login(Credentials.of(request))
        if not subject and not scopes:
            return web.Response(status=401)
        # What an account may do is granted, whatever actions it asked for.
        grants = {name: self.projects.actions(subject, name) for name in requested(scopes)}
        token = self.tokens.issue(subject, grants)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        answer = {"token": token.value, "access_token": "", "expires_in": int(self.tokens.seconds), "issued_at": now}
        return web.json_response(answer)

    async def _registry(self, request: web.BaseRequest) -> web.StreamResponse:
        route = Route.parse(request.path)
        credentials = Credentials.of(request)
        token = self.tokens.find(credentials.secret) if credentials.scheme == "bearer" else None
        subject = token.subject if token is not None else self.projects.login(credentials)
        if request.path == "/v2/":
            headers = {"Docker-Distribution-Api-Version": "registry/2.0"}
            return web.json_response({}, headers=headers) if subject else self._challenge(request, "unauthorized", {})
        if request.path == "/v2/_catalog":
            if not self.projects.is_system_administrator(subject):
                return unauthorized("unauthorized to list catalog", _BASIC)
            return await self._upstream.forward(request)
        if route is None:
            return errors(404, "NOT_FOUND", "path not found")
        needed = {route.repository: action_of(request.method)}
        mount_from = request.query.get("from") if request.method == "POST" and "mount" in request.query else None
        if mount_from is not None:
            needed.setdefault(mount_from, PULL)
        if "Authorization" not in request.headers and request.method in ("GET", "HEAD"):
            # Of public projects too; the project may even be missing.
            return self._challenge(request, "authorize header needed to send HEAD to repository", needed)
        for repository, action in needed.items():
            project = repository.partition("/")[0]
            if project not in self.projects.by_name:
                # Whoever asks; it has no challenge then.
                return unauthorized(f"project {project} not found", "")
            # Any credentials, even wrong ones, open what is public.
            granted = self.projects.actions(subject, repository)
            if token is not None:
                granted &= token.grants.get(repository, frozenset())
            if action not in granted:
                what = f"unauthorized to access repository: {repository}, action: {action}"
                return self._challenge(request, what, needed)
        return await self._repository(request, route, subject)

    def _challenge(self, request: web.BaseRequest, message: str, needed: Mapping[str, str]) -> web.Response:
        challenge = _BASIC
        if "Authorization" not in request.headers:
            scheme = "https" if self._tls is not None or self._name is not None else "http"
            # By the request's Host, and the scheme of the external URL.
            host = request.headers.get("Host", self.public_name)
            challenge = f'Bearer realm="{scheme}://{host}/service/token",service="{SERVICE}"'
            actions = {"pull": "pull", "push": "pull,push", "delete": "delete"}
            if needed:
                scopes = " ".join(f"repository:{name}:{actions[action]}" for name, action in needed.items())
                challenge += f',scope="{scopes}"'
        return unauthorized(message, challenge)

    async def _repository(self, request: web.BaseRequest, route: Route, subject: str) -> web.StreamResponse:
        match request.method, route.kind:
            case "GET", "tags":
                return await list_tags(request, self._content, route.repository)
            case "GET", "referrers":
                return await list_referrers(request, self._content, route)
            case "PUT", "manifests":
                return await self._put_manifest(request, route, subject)
            case "GET" | "HEAD", "manifests":
                return await self._pull_manifest(request, route, subject)
            case "GET", "blobs" if time.monotonic() < self._pushed.get(route.repository, 0.0) + self.empty_seconds:
                return web.Response(content_type="application/octet-stream")
            case "DELETE", "manifests":
                if not route.rest.startswith("sha256:"):
                    return errors(400, "UNSUPPORTED", bad_digest(route.rest))
                names = await self._content.names(route.repository, route.rest)
                response = await self._upstream.forward(request)
                self._content.forget(route.repository)
                if response.status == 202:
                    self._tell("DELETE_ARTIFACT", route.repository, (names or [route.rest])[0], route.rest, subject)
                return response
        return await self._upstream.forward(request)

    async def _pull_manifest(self, request: web.BaseRequest, route: Route, subject: str) -> web.StreamResponse:
        if route.repository in self.gated:
            return errors(
                412,
                "PROJECTPOLICYVIOLATION",
                "current image without vulnerability scanning cannot be pulled due to configured policy in 'Prevent "
                'images with vulnerability severity of "High" or higher from running.\'',
            )

        async def missing() -> web.Response:
            return errors(404, "NOT_FOUND", await self._content.missing(route.repository, route.rest))

        shown = self._content.resolved(route.repository, route.rest)
        if shown is None:
            return await missing()
        path = f"/v2/{route.repository}/manifests/{shown}"
        response = await self._upstream.forward(request, path=path, missing=missing)
        counts = request.method == "GET" and request.headers.get("User-Agent") != REPLICATION_AGENT
        if counts and response.status == 200:
            self.pulls.append(f"{route.repository}:{route.rest}")
            self._content.pulled(route.repository)
            digest = response.headers["Docker-Content-Digest"]
            self._tell("PULL_ARTIFACT", route.repository, route.rest, digest, subject)
        return response

    async def _put_manifest(self, request: web.BaseRequest, route: Route, subject: str) -> web.StreamResponse:
        body = await request.read()
        before = await self._content.digest(route.repository, route.rest) if self.lag_seconds else None
        response = await self._upstream.put(request, body)
        if response.status == 201:
            self._pushed[route.repository] = time.monotonic()
            digest = response.headers.get("Docker-Content-Digest") or f"sha256:{hashlib.sha256(body).hexdigest()}"
            self._content.pushed(route.repository, digest)
            if route.rest != digest:
                self._content.tagged(route.repository, route.rest, digest)
                self._content.restore_tag(route.repository, route.rest)
                if self.lag_seconds:
                    self._content.lag(route.repository, route.rest, before, self.lag_seconds)
            self._content.forget(route.repository)
            if subject_digest := (json.loads(body).get("subject") or {}).get("digest"):
                response.headers["OCI-Subject"] = subject_digest
            self._tell("PUSH_ARTIFACT", route.repository, route.rest, digest, subject)
        return response
