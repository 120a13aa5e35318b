"""Valid inputs of every kind, as a basis for mutation."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from replicator.replication.attestation import PREDICATE_TYPE, STATEMENT_TYPE, Compared, MerkleTree, State

DIGEST = f"sha256:{'a' * 64}"
OTHER = f"sha512:{'b' * 128}"
_INDEX = "application/vnd.oci.image.index.v1+json"
_IMAGE = "application/vnd.oci.image.manifest.v1+json"
_DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"


def _event(**changes: Any) -> dict[str, Any]:
    resource = {"digest": DIGEST, "tag": "v1.2.3", "resource_url": "harbor.example.com/team/app/api:v1.2.3", **changes}
    repository = {"name": "app/api", "namespace": "team", "repo_full_name": "team/app/api", "repo_type": "private"}
    return {
        "type": "PUSH_ARTIFACT",
        "occur_at": 1767225600,
        "operator": "robot$team+ci",
        "event_data": {"resources": [resource], "repository": repository},
    }


def _cloud() -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": "4b2f89a6-548d-4c12-9993-a1f5790b97d2",
        "source": "/projects/7/webhook/policies/3",
        "type": "harbor.artifact.pushed",
        "time": "2026-01-01T00:00:00Z",
        "data": _event()["event_data"],
    }


def _descriptor(**more: Any) -> dict[str, Any]:
    return {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": DIGEST, "size": 42, **more}


def _manifest(media_type: str, **parts: Any) -> str:
    return f"{media_type}\n{json.dumps({'schemaVersion': 2, 'mediaType': media_type, **parts})}"


EVENTS = (json.dumps(_event()), json.dumps(_event(tag=DIGEST)), json.dumps(_cloud()), '{"type": "PULL_ARTIFACT"}')
REFERENCES = (
    "harbor.example.com/library/nginx:1.27",
    f"localhost:5000/a/b-c__d.e/f@{DIGEST}",
    f"[2001:db8::1]:8443/x:latest@{OTHER}",
    "registry.cn-beijing.aliyuncs.com/team-mirror/app:v1",
)
_AUTH = {
    "harbor.example.com": {"username": "robot", "password": "${X}", "insecure": True},
    "registry.example.com/team": {"username": "u", "password": "p", "endpoint": "http://127.0.0.1:5000"},
    "registry.example.com": {"anonymous": True},
    "registry.cn-beijing.aliyuncs.com": {"username": "u", "password": "p"},
}
_RULES = {
    "auth": _AUTH,
    "defaults": {"registry": "registry.cn-beijing.aliyuncs.com", "namespace": "mirror", "platforms": ["linux/amd64"]},
    "images": {
        "harbor.example.com/team/app:v1,v2": "registry.example.com/ns/app:8,9",
        "harbor.example.com/team/**": {
            "to": ["registry.example.com/copy/{repository}", ""],
            "tags": {
                "include": ["v*", "/^v[0-9]+(\\.[0-9]+)*$/"],
                "exclude": "*-dev",
                "semver": ">=1.4,<2",
                "latest": 3,
            },
            "attestations": "strip",
            "signatures": True,
        },
        f"harbor.example.com/library/a@{DIGEST}": "",
    },
}
RULES = (
    json.dumps(_RULES),
    json.dumps({"auth": _AUTH, "images": {"harbor.example.com/team/app": "registry.example.com/ns/app"}}),
    """\
auth:
  harbor.example.com: &login {username: robot, password: "${X}"}
  registry.example.com: {<<: *login, insecure: true}
images:
  harbor.example.com/team/*:/^v1/:
    - registry.example.com/{project}/{name}
    - to: registry.example.com/other/{flat}
      tags: {latest: 2, semver: ~=1.4}
  harbor.example.com/team/app:v1: registry.example.com/a/b
""",
    "images:\n  harbor.example.com/*/x?: harbor.example.com/ns/{flat}\nauth: {harbor.example.com: {anonymous: true}}\n",
)
CHALLENGES = (
    'Bearer realm="https://harbor.example.com/service/token",service="harbor-registry",scope="repository:a/b:pull"',
    'Basic realm="harbor"\nBearer realm="http://h/t", error="insufficient_scope", charset=utf-8',
    'Digest username="a\\"b", nonce=abc,, Negotiate,Bearer realm="x"',
)
LINKS = (
    '</v2/a/tags/list?n=2&last=b>; rel="next"',
    '</a>; rel="prev"; title="x, y", <https://h.example.com/b?x=%2F>;rel=next',
    "Wed, 21 Oct 2026 07:28:00 GMT",
    "120",
)
MANIFESTS = (
    _manifest(_IMAGE, config=_descriptor(), layers=[_descriptor(digest=OTHER), _descriptor()], annotations={"a": "b"}),
    _manifest(_DOCKER, config=_descriptor(), layers=[]),
    _manifest(
        _INDEX,
        manifests=[
            _descriptor(platform={"os": "linux", "architecture": "arm64", "variant": "v8"}),
            _descriptor(digest=OTHER, annotations={"vnd.docker.reference.type": "attestation-manifest"}),
        ],
        subject=_descriptor(),
        artifactType="application/x",
    ),
    _manifest(_LIST, manifests=[_descriptor(platform={"os": "windows", "os.version": "10", "architecture": "amd64"})]),
    f"\n{json.dumps({'schemaVersion': 1, 'fsLayers': []})}",
)
DOCKER = (
    json.dumps(
        {
            "auths": {
                "https://index.docker.io/v1/": {"auth": "dXNlcjpzM2NyZXQ="},
                "registry.example.com/team/": {"username": "u", "password": "s3cret"},
                "ghcr.io": {"identitytoken": "s3cret"},
                "quay.io": {},
            },
            "credHelpers": {"registry.example.com": "pass", "gcr.io": ""},
            "credsStore": "secretservice",
        }
    ),
    '{"auths": {}}',
)
IMAGE_SYNCER = (
    json.dumps(
        {
            "auth": {
                "harbor.example.com": {"username": "u", "password": "p", "insecure": True},
                "registry.example.com/team": {"username": "u", "password": "${X}"},
            },
            "images": {
                "harbor.example.com/team/app:v1,v2": ["registry.example.com/team/app", ""],
                "harbor.example.com/team/other:b": "registry.example.com/team/other:a",
            },
        }
    ),
    """\
auth:
  harbor.example.com: {username: u, password: 0123}
  registry.example.com: {username: u, password: '${X}', insecure: true}
images:
  harbor.example.com/team/app:/^v/: registry.example.com/team/app
  harbor.example.com/team/b: registry.example.com/team/b
""",
)
ANSWERS = (
    json.dumps({"errors": [{"code": "DENIED", "message": "no", "detail": {"a": [1, "x"]}}]}),
    '{"errors": [{"code": "MANIFEST_BLOB_UNKNOWN"}, {"code": "X", "message": "y"}]}',
    "<html><body>502 Bad Gateway</body></html>",
)
_SELECTION = {"include": ["v*", "/^v[0-9]+$/"], "semver": ">=1,<3", "latest": 2, "others": [{"named": ["latest"]}]}
_PAYLOAD = {
    "source": "harbor.example.com/team/app:v1",
    "destination": "registry.example.com/ns/app:v1",
    "rule": "harbor.example.com/team/app",
    "selection": _SELECTION,
    "options": {"platforms": ["linux/amd64"], "attestations": "strip", "signatures": True},
    "announced": DIGEST,
    "force": True,
}
JOBS = (json.dumps({"t": None, "f": "copy", "a": [], "k": {"payload": _PAYLOAD}, "et": 1767225600000}),)
ROWS = (
    json.dumps(
        [
            {
                "repository_name": "team/app",
                "digest": DIGEST,
                "size": 100,
                "tags": [{"name": "v1", "push_time": "2026-01-01T00:00:00.000Z"}],
                "accessories": [{"type": "signature.cosign"}],
            },
            {"name": "team/app", "artifact_count": 3},
            {"name": "team"},
        ]
    ),
)
SETTINGS = (
    "30m",
    "7d",
    "off",
    "17 3 * * *",
    "0 0 1-7,15 */2 mon#1",
    "10.0.0.0/8, fd00::/8 192.0.2.7",
    "::ffff:10.0.0.1",
)
FILTERS = (json.dumps(_SELECTION), json.dumps({"exclude": ["/^(a|b)*$/"], "signatures_apart": True}))
REGSYNC = (
    """version: 1
creds:
  - {registry: registry.example.com, user: u, pass: '{{env "X"}}', tls: disabled}
defaults: {parallel: 2, interval: 60m}
sync:
  - {source: harbor.example.com/team, target: registry.example.com/team, type: registry, repos: {allow: [app.*]}}
  - source: harbor.example.com/team/app
    target: registry.example.com/team/app
    type: repository
    tags: {allow: ["v1.*", latest], deny: [".*-rc"], semverRange: [">=1.2 <2"]}
    platforms: [linux/amd64]
    digestTags: true
  - {source: "harbor.example.com/a/b:1", target: "registry.example.com/a/b:1", type: image}
""",
)
POLICIES = (
    """[{"name": "all", "enabled": true, "dest_namespace": "mirror", "dest_namespace_replace_count": 1,
 "src_registry": {"id": 0, "url": "http://core:8080"}, "override": false, "speed": 2048, "deletion": true,
 "dest_registry": {"id": 3, "type": "ali-acr", "url": "https://registry.cn-beijing.aliyuncs.com", "insecure": true,
  "credential": {"type": "basic", "access_key": "k", "access_secret": "*****"}},
 "filters": [{"type": "name", "value": "team/{a,b*}"}, {"type": "tag", "value": "v[0-9]*", "decoration": "matches"},
  {"type": "label", "value": ["a", "b"], "decoration": "excludes"}, {"type": "resource", "value": "image"}],
 "trigger": {"type": "scheduled", "trigger_settings": {"cron": "0 0 2 * * *"}}}]""",
)
SKOPEO = (
    """harbor.example.com:
  tls-verify: false
  credentials: {username: u, password: p}
  images:
    team/app: [v1, "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"]
    team/all: []
  images-by-tag-regex: {team/some: "^v1[.][0-9]+$"}
  images-by-semver: {team/more: ">= 1.2, < 2"}
""",
)

ATTESTED_ROWS = tuple(
    Compared(f"harbor.example.com/team/app:v{number}", f"r.example.com/m/app:v{number}", State.EQUAL, DIGEST).line
    for number in range(3)
)
ENVELOPE = "ENVELOPE\n"
"""Stands for the signed last line, whose signature differs from run to run."""
ATTESTATION = "".join(f"{row}\n" for row in ATTESTED_ROWS) + ENVELOPE


def _statement() -> dict[str, Any]:
    tree, lines = MerkleTree(), hashlib.sha256()
    for row in ATTESTED_ROWS:
        tree.add(row.encode())
        lines.update(f"{row}\n".encode())
    rows = {"count": tree.size, "hash": "RFC 9162 SHA-256", "root": tree.root}
    predicate = {
        "tool": {"name": "replicator"},
        "complete": True,
        "result": "equal",
        "counts": {"equal": 3},
        "rows": rows,
    }
    subject = {"name": "rows.jsonl", "digest": {"sha256": lines.hexdigest()}}
    return {"_type": STATEMENT_TYPE, "subject": [subject], "predicateType": PREDICATE_TYPE, "predicate": predicate}


STATEMENT = json.dumps(_statement())
