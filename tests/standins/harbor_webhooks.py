"""Harbor's webhooks: both payload formats, the policies, and the delivery with its timeout and few attempts."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

import aiohttp

from tests.standins.harbor_content import moment

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping, Sequence

CLOUD_EVENT_TYPES = {
    "PUSH_ARTIFACT": "harbor.artifact.pushed",
    "PULL_ARTIFACT": "harbor.artifact.pulled",
    "DELETE_ARTIFACT": "harbor.artifact.deleted",
    "QUOTA_EXCEED": "harbor.quota.exceeded",
    "QUOTA_WARNING": "harbor.quota.warned",
    "REPLICATION": "harbor.replication.status.changed",
    "SCANNING_COMPLETED": "harbor.scan.completed",
    "SCANNING_FAILED": "harbor.scan.failed",
    "SCANNING_STOPPED": "harbor.scan.stopped",
    "TAG_RETENTION": "harbor.tag_retention.finished",
}
"""CloudEvents types by Harbor's own names of events."""
_FORMATS = ("Default", "CloudEvents")


def event_data(
    host: str,
    repository: str,
    tag: str | None,
    digest: str | None,
    *,
    public: bool = False,
    created: int | None = 1767220000,
) -> dict[str, Any]:
    """Build what both formats carry: one resource of one repository.

    Args:
        host: Harbor's public name; goes into ``resource_url``.
        repository: the full name, project included.
        tag: equal to the digest for a push by digest; None leaves the key out, as some events do.
        digest: ``sha256:…``; None leaves the key out.
        public: the project's kind.
        created: the repository's creation, seconds since 1970; None leaves the key out.
    """
    project, _, name = repository.partition("/")
    resource = {key: value for key, value in (("digest", digest), ("tag", tag)) if value is not None}
    if tag:
        resource["resource_url"] = f"{host}/{repository}{'@' if tag == digest else ':'}{tag}"
    about: dict[str, Any] = {
        "name": name,
        "namespace": project,
        "repo_full_name": repository,
        "repo_type": "public" if public else "private",
    }
    if created is not None:
        about["date_created"] = created
    return {"resources": [resource], "repository": about}


def scanned(data: dict[str, Any]) -> dict[str, Any]:
    """Turn what `event_data` built into what events of scans carry."""
    summary = {"total": 1, "fixable": 1, "summary": {"Low": 1}}
    overview = {
        "report_id": "00000000-0000-4000-8000-000000000000",
        "scan_status": "Success",
        "severity": "Low",
        "duration": 5,
        "summary": summary,
        "start_time": "2026-11-28T21:53:40Z",
        "end_time": "2026-11-28T21:53:45Z",
        "scanner": {"name": "Lab", "vendor": "lab", "version": "1"},
        "complete_percent": 100,
    }
    report = "application/vnd.security.vulnerability.report; version=1.1"
    resources = [{**each, "scan_overview": {report: overview}} for each in data["resources"]]
    about = {key: value for key, value in data["repository"].items() if key != "date_created"}
    return {"resources": resources, "repository": about, "scan": {"scan_type": "vulnerability"}}


def push_payload(
    host: str,
    repository: str,
    tag: str | None,
    digest: str | None,
    *,
    event_type: str = "PUSH_ARTIFACT",
    operator: str = "admin",
    occurred: int | None = None,
    public: bool = False,
    created: int | None = 1767220000,
) -> dict[str, Any]:
    """Build an event in the ``Default`` format.

    Args:
        host: this one, the repository, tag and digest as `event_data` takes them.
        repository: the full name.
        tag: or the digest, or None.
        digest: or None.
        event_type: Harbor's name of the event.
        operator: who did it.
        occurred: when, seconds since 1970; None is now.
        public: as `event_data` takes it.
        created: the same.
    """
    data = event_data(host, repository, tag, digest, public=public, created=created)
    return {
        "type": event_type,
        "occur_at": int(time.time()) if occurred is None else occurred,
        "operator": operator,
        "event_data": scanned(data) if event_type.startswith("SCANNING_") else data,
    }


def cloud_event(
    payload: Mapping[str, Any], *, project_id: int = 1, policy_id: int = 1, event_id: str | None = None
) -> dict[str, Any]:
    """Turn an event of the ``Default`` format into CloudEvents 1.0, structured mode.

    Args:
        payload: from `push_payload`.
        project_id: of the project.
        policy_id: of the policy; both make the ``source``.
        event_id: the same over all attempts of one delivery; None makes a new one.
    """
    occurred = datetime.fromtimestamp(payload["occur_at"], UTC)
    return {
        "specversion": "1.0",
        "id": event_id or str(uuid.uuid4()),
        "source": f"/projects/{project_id}/webhook/policies/{policy_id}",
        "type": CLOUD_EVENT_TYPES[payload["type"]],
        "datacontenttype": "application/json",
        "time": occurred.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "data": payload["event_data"],
        "operator": payload["operator"],
        "requestid": str(uuid.uuid4()),
    }


def policy_body(document: dict[str, Any], *, has_formats: bool) -> dict[str, Any]:
    """Return what Harbor keeps of a policy that it is sent; since 2.8 a target has a format.

    Raises:
        ValueError: with Harbor's words, if it takes no such policy; a name and an address with a scheme need not be.
        KeyError, TypeError, AttributeError: it is none at all.
    """
    name, event_types, targets = document.get("name", ""), document.get("event_types"), document.get("targets")
    if not event_types:
        raise ValueError("empty event type")
    if unknown := set(event_types) - CLOUD_EVENT_TYPES.keys():
        raise ValueError(f"unsupported event type {min(unknown)}")
    if not targets:
        raise ValueError(f"empty notification target with policy {name}")
    kept = []
    for target in targets:
        scheme, separator, _ = target["address"].partition("://")
        if not target["address"]:
            raise ValueError("empty URL")
        if separator and scheme not in ("http", "https"):
            raise ValueError(f"invalid scheme: {scheme}")
        if target["type"] not in ("http", "slack"):
            raise ValueError(f"unsupported target type {target['type']} with policy {name}")
        form = target.get("payload_format") or "Default"
        if form not in _FORMATS:
            raise ValueError(f"unsupported payload format type: {form}")
        kept.append({**target, "payload_format": form} if has_formats else target)
    return {
        "name": name,
        "description": document.get("description", ""),
        "enabled": document.get("enabled", False),
        "event_types": event_types,
        "targets": kept,
    }


@dataclass(slots=True)
class Policy:
    """A webhook policy of a project, as the API takes and shows it.

    Attributes:
        id: its number.
        project: the project's name.
        project_id: the project's number.
        body: name, description, enabled, event_types, targets.
        created: in seconds since 1970.
        updated: the same.
    """

    id: int
    project: str
    project_id: int
    body: dict[str, Any]
    created: float = field(default_factory=time.time)
    updated: float = field(default_factory=time.time)

    @property
    def enabled(self) -> bool:
        """Whether it is told anything."""
        return bool(self.body.get("enabled", False))

    def wants(self, event_type: str) -> bool:
        """Tell whether it is enabled and subscribed to an event."""
        return self.enabled and event_type in self.body["event_types"]

    def change(self, body: dict[str, Any]) -> None:
        """Replace what it says."""
        self.body = body
        self.updated = time.time()

    def shown(self) -> dict[str, Any]:
        """Return it as the API shows it: without what is empty, whether it is enabled aside."""
        targets = [{key: value for key, value in target.items() if value} for target in self.body["targets"]]
        shown = {"id": self.id, "project_id": self.project_id, **self.body, "targets": targets}
        shown |= {"creation_time": moment(self.created), "update_time": moment(self.updated)}
        return {key: value for key, value in shown.items() if value or key == "enabled"}


@dataclass(frozen=True, slots=True)
class Delivery:
    """One attempt to tell a receiver.

    Attributes:
        policy: the policy's number.
        attempt: from 1.
        status: of the answer; None if there was none in time.
        body: of the answer.
        event: what was sent.
        error: why there was no answer, if there was none.
        seconds: how long it took.
    """

    policy: int
    attempt: int
    status: int | None
    body: str
    event: Mapping[str, Any]
    error: str = ""
    seconds: float = field(default=0.0, compare=False)

    @property
    def succeeded(self) -> bool:
        """Whether Harbor is content: any 2xx."""
        return self.status is not None and 200 <= self.status < 300


class Webhooks:
    """The policies of a Harbor and the job that delivers. Use it as a context manager.

    Args:
        timeout: seconds a receiver has for a whole request.
        attempts: how often an event is tried in all; then it is gone for good.
        backoff: seconds before the second attempt, the third, …; the last one holds for all further ones.
        trust: what certificates of receivers are checked against; None: the system's authorities.

    Attributes:
        job_service: without it no event is sent: its task is lost, and nothing is tried again.
        busy_seconds: for how long after an event its policy can't be deleted; up to 20 at a real Harbor, and longer
            while a delivery waits for its next attempt.
    """

    def __init__(
        self, timeout: float, attempts: int, backoff: Sequence[float], trust: ssl.SSLContext | None = None
    ) -> None:
        self.timeout = timeout
        self.attempts = attempts
        self.backoff = tuple(backoff)
        self.policies: dict[int, Policy] = {}
        self.deliveries: list[Delivery] = []
        self.busy_seconds = 0.0
        self.job_service = True
        self._sent: dict[int, float] = {}
        self._trust = trust
        self._last_id = 0
        self._jobs: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=self.timeout),
            headers={"User-Agent": "Go-http-client/1.1", "Accept-Encoding": "gzip"},
            skip_auto_headers=["Accept"],
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        assert self._session is not None
        await self._session.close()

    def add(self, project: str, project_id: int, body: Mapping[str, Any]) -> Policy:
        """Create a policy."""
        self._last_id += 1
        policy = Policy(self._last_id, project, project_id, {"enabled": True, "description": "", **body})
        self.policies[policy.id] = policy
        return policy

    def of(self, project: str) -> list[Policy]:
        """Return a project's policies."""
        return [policy for policy in self.policies.values() if policy.project == project]

    def is_busy(self, policy: Policy) -> bool:
        """Tell whether a policy can't be deleted yet: an event was sent less than ``busy_seconds`` ago."""
        sent = self._sent.get(policy.id)
        return sent is not None and time.monotonic() - sent < self.busy_seconds

    def send(self, policy: Policy, payload: Mapping[str, Any]) -> None:
        """Begin to deliver an event to all targets of a policy."""
        if not self.job_service:
            return
        self._sent[policy.id] = time.monotonic()
        for target in policy.body["targets"]:
            event = payload
            if target.get("payload_format") == "CloudEvents":
                event = cloud_event(payload, project_id=policy.project_id, policy_id=policy.id)
            job = asyncio.create_task(self._deliver(policy.id, target, event))
            self._jobs.add(job)
            job.add_done_callback(self._jobs.discard)

    async def settled(self) -> None:
        """Wait until every event begun has been taken or given up, those begun meanwhile too."""
        while self._jobs:
            await asyncio.wait(self._jobs)

    async def _deliver(self, policy: int, target: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        for attempt in range(1, self.attempts + 1):
            if attempt > 1 and self.backoff:
                await asyncio.sleep(self.backoff[min(attempt - 2, len(self.backoff) - 1)])
            delivery = await self._attempt(policy, attempt, target, event)
            self.deliveries.append(delivery)
            if delivery.succeeded:
                return

    async def _attempt(
        self, policy: int, attempt: int, target: Mapping[str, Any], event: Mapping[str, Any]
    ) -> Delivery:
        assert self._session is not None, "used outside of its context"
        cloud = "specversion" in event
        headers = {"Content-Type": "application/cloudevents+json" if cloud else "application/json"}
        if target.get("auth_header"):
            headers["Authorization"] = target["auth_header"]
        verify: ssl.SSLContext | bool = False if target.get("skip_cert_verify") else (self._trust or True)
        began = time.monotonic()
        status, text, problem = None, "", ""
        try:
            async with self._session.post(
                target["address"], data=json.dumps(event).encode(), headers=headers, ssl=verify
            ) as response:
                text = (await response.read()).decode("utf-8", "replace")
                status = response.status
        except (aiohttp.ClientError, OSError) as error:
            problem = f"{type(error).__name__}: {error}"
        return Delivery(policy, attempt, status, text, event, problem, time.monotonic() - began)
