"""What people read of the refusals that are met most: three short lines at most, each of which helps."""

from __future__ import annotations

import http
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from replicator.errors import ErrorClass
from replicator.reference import Reference, Repository
from replicator.registry.connection_errors import answered_elsewhere, foreign_answer, from_answer
from replicator.registry.errors import (
    ConnectionFailed,
    Denied,
    ForeignAnswer,
    NotFound,
    NotYet,
    Refused,
    RegistryError,
    ServerFailed,
    StorageRefused,
    TooManyRequests,
    Unauthorized,
    WrongAddress,
)
from replicator.registry.kinds import KINDS
from replicator.replication.advice import explained

if TYPE_CHECKING:
    from collections.abc import Mapping

PERSONAL, ENTERPRISE = "registry.cn-beijing.aliyuncs.com", "acme-registry.cn-beijing.cr.aliyuncs.com"
HARBOR, STORAGE = "harbor.example.com", "bucket.oss-cn-beijing.aliyuncs.com"
COLUMNS = 120
UPLOADS = "/v2/mirror/a/blobs/uploads/"
SESSION = UPLOADS + "aff6734e-9335-4e2b-963d-a1d15e1ad4b3"
TAG = "/v2/team/a/manifests/v1"
BLOB = "/v2/team/a/blobs/sha256:" + "ab" * 32
BY_DIGEST = "/v2/mirror/a/manifests/sha256:" + "ab" * 32
CHALLENGE = {"WWW-Authenticate": 'Basic realm="registry"'}

ORDER = "check in this order: permission to push, namespace 'mirror', Automatically Create Repository, quota"
LOGIN = "check the username and password under auth, and that it may pull and list here; or the project does not exist"
NOT_SHOWN = "this account lacks repository:list, repository:pull or artifact:list; or the project does not exist"
FRONT = "check what answers there: a firewall, a login page, a proxy without its backend, or another host"
RAISE = "raise the limit of a body at the registry, or at the proxy in front of it (nginx: client_max_body_size)"
FEWER = "if this happens often, run fewer copies at once (REPLICATOR_CONCURRENCY, --proc)"
GATED = "the project's Configuration at Harbor withholds it; copies in the queue are tried again, at once after a scan"


def said(code: str, message: str) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()


def page(title: str) -> bytes:
    return f"<!DOCTYPE html>\n<html><head><title>{title}</title></head><body>ask for permissions</body></html>".encode()


def foreign(status: int, title: str) -> str:
    return f"{status}: not the registry's answer: a page of HTML (title '{title}'), as firewalls and proxies send"


DENIED = said("DENIED", "requested access to the resource is denied")
IS_DENIED = "403, the registry says: DENIED: requested access to the resource is denied"


@dataclass(frozen=True)
class Row:
    """A refusal: the request and its answer; what becomes of it, and its words."""

    host: str
    request: str
    status: int
    body: bytes
    kind: type[RegistryError]
    error_class: ErrorClass
    why: str
    do: str = ""
    what: str = ""
    headers: Mapping[str, str] | None = None
    destination: str | None = None
    elsewhere: str | None = None


PERMANENT, TRANSIENT, CREDENTIALS = ErrorClass.PERMANENT, ErrorClass.TRANSIENT, ErrorClass.CREDENTIALS
PUSHED = f"{PERSONAL}/mirror/a:v1"
ROWS = {
    "a push denied by ACR": Row(
        *(PERSONAL, f"POST {UPLOADS}", 403, DENIED, Denied, PERMANENT),
        *(IS_DENIED, f"{ORDER} (300 repositories)"),
        destination=PUSHED,
    ),
    "a push denied by ACR, Enterprise": Row(
        *(ENTERPRISE, f"POST {UPLOADS}", 403, DENIED, Denied, PERMANENT),
        *(IS_DENIED, ORDER),
        destination=f"{ENTERPRISE}/mirror/a:v1",
    ),
    "a name of three segments at ACR": Row(
        *(PERSONAL, "POST /v2/mirror/team/a/blobs/uploads/", 403, DENIED, Denied, PERMANENT),
        *(IS_DENIED, "ACR's names are exactly namespace/name, not 3 segments: use {flat} in the rule's destination"),
        destination=f"{PERSONAL}/mirror/team/a:v1",
    ),
    "a name of one segment at ACR": Row(
        *(PERSONAL, "POST /v2/a/blobs/uploads/", 403, DENIED, Denied, PERMANENT),
        IS_DENIED,
        "ACR's names are exactly namespace/name, not 1 segment: "
        "put a namespace in front of it in the rule's destination",
        destination=f"{PERSONAL}/a:v1",
    ),
    "a quota at ACR": Row(
        *(PERSONAL, f"POST {UPLOADS}", 403, said("DENIED", "REPO_EXCEED_QUOTA"), Denied, PERMANENT),
        "403, the registry says: DENIED: REPO_EXCEED_QUOTA",
        "a quota is used up (Personal Edition: 3 namespaces, 300 repositories): make room, or raise the quota",
        destination=PUSHED,
    ),
    "an account that owes money": Row(
        *(ENTERPRISE, f"POST {UPLOADS}", 403, said("DENIED", "the instance is overdue"), Denied, PERMANENT),
        *(
            "403, the registry says: DENIED: the instance is overdue",
            "pay the overdue bills of the Alibaba Cloud account",
        ),
        destination=f"{ENTERPRISE}/mirror/a:v1",
    ),
    "an address that the instance does not let in": Row(
        *(ENTERPRISE, f"GET {TAG}", 403, said("DENIED", "1.2.3.4 is not in the white list"), Denied, PERMANENT),
        "403, the registry says: DENIED: 1.2.3.4 is not in the white list",
        "add this machine's public address to the access control of the instance's public endpoint, in ACR's console",
    ),
    "no words to HEAD": Row(
        *(PERSONAL, f"HEAD {BY_DIGEST}", 403, b"", Denied, PERMANENT),
        *("403 Forbidden", f"{ORDER} (300 repositories)"),
        what=f"{PERSONAL}: HEAD /v2/mirror/a/manifests/sha256:abababababab…",
        destination=PUSHED,
    ),
    "a push denied by Harbor": Row(
        *(HARBOR, f"POST {UPLOADS}", 403, said("FORBIDDEN", "no push"), Denied, PERMANENT),
        "403, the registry says: FORBIDDEN: no push",
        ORDER.replace("namespace 'mirror'", "project or namespace 'mirror'"),
        destination=f"{HARBOR}/mirror/a:v1",
    ),
    "a pull denied by Harbor": Row(
        *(HARBOR, f"GET {TAG}", 403, said("DENIED", "no pull"), Denied, PERMANENT),
        *("403, the registry says: DENIED: no pull", NOT_SHOWN),
    ),
    "a login that is not enough": Row(
        *(HARBOR, f"HEAD {TAG}", 401, b"", Unauthorized, CREDENTIALS),
        *("401 Unauthorized", LOGIN),
        headers=CHALLENGE,
    ),
    "a proxy that asks for a login": Row(
        *(HARBOR, f"GET {TAG}", 401, page("401 Authorization Required"), Unauthorized, CREDENTIALS),
        *("401, with a page of HTML (title '401 Authorization Required')", LOGIN),
        headers=CHALLENGE,
    ),
    "no such image": Row(
        *(HARBOR, f"HEAD {TAG}", 404, b"", NotFound, PERMANENT),
        *("404 Not Found", "check the name, and that the login may see it; or the project does not exist"),
    ),
    "a gate of Harbor's": Row(
        *(HARBOR, f"GET {TAG}", 412, said("PROJECTPOLICYVIOLATION", "not scanned"), NotYet, ErrorClass.NOT_YET),
        *("412, the registry says: PROJECTPOLICYVIOLATION: not scanned", GATED),
    ),
    "a firewall, 403": Row(
        *(PERSONAL, f"PUT {SESSION}", 403, page("Blocked by the firewall"), ForeignAnswer, TRANSIENT),
        *(foreign(403, "Blocked by the firewall"), FRONT),
        what=f"{PERSONAL}: PUT {UPLOADS}…",
        destination=PUSHED,
    ),
    "a firewall, 200": Row(
        *(HARBOR, f"GET {TAG}", 200, page("Sign in"), ForeignAnswer, TRANSIENT),
        *(foreign(200, "Sign in"), FRONT),
    ),
    "a proxy without its backend": Row(
        *(HARBOR, f"GET {TAG}", 502, page("502 Bad Gateway"), ServerFailed, TRANSIENT),
        foreign(502, "502 Bad Gateway"),
    ),
    "an ingress without a backend": Row(
        *(HARBOR, f"GET {TAG}", 404, b"default backend - 404", ForeignAnswer, TRANSIENT),
        "404: not the registry's answer: text ('default backend - 404'), as firewalls and proxies send",
        FRONT,
    ),
    "a proxy that limits a body": Row(
        *(HARBOR, f"PUT {SESSION}", 413, page("413 Request Entity Too Large"), ForeignAnswer, TRANSIENT),
        *(foreign(413, "413 Request Entity Too Large"), RAISE),
        what=f"{HARBOR}: PUT {UPLOADS}…",
    ),
    "a registry that limits a body": Row(
        *(HARBOR, f"POST {UPLOADS}", 413, b"", Refused, PERMANENT),
        # Its name differs between versions of Python.
        *(f"413 {http.HTTPStatus(413).phrase}", RAISE),
    ),
    "a link to storage that has expired": Row(
        *(HARBOR, f"GET {BLOB}", 403, b"<Error><Code>AccessDenied</Code></Error>", StorageRefused, TRANSIENT),
        "403, it says: <Error><Code>AccessDenied</Code></Error> "
        f"(answer of {STORAGE}, which the registry redirects to)",
        what=f"{HARBOR}: GET /v2/team/a/blobs/sha256:abababababab…",
        elsewhere=STORAGE,
    ),
    "a firewall in front of the storage": Row(
        *(HARBOR, f"GET {BLOB}", 403, page("No"), ForeignAnswer, TRANSIENT),
        f"{foreign(403, 'No')} (answer of {STORAGE}, which the registry redirects to)",
        FRONT,
        what=f"{HARBOR}: GET /v2/team/a/blobs/sha256:abababababab…",
        elsewhere=STORAGE,
    ),
    "too many requests": Row(
        *(PERSONAL, f"POST {UPLOADS}", 429, said("TOOMANYREQUESTS", "slow down"), TooManyRequests, TRANSIENT),
        *("429, the registry says: TOOMANYREQUESTS: slow down", FEWER),
        destination=PUSHED,
    ),
    "a registry that fails": Row(
        *(PERSONAL, f"POST {UPLOADS}", 503, b"", ServerFailed, TRANSIENT),
        "503 Service Unavailable",
        destination=PUSHED,
    ),
    "a manifest that is refused": Row(
        *(PERSONAL, f"PUT {TAG}", 400, said("MANIFEST_INVALID", "manifest invalid"), Refused, PERMANENT),
        "400, the registry says: MANIFEST_INVALID: manifest invalid",
    ),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_a_common_refusal_has_three_short_lines(row: Row) -> None:
    challenges = "WWW-Authenticate" in (row.headers or {})
    speaker = "it" if row.elsewhere else "the registry"
    method = row.request.partition(" ")[0]
    error = from_answer(row.status, row.body, method, challenges=challenges, speaker=speaker)
    error = answered_elsewhere(error, row.elsewhere) if row.elsewhere else error
    error.at(row.host, row.request)
    text = explained(error, Reference.parse(row.destination) if row.destination else None)
    assert (type(error), error.error_class) == (row.kind, row.error_class)
    assert (text.why, text.do) == (row.why, row.do)
    assert text.lines == [line for line in (row.what or f"{row.host}: {row.request}", row.why, row.do) if line]
    # The storage's own host and words have no room in one line.
    assert all(len(line) <= COLUMNS for line in text.lines) or row.elsewhere
    # Whoever stands in front knows nothing of permissions.
    assert "not the registry's answer" not in text.why or "in this order" not in text.do


def test_the_title_of_a_page_is_one_short_line_without_a_login_or_a_tag() -> None:
    title = "Blocked\x1b[31m\r\n &lt;b&gt; " + "x" * 400
    why = foreign_answer(403, page(title)).why
    assert "(title 'Blocked [31m <b> xxx" in why
    assert why.isprintable()
    assert len(why) < COLUMNS + 40


@pytest.mark.parametrize("is_part", [False, True])
@pytest.mark.parametrize("kind", [*KINDS, "application/vnd.example.config.v1+json"])
@pytest.mark.parametrize("registry", [PERSONAL, "registry.example.com"])
def test_the_advice_on_each_kind_of_artifact_fits_one_line(registry: str, kind: str, is_part: bool) -> None:
    error = Denied("403: unknown manifest class", status=403).at(registry, "PUT /v2/team/app/manifests/v1")
    error.kind, error.is_part = kind, is_part
    do = explained(error, Reference(Repository(registry, "team/app"), "v1")).do
    assert 0 < len(do) <= COLUMNS


@pytest.mark.parametrize(
    ("host", "public"),
    [
        ("registry-vpc.cn-beijing.aliyuncs.com", "registry.cn-beijing.aliyuncs.com"),
        ("registry-internal.cn-beijing.aliyuncs.com:443", "registry.cn-beijing.aliyuncs.com"),
        ("crpi-abc-vpc.cn-beijing.personal.cr.aliyuncs.com", "crpi-abc.cn-beijing.personal.cr.aliyuncs.com"),
        ("team-registry-vpc.cn-beijing.cr.aliyuncs.com", "team-registry.cn-beijing.cr.aliyuncs.com, and enable access"),
        ("registry.cn-beijing.aliyuncs.com", None),
        ("registry-vpc.example.com", None),
    ],
)
def test_an_address_inside_alibaba_cloud_that_can_not_be_reached_is_told_with_the_public_one(
    host: str, public: str | None
) -> None:
    silent = ConnectionFailed(f"no connection to {host} in time", "is it reachable?").at(host)
    silent.silent = True
    for error in silent, WrongAddress(f"the name {host.partition(':')[0]} can't be resolved").at(host):
        advice = explained(error).do
        assert ("from elsewhere use" in advice) == (public is not None)
        assert public is None or f"from elsewhere use {public}" in advice
    broken = ConnectionFailed(f"the connection to {host} broke").at(host)
    storage = WrongAddress("the name store.example.com can't be resolved").at(host)
    assert [explained(error).do for error in (broken, storage)] == ["", ""]


def test_an_address_that_is_no_registry_is_not_taken_for_a_missing_project() -> None:
    advice = explained(NotFound("404 Not Found", status=404).at("h.example.com", "GET /v2/")).do
    assert advice == "no registry answers at this address: check the host, its port, and endpoint under auth"
