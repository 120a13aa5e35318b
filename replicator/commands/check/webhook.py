"""Probes of the webhook: Harbor's policies and deliveries, our own address and token, and notification receivers."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from replicator.commands.check.findings import Finding, FindingState
from replicator.commands.health import ask, asked_at, is_alive
from replicator.errors import ConfigError, ErrorText
from replicator.harbor.api import SILENT, HarborApi, NoHarbor, advised
from replicator.harbor.events import PUSH, SCANNED
from replicator.harbor.policy import (
    NAME,
    PATH,
    WebhookApi,
    canonical,
    ends_with_slash,
    names_in_query,
    shown_address,
)
from replicator.harbor.registration import registration_problems
from replicator.networks import split_address
from replicator.receivers import EventReceiver, Format
from replicator.reference import Repository
from replicator.registry.errors import Denied, ProxyFailed, RegistryError, Unauthorized
from replicator.registry.proxies import connect
from replicator.server.http import bind, certificate_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from replicator.harbor.policy import Delivery, Policy, PolicyTarget
    from replicator.receivers import Receiver
    from replicator.registry import Registries
    from replicator.registry.proxies import Proxies
    from replicator.settings import Settings

_MAX_NAME = 60
_CORRECT = "replicator webhook register corrects it"
_REMEDY = (
    "replicator webhook test sends a sample event and explains the answer; after the fix, a backfill copies "
    "missed images"
)
_USER = (
    "the login is a user: use a robot account instead. It costs Harbor less CPU (0.03 s per request instead of 0.8 s, "
    "from 2.15 on), and wrong passwords do not lock it"
)
_ANSWER_SECONDS = 5.0
"""Timeout for all requests to the program that already listens at our address."""
_MAX_PROBLEMS = 300
"""Characters of a replicator's problems that are shown."""
_SIGNED = frozenset({Format.DINGTALK, Format.FEISHU})


@dataclass(frozen=True, slots=True)
class Expected:
    """The required form of a webhook policy.

    Attributes:
        url: the webhook's URL as Harbor reaches it; None if not set.
        token: the token that it must send; None if not set.
        anonymous: whether it may send none.
        former: old tokens that are still accepted.
        registry: the Harbor that the URL must name, if it names one; None for any.
        several: whether the rules have several sources, so that an event must tell its Harbor.
        names: by which this Harbor calls itself; empty if that is not known.
    """

    url: str | None
    token: str | None = field(repr=False)
    anonymous: bool = False
    former: tuple[str, ...] = field(default=(), repr=False)
    registry: str | None = None
    several: bool = False
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, settings: Settings) -> Expected:
        """Return the requirements of the settings."""
        return cls(settings.webhook_url, settings.token, settings.webhook_anonymous, settings.former_tokens)

    def is_receiver(self, target: PolicyTarget) -> bool:
        """Tell whether a target is this webhook, judged by its URL, or without one in the settings by its path."""
        return target.is_receiver(self.url)


async def look_at_policies(registries: Registries, registry: str, project: str, expected: Expected) -> list[Finding]:
    """Check a project's webhook policy and its last deliveries.

    Args:
        registries: the client.
        registry: a Harbor.
        project: the project's name.
        expected: the required policy.
    """
    subject = f"{registry}/{project}"
    api = WebhookApi(registry, project, registries.transport(Repository(registry, f"{project}/x")))
    try:
        policies = await api.policies()
    except (Denied, Unauthorized) as error:
        return [Finding("policy", subject, FindingState.NOT_TRIED, _lacking("list", error))]
    except RegistryError as error:
        return [Finding("policy", subject, FindingState.FAILED, advised(error, project))]
    expected = replace(expected, registry=registry)
    if expected.several:
        with contextlib.suppress(RegistryError):
            expected = replace(expected, names=(await api.system()).names)
    state, message, policy = judge_policies(policies, expected)
    found = [Finding("policy", subject, state, message)]
    if policy is None:
        return found
    try:
        deliveries = await api.deliveries(policy)
    except (Denied, Unauthorized) as error:
        return [*found, Finding("deliveries", subject, FindingState.NOT_TRIED, _lacking("read", error))]
    except RegistryError as error:
        return [*found, Finding("deliveries", subject, FindingState.FAILED, advised(error, project))]
    return [*found, Finding("deliveries", subject, *judge_deliveries(deliveries))]


async def look_at_harbor(registries: Registries, registry: str, project: str) -> list[Finding]:
    """Check a Harbor's system information; nothing if it is not a Harbor or shows none to this login."""
    transport = registries.transport(Repository(registry, f"{project}/x"))
    try:
        system = await WebhookApi(registry, project, transport).system()
    except NoHarbor:
        return []
    if not system.notifies:
        return [Finding("harbor", registry, FindingState.FAILED, SILENT)]
    if system.version is None:
        return []
    message = f"version {system.version[:_MAX_NAME]}, sends events"
    if is_named_otherwise(registry, system.names):
        own = system.names[0][:_MAX_NAME]
        message += (
            f"; it calls itself {own} in events and tokens: write {own} in the rules, with endpoint: for "
            f"the address to connect to, or keep the webhook's URL {PATH}/{registry}"
        )
    # A hint alone: without an answer nothing is said.
    with contextlib.suppress(RegistryError):
        if await HarborApi(registry, transport).is_user():
            message += f"; {_USER}"
    return [Finding("harbor", registry, FindingState.OK, message)]


def is_named_otherwise(registry: str, names: Sequence[str]) -> bool:
    """Tell whether a Harbor calls itself otherwise than the rules do; False if its names are not known."""
    return bool(names) and canonical(registry) not in map(canonical, names)


def _lacking(action: str, error: RegistryError) -> str:
    if isinstance(error, Unauthorized):
        return (
            "not logged in at Harbor, so only public projects are visible: check the username and password under auth, "
            "and whether the robot account has expired"
        )
    return (
        f"the login lacks notification-policy:{action} (Notification Policy: {action.capitalize()}), needed only "
        "by this check: grant it, or run replicator webhook list --user NAME; or the project does not exist"
    )


def judge_policies(policies: Sequence[Policy], expected: Expected) -> tuple[FindingState, str, Policy | None]:
    """Judge a project's policies.

    Returns:
        State, message, and the policy that sends to this webhook, if there is one.
    """
    ours = [policy for policy in policies if any(map(expected.is_receiver, policy.targets))]
    if not ours:
        return FindingState.FAILED, _missing(policies, expected), None
    policy = min(ours, key=lambda each: len(_problems(each, expected)))
    named = f"policy {policy.title[:_MAX_NAME]!r}"
    problems = _problems(policy, expected)
    if problems:
        return FindingState.FAILED, f"the {named} {' and '.join(problems)}: {_CORRECT}", policy
    if _sends_former(policy, expected):
        remedy = "replicator webhook register sets the new token"
        return FindingState.OK, f"the {named} reports pushes with an old token: {remedy}", policy
    if _names_in_query(policy, expected):
        query = "contains the Harbor's name in the query, which Harbor may drop"
        return FindingState.OK, f"the {named} reports pushes; its URL {query}: {_CORRECT}", policy
    if any(expected.is_receiver(target) and ends_with_slash(target.address) for target in policy.targets):
        return FindingState.OK, f"the {named} reports pushes; its URL ends with a slash: {_CORRECT}", policy
    more = (
        f"; {len(ours) - 1} more policies send to the same URL, so each event arrives several times"
        if len(ours) > 1
        else ""
    )
    if SCANNED not in policy.event_types:
        more += (
            f"; with the event Scanning finished ({SCANNED}), a copy that waits for a scan starts at once: {_CORRECT}"
        )
    return FindingState.OK, f"the {named} reports pushes{more}", policy


def _problems(policy: Policy, expected: Expected) -> list[str]:
    problems = [] if policy.enabled else ["is disabled"]
    if PUSH not in policy.event_types:
        problems.append(f"lacks the event type for pushes (Artifact pushed, {PUSH})")
    targets = [target for target in policy.targets if expected.is_receiver(target)]
    target = min(targets, key=lambda each: bool(_target_problem(each, expected)))
    problem = _target_problem(target, expected)
    return [*problems, *([problem] if problem else [])]


def _sends_former(policy: Policy, expected: Expected) -> bool:
    if expected.token is None:
        return False
    return not any(expected.is_receiver(target) and target.sends(expected.token) for target in policy.targets)


def _names_in_query(policy: Policy, expected: Expected) -> bool:
    return any(expected.is_receiver(target) and names_in_query(target.address) for target in policy.targets)


def _target_problem(target: PolicyTarget, expected: Expected) -> str:
    if target.type != "http":
        return f"notifies by {target.type[:_MAX_NAME]!r} instead of http"
    named = target.registry
    if named is not None and expected.registry is not None and canonical(named) != canonical(expected.registry):
        return f"sends {named[:_MAX_NAME]!r} as the Harbor's name instead of {expected.registry!r}"
    if named is None and expected.registry is not None and is_named_otherwise(expected.registry, expected.names):
        own = expected.names[0][:_MAX_NAME]
        return (
            f"does not send the Harbor's name, and Harbor calls itself {own!r} in events instead of "
            f"{expected.registry!r}"
        )
    if expected.anonymous and expected.token is None:
        return ""
    if not target.auth_header:
        return "sends no auth header, so the webhook answers 401"
    if expected.token is not None and not any(map(target.sends, (expected.token, *expected.former))):
        return "sends an auth header that is not REPLICATOR_WEBHOOK_TOKEN, so the webhook answers 401"
    return ""


def _missing(policies: Sequence[Policy], expected: Expected) -> str:
    namesake = next((policy for policy in policies if policy.name == NAME and policy.targets), None)
    if namesake is not None:
        where = shown_address(namesake.targets[0].address)
        want = "REPLICATOR_WEBHOOK_URL" if expected.url is not None else f"a path {PATH}"
        return f"the policy {NAME!r} sends to {where} instead of {want}: {_CORRECT}"
    want = shown_address(expected.url) if expected.url is not None else f"a path {PATH}"
    return (
        f"no policy sends to {want}, so only a reconcile finds new images: replicator webhook register creates one "
        "in each project"
    )


def judge_deliveries(deliveries: Sequence[Delivery] | None) -> tuple[FindingState, str]:
    """Judge a policy's last deliveries.

    Args:
        deliveries: the newest first; None if this Harbor does not list them.
    """
    if deliveries is None:
        return FindingState.NOT_TRIED, "this Harbor does not list deliveries; 2.8 and later do"
    ended = [each for each in deliveries if each.status in ("Success", "Error", "Stopped")]
    if not ended:
        return FindingState.OK, "none yet" if not deliveries else "the first is in progress"
    failed = [each for each in ended if each.status != "Success"]
    if not failed:
        return FindingState.OK, f"the last {len(ended)} arrived" if len(ended) > 1 else "the last one arrived"
    failures = f"{len(failed)} of the last {len(ended)} failed"
    if ended[0].status == "Success":
        return FindingState.OK, f"the last one arrived; {failures}"
    when = f" at {ended[0].started}" if ended[0].started else ""
    detail = next((each.detail for each in failed if each.detail), "")
    return FindingState.FAILED, f"the last one failed{when}{detail and f' ({detail})'}, {failures}: {_REMEDY}"


async def judge_webhook(settings: Settings) -> list[Finding]:
    """Check the webhook's token and certificate, and the settings that registration needs."""
    problems = registration_problems(settings)
    try:
        certificate_of(settings)
    except ConfigError as error:
        problems += error.problems
    if problems:
        return [Finding("webhook", settings.listen, FindingState.FAILED, str(problem)) for problem in problems]
    if settings.token is not None:
        return [Finding("webhook", settings.listen, FindingState.OK, "has a token")]
    if settings.webhook_anonymous:
        return [Finding("webhook", settings.listen, FindingState.OK, "accepts events from anyone, as the settings say")]
    message = "has no token, so serve does not start: set REPLICATOR_WEBHOOK_TOKEN (openssl rand -hex 32)"
    return [Finding("webhook", settings.listen, FindingState.FAILED, message)]


async def try_address(address: str, variable: str) -> list[Finding]:
    """Check that an address is free, or that a replicator already listens there.

    Args:
        address: ``host:port``.
        variable: the setting that it is from.
    """
    try:
        # Bound but not listening: no client can connect to the check.
        (await asyncio.to_thread(bind, address)).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            state, message = await _listener(address, variable)
        else:
            state, message = FindingState.FAILED, _bind_error(error, split_address(address)[0], variable)
        return [Finding("listen", address, state, message)]
    return [Finding("listen", address, FindingState.OK, "is free")]


def _bind_error(error: OSError, host: str, variable: str) -> str:
    if error.errno == errno.EACCES:
        return f"this user can't listen on a port below 1024: set {variable} to a higher one"
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return f"{host} is no address of this machine: set {variable} to one, or to 0.0.0.0:PORT"
    return f"can't be listened on ({error.strerror or error}): set {variable} to another address"


async def _listener(address: str, variable: str) -> tuple[FindingState, str]:
    """Find out which program listens at an address."""
    another = (
        FindingState.FAILED,
        f"another program listens there: stop it, or set {variable} to another port, e.g. in .env",
    )
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_ANSWER_SECONDS):
            for tls in (False, True):
                base = asked_at(address, tls=tls)
                if await is_alive(base):
                    return _readiness(await ask(base / "readyz")) or another
    return another


def _readiness(ready: dict[str, Any]) -> tuple[FindingState, str] | None:
    if ready.get("status") == "ready":
        return FindingState.OK, "a replicator already runs here, and is ready"
    if ready.get("status") == "not ready":
        problems = ready.get("problems")
        reasons = "; ".join(map(str, problems)) if isinstance(problems, list) else ""
        return FindingState.FAILED, f"a replicator already runs here, and is not ready: {reasons[:_MAX_PROBLEMS]}"
    return None


async def reach_receiver(name: str, receiver: Receiver | EventReceiver, proxies: Proxies) -> list[Finding]:
    """Connect to a receiver of notifications or CloudEvents and close the connection; nothing is sent.

    The findings name its host only: the rest of its URL is a secret.

    Args:
        name: of the findings.
        receiver: the receiver.
        proxies: those of the environment.
    """

    def found(state: FindingState, message: str) -> list[Finding]:
        return [Finding(name, receiver.host, state, message)]

    url = receiver.url
    tls = ssl.create_default_context() if url.scheme == "https" else None
    try:
        writer = await connect(url, proxies.find(url), tls)
    except ProxyFailed as error:
        return found(FindingState.FAILED, ErrorText.of(error).stored)
    except ssl.SSLCertVerificationError:
        return found(
            FindingState.FAILED, "its TLS certificate is not trusted here: set SSL_CERT_FILE to its authority's file"
        )
    except ssl.SSLError:
        return found(FindingState.FAILED, "does not speak TLS: is it plain http://?")
    except OSError:
        return found(FindingState.FAILED, "can't connect: check its name, and that it is reachable from here")
    writer.transport.abort()
    words = proxies.describe(url)
    how = f"reachable {words}" if words else "reachable"
    if isinstance(receiver, EventReceiver):
        return found(FindingState.OK, how)
    signed = ""
    if receiver.format in _SIGNED:
        signed = ", signed" if receiver.secret is not None else ", not signed"
    return found(FindingState.OK, f"{how}, {receiver.format}{signed}; replicator notify test sends a test message")
