"""Alibaba Cloud's OpenAPI, as far as it issues logins for ACR and creates repositories."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.standins.faults import FaultLayer
from tests.standins.tokens import Account

if TYPE_CHECKING:
    from tests.standins.acr import AcrStandIn

TEMPORARY = "cr_temp_user"


class OpenApiStandIn:
    """Gives out logins and creates repositories, in both versions; serve its ``faults``.

    Args:
        seconds: how long a login lasts.
        acr: takes the logins that are given out, each until the next, and holds what is created.

    Attributes:
        seconds: how long a login lasts.
        given: how many were given out.
        asked: version and instance id of each request for one.
        keys: the access keys it knows.
        tokens: the token of STS behind each request for a login, empty for none.
        actions: what was asked for, in order.
        namespaces: what there is, and the visibility of what a push creates there.
        others: namespaces of other accounts.
        repositories: what there is, and its visibility.
    """

    def __init__(self, seconds: float = 3600.0, acr: AcrStandIn | None = None) -> None:
        self.seconds = seconds
        self.given = 0
        self.asked: list[tuple[str, str]] = []
        self.keys = {"key-id"}
        self.tokens: list[str] = []
        self.actions: list[str] = []
        self.namespaces: dict[str, str] = dict.fromkeys(acr.namespaces if acr is not None else (), "PRIVATE")
        self.others: set[str] = set()
        self.repositories: dict[str, str] = {}
        self.faults = FaultLayer(self._answer)
        self._acr = acr

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        scheme, _, credential = request.headers.get("authorization", "").partition(" Credential=")
        if scheme != "ACS3-HMAC-SHA256" or credential.partition(",")[0] not in self.keys:
            return refused(404, "InvalidAccessKeyId.NotFound")
        self.actions.append(request.headers["x-acs-action"])
        personal = request.headers["x-acs-version"] == "2016-06-07"
        body: dict[str, Any] = json.loads(await request.read() or b"{}")
        match request.headers["x-acs-action"], request.method, request.path:
            case ("GetAuthorizationToken", "GET", "/tokens") | ("GetAuthorizationToken", "POST", "/"):
                return self._login(request, personal=personal)
            case ("CreateRepo", "PUT", "/repos"):
                repo = body["Repo"]
                return self._create(repo["RepoNamespace"], repo["RepoName"], repo["RepoType"])
            case ("CreateRepository", "POST", "/"):
                query = request.query
                return self._create(query["RepoNamespaceName"], query["RepoName"], query["RepoType"])
            case ("CreateNamespace", "PUT", "/namespace"):
                return self._create_namespace(body["Namespace"]["Namespace"], "PRIVATE")
            case ("CreateNamespace", "POST", "/"):
                return self._create_namespace(request.query["NamespaceName"], request.query["DefaultRepoType"])
            case ("GetRepo", "GET", path):
                return self._get(path.removeprefix("/repos/"), personal=True)
            case ("GetRepository", "POST", "/"):
                return self._get(f"{request.query['RepoNamespaceName']}/{request.query['RepoName']}", personal=False)
            case ("GetNamespace", "GET", path):
                return self._get_namespace(path.removeprefix("/namespace/"), personal=True)
            case ("GetNamespace", "POST", "/"):
                return self._get_namespace(request.query["NamespaceName"], personal=False)
        return refused(404, "InvalidAction.NotFound")

    def _login(self, request: web.BaseRequest, *, personal: bool) -> web.Response:
        self.asked.append((request.headers["x-acs-version"], request.query.get("InstanceId", "")))
        self.tokens.append(request.headers.get("x-acs-security-token", ""))
        self.given += 1
        token, expires = f"temporary-{self.given}", int((time.time() + self.seconds) * 1000)
        if self._acr is not None:
            self._acr.accounts[TEMPORARY] = Account(token)
        if personal:
            data = {"tempUserName": TEMPORARY, "authorizationToken": token, "expireDate": expires}
            return web.json_response({"data": data, "requestId": "1"})
        return web.json_response({"TempUsername": TEMPORARY, "AuthorizationToken": token, "ExpireTime": expires})

    def _create(self, namespace: str, name: str, visibility: str) -> web.Response:
        path = f"{namespace}/{name}"
        if namespace not in self.namespaces:
            return refused(404, "NAMESPACE_NOT_EXIST")
        if path in self.repositories:
            return refused(400, "REPO_ALREADY_EXIST")
        self.repositories[path] = visibility
        if self._acr is not None:
            self._acr.create_repository(path)
        return web.json_response({"Code": "success", "IsSuccess": True})

    def _create_namespace(self, namespace: str, visibility: str) -> web.Response:
        if namespace in self.namespaces or namespace in self.others:
            return refused(400, "NAMESPACE_ALREADY_EXIST")
        self.namespaces[namespace] = visibility
        if self._acr is not None:
            self._acr.namespaces[namespace] = False
        return web.json_response({"Code": "success", "IsSuccess": True})

    def _get(self, path: str, *, personal: bool) -> web.Response:
        if path not in self.repositories:
            return refused(404, "REPO_NOT_EXIST")
        kind = self.repositories[path]
        return web.json_response({"data": {"repo": {"repoType": kind}}} if personal else {"RepoType": kind})

    def _get_namespace(self, name: str, *, personal: bool) -> web.Response:
        if name not in self.namespaces:
            return refused(404, "NAMESPACE_NOT_EXIST")
        kind, by_push = self.namespaces[name], self._acr is None or self._acr.namespaces.get(name, False)
        if personal:
            return web.json_response({"data": {"namespace": {"autoCreate": by_push, "defaultVisibility": kind}}})
        return web.json_response({"AutoCreateRepo": by_push, "DefaultRepoType": kind})


def refused(status: int, code: str, message: str = "refused") -> web.Response:
    """Answer as the OpenAPI refuses."""
    return web.json_response({"Code": code, "Message": message}, status=status)
