"""A stand-in for Alibaba Cloud Container Registry: its logins, name rules and refusals, before a real registry."""

from __future__ import annotations

import json
import re
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Literal, Self

from aiohttp import web
from yarl import URL

from replicator.registry.manifest import ACCEPT
from tests.standins.faults import FaultLayer
from tests.standins.proxy import Upstream
from tests.standins.server import serve
from tests.standins.tokens import (
    DELETE,
    PULL,
    PUSH,
    Credentials,
    Leak,
    Route,
    Token,
    TokenStore,
    accounts,
    action_of,
    errors,
    leak,
    requested,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from tests.standins.tokens import Account

Mounts = Literal["supported", "ignored", "refused"]
"""What becomes of a cross-repository mount: done, taken for an ordinary upload (202), or denied."""

PERSONAL_REPOSITORIES = 300
"""How many repositories a Personal Edition holds."""
PERSONAL_NAMESPACES = 3
"""How many namespaces a Personal Edition holds."""

_SEGMENT = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_NAME = re.compile(f"({_SEGMENT})/({_SEGMENT})")
_DENIED = "requested access to the resource is denied"
_IMMUTABLE = "The requested tag already exists and cannot be overwritten."
_IMAGE_CONFIGS = frozenset(
    {"application/vnd.docker.container.image.v1+json", "application/vnd.oci.image.config.v1+json"}
)
_CHART_CONFIG = "application/vnd.cncf.helm.config.v1+json"
_COSIGN_ATTESTATION = "application/vnd.dsse.envelope.v1+json"


def takes_name(name: str, *, personal: bool) -> bool:
    """Tell whether an edition has such a repository, by its documents: ``namespace/repository``, and their lengths.

    The documents want two characters at least. Names of one are taken, since nobody was seen to be refused for them.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return False
    namespace, repository = match.groups()
    if personal:
        return len(namespace) <= 30 and "." not in namespace and len(repository) <= 64
    return len(namespace) <= 120 and len(repository) <= 120


class AcrStandIn:
    """An ACR, for as long as its context lasts: a registry on one port and its token service on another.

    Args:
        upstream: ``127.0.0.1:PORT`` of the registry behind.
        users: secrets or accounts by name.
        namespaces: by name, whether a push creates a repository there.
        personal: the Personal Edition, with its quotas and its ``service``; else Enterprise.
        mounts: what becomes of a cross-repository mount.
        denied_status: 401 or 403, for what an account may not do and for a refused mount.
        denies_missing: a HEAD or GET in a repository that is not there yet is denied even to who may push to it.
            Skopeo stops at that; with False it is 404 to them, and denied to all others.
        only_images: refuse every other kind. Otherwise it takes charts, as Alibaba Cloud documents, and refuses what
            users have reported: attestations with the empty config, those of cosign, and BuildKit's caches. Of other
            kinds nothing is known; the words of the refusal are those of a list of what is taken, so they are refused.
        tls: a server context for both ports to speak HTTPS with.
        token_seconds: how long a token lives.

    Attributes:
        host: ``127.0.0.1:PORT`` of the registry.
        token_host: ``127.0.0.1:PORT`` of the token service.
        faults: in front of the registry.
        token_faults: in front of the token service.
        accounts: who may log in; may be changed at any time.
        public: repositories that anyone may pull from; may be changed at any time.
        immutable: repositories of an Enterprise instance whose tags can't be moved; may be changed at any time.
        namespaces: may be changed at any time, and so may ``mounts``, ``denied_status``, ``denies_missing`` and
            ``only_images``.
        leaks: requests with credentials that were not for their receiver: any password at the registry's port, a
            name or a token that is not known here.
        tokens: what was given out; ``tokens.revoke_all()`` ends them.
    """

    def __init__(
        self,
        upstream: str,
        *,
        users: Mapping[str, str | Account],
        namespaces: Mapping[str, bool],
        personal: bool = True,
        mounts: Mounts = "supported",
        denied_status: Literal[401, 403] = 401,
        denies_missing: bool = True,
        only_images: bool = False,
        tls: ssl.SSLContext | None = None,
        token_seconds: float = 300.0,
    ) -> None:
        if personal and len(namespaces) > PERSONAL_NAMESPACES:
            raise ValueError(f"a Personal Edition holds no more than {PERSONAL_NAMESPACES} namespaces")
        self.host = ""
        self.token_host = ""
        self.personal = personal
        self.namespaces = dict(namespaces)
        self.public: set[str] = set()
        self.immutable: set[str] = set()
        self.mounts: Mounts = mounts
        self.denied_status = denied_status
        self.denies_missing = denies_missing
        self.only_images = only_images
        self.leaks: list[Leak] = []
        self.tokens = TokenStore(token_seconds)
        self.faults = FaultLayer(self._registry)
        self.token_faults = FaultLayer(self._token)
        self.accounts = accounts(users)
        self._created: set[str] = set()
        self._upstream = Upstream(upstream)
        self._tls = tls
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._upstream)
            self.host = await stack.enter_async_context(serve(self.faults, tls=self._tls))
            self.token_host = await stack.enter_async_context(serve(self.token_faults, tls=self._tls))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def url(self) -> str:
        """The registry's address with its scheme."""
        return f"{self._scheme}://{self.host}"

    @property
    def service(self) -> str:
        """The ``service`` of its challenge, which tells the edition."""
        instance = "26842" if self.personal else "china:cri-0123456789abcdef"
        return f"registry.aliyuncs.com:cn-beijing:{instance}"

    def create_repository(self, name: str) -> None:
        """Create a repository as the console does; needed where a push doesn't."""
        self._created.add(name)

    @property
    def _scheme(self) -> str:
        return "https" if self._tls is not None else "http"

    async def _token(self, request: web.BaseRequest) -> web.StreamResponse:
        self._watch(request, basic_allowed=True)
        if request.method != "GET" or request.path != "/auth":
            return web.Response(status=405 if request.path == "/auth" else 404)
        if request.query.get("service") != self.service:
            return errors(400, "BAD_REQUEST", "unknown service")
        credentials = Credentials.of(request)
        account = credentials.account(self.accounts)
        if account is None and credentials.scheme == "" and self.public:
            # Anyone gets a token, which is good for public repositories alone.
            wants = requested(request.query.getall("scope", []))
            return self._issued("", {name: wanted & {PULL} & self._opened(name) for name, wanted in wants.items()})
        if account is None:
            # Without a public repository there is no anonymous pull: instances of today have none.
            return errors(401, "UNAUTHORIZED", "authentication required", detail="USERNAME_OR_PASSWORD_ERROR")
        grants = {}
        for name, wanted in requested(request.query.getall("scope", [])).items():
            granted = wanted & account.actions
            grants[name] = granted if await self._may_push(name) else granted - {PUSH, DELETE}
        return self._issued(credentials.username, grants)

    def _opened(self, name: str) -> frozenset[str]:
        return frozenset({PULL}) if name in self.public else frozenset()

    def _issued(self, subject: str, grants: Mapping[str, frozenset[str]]) -> web.Response:
        token = self.tokens.issue(subject, grants)
        answer = {"token": token.value, "access_token": token.value, "expires_in": int(self.tokens.seconds)}
        return web.json_response(answer)

    async def _may_push(self, name: str) -> bool:
        """Tell whether a repository is there to push to, or may be created by it."""
        namespace = name.partition("/")[0]
        if not takes_name(name, personal=self.personal) or namespace not in self.namespaces:
            return False
        if await self._exists(name):
            return True
        full = self.personal and len(self._created) >= PERSONAL_REPOSITORIES
        return self.namespaces[namespace] and not full

    async def _exists(self, name: str) -> bool:
        if name not in self._created:
            status, _, _ = await self._upstream.get(f"/v2/{name}/tags/list")
            if status == 200:
                self._created.add(name)
        return name in self._created

    def _watch(self, request: web.BaseRequest, *, basic_allowed: bool) -> None:
        if found := leak(request, self.accounts, self.tokens, basic_allowed=basic_allowed):
            self.leaks.append(found)

    async def _registry(self, request: web.BaseRequest) -> web.StreamResponse:
        self._watch(request, basic_allowed=False)
        route = Route.parse(request.path)
        credentials = Credentials.of(request)
        token = self.tokens.find(credentials.secret) if credentials.scheme == "bearer" else None
        needed = {(route.repository, action_of(request.method))} if route is not None else set()
        if token is None:
            problem = "invalid_token" if credentials.scheme == "bearer" else None
            return self._challenge(needed, problem, "UNAUTHORIZED", "authentication required")
        if request.path == "/v2/":
            return web.json_response({})
        if route is None:
            return web.Response(status=404, text="404 page not found\n")
        # An upload session's DELETE belongs to the push.
        if request.method == "DELETE" and route.kind == "blobs" and route.rest.startswith("uploads/"):
            needed = {(route.repository, PUSH)}
        if not _granted(token, needed):
            return self._refused(needed)
        return await self._repository(request, route, token)

    async def _repository(self, request: web.BaseRequest, route: Route, token: Token) -> web.StreamResponse:
        # Permission may have gone since the token was given out.
        pushes = request.method in ("POST", "PUT", "PATCH")
        if pushes and not await self._may_push(route.repository):
            return self._refused({(route.repository, PUSH)})
        may_know = not self.denies_missing and _granted(token, {(route.repository, PUSH)})
        if not pushes and route.kind != "tags" and not may_know and not await self._exists(route.repository):
            return self._refused({(route.repository, PULL)})
        match request.method, route.kind:
            case "GET", "tags":
                return await self._tags(request, route.repository)
            case "POST", "blobs":
                self._created.add(route.repository)
                return await self._start_upload(request, token)
            case "PUT", "manifests":
                self._created.add(route.repository)
                if route.repository in self.immutable and await self._is_tagged(request):
                    return errors(403, "DENIED", _IMMUTABLE)
                return await self._put_manifest(request)
        return await self._upstream.forward(request)

    async def _is_tagged(self, request: web.BaseRequest) -> bool:
        """Tell whether the tag that is put names a manifest already; a digest is none."""
        status, _, _ = await self._upstream.get(request.raw_path, headers={"Accept": ACCEPT})
        return status == 200 and "/manifests/sha256:" not in request.path

    async def _start_upload(self, request: web.BaseRequest, token: Token) -> web.StreamResponse:
        url = URL(request.raw_path, encoded=True)
        if "mount" not in url.query:
            return await self._upstream.forward(request)
        source = url.query.get("from", "")
        if self.mounts == "refused":
            return self._refused({(source, PULL)})
        if self.mounts == "ignored" or not _granted(token, {(source, PULL)}):
            return await self._upstream.forward(request, path=str(url.without_query_params("mount", "from")))
        return await self._upstream.forward(request)

    async def _put_manifest(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        try:
            document: Any = json.loads(body)
            config = document.get("config") if "manifests" not in document else None
            media_type = config.get("mediaType") if config else None
            layers = [layer.get("mediaType") for layer in document.get("layers") or ()]
        except (ValueError, AttributeError, TypeError):
            return errors(400, "MANIFEST_INVALID", "manifest invalid")
        # As distribution does, before it looks for the blobs.
        taken = _IMAGE_CONFIGS if self.only_images else _IMAGE_CONFIGS | {_CHART_CONFIG}
        if media_type is not None and media_type not in taken:
            return errors(403, "DENIED", f"unknown manifest class for {media_type}")
        if _COSIGN_ATTESTATION in layers:
            return errors(403, "DENIED", f"unknown manifest class for {_COSIGN_ATTESTATION}")
        return await self._upstream.forward(request, body=body)

    async def _tags(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        status, headers, body = await self._upstream.get(request.raw_path)
        if status == 404 and name in self._created:
            return web.json_response({"name": name, "tags": []})
        if status == 404:
            return errors(404, "NAME_UNKNOWN", "repository name not known to registry", detail={"name": name})
        kept = {key: headers[key] for key in ("Content-Type", "Link") if key in headers}
        return web.Response(status=status, body=body, headers=kept)

    def _refused(self, needed: set[tuple[str, str]]) -> web.Response:
        if self.denied_status == 403:
            return errors(403, "DENIED", _DENIED)
        return self._challenge(needed, "insufficient_scope", "DENIED", _DENIED)

    def _challenge(self, needed: set[tuple[str, str]], problem: str | None, code: str, message: str) -> web.Response:
        challenge = f'Bearer realm="{self._scheme}://{self.token_host}/auth",service="{self.service}"'
        actions = {PULL: "pull", PUSH: "push,pull", DELETE: "delete"}
        for name, action in needed:
            challenge += f',scope="repository:{name}:{actions[action]}"'
        if problem is not None:
            challenge += f',error="{problem}"'
        headers = {"WWW-Authenticate": challenge, "Docker-Distribution-Api-Version": "registry/2.0"}
        return errors(401, code, message, headers=headers)


def _granted(token: Token, needed: set[tuple[str, str]]) -> bool:
    return all(action in token.grants.get(name, ()) for name, action in needed)
