"""Probes of Harbor's side of the webhook: the policy of each project, and what it delivered lately.

Probes of the webhook's own side: its token, and the address it listens on.

Probes of who is told what goes wrong; nothing is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from yarl import URL

from replicator.commands.check.findings import Finding, FindingState
from replicator.errors import ConfigError
from replicator.harbor.policy import EVENT_TYPES, NAME, PATH, canonical, is_webhook_path, names_in_query, shown_address
from replicator.harbor.policy_api import WebhookApi
from replicator.harbor.registration import advised, registration_problems
from replicator.receivers import Format
from replicator.reference import Repository
from replicator.registry.errors import Denied, RegistryError, Unauthorized
from replicator.server.http import bind, certificate_of
from replicator.server.probes import ask, asked_at, is_alive
from replicator.settings import split_address

if TYPE_CHECKING:
    from collections.abc import Sequence

    from replicator.harbor.policy import Policy, PolicyTarget
    from replicator.harbor.policy_api import Delivery
    from replicator.receivers import Receiver
    from replicator.registry import Registries
    from replicator.settings import Settings

_MAX_NAME = 60
_MEND = "replicator webhook test tells what an event meets; once that is mended, a backfill brings what was missed"


@dataclass(frozen=True, slots=True)
class Expected:
    """What a policy must be like.

    Attributes:
        url: the webhook's address as Harbor reaches it; None where the settings do not say.
        token: what it must send; None where the settings have none.
        anonymous: whether it need not send any.
        former: what is still taken beside the token.
        registry: the Harbor that an address of it must name, if it names any; None for any.
    """

    url: str | None
    token: str | None = field(repr=False)
    anonymous: bool = False
    former: tuple[str, ...] = field(default=(), repr=False)
    registry: str | None = None

    @classmethod
    def of(cls, settings: Settings) -> Expected:
        """Take it from the settings."""
        return cls(settings.webhook_url, settings.token, settings.webhook_anonymous, settings.former_tokens)

    def is_receiver(self, target: PolicyTarget) -> bool:
        """Tell whether a target is this webhook, as far as its address tells."""
        if self.url is not None:
            return target.is_at(self.url)
        try:
            return is_webhook_path(URL(target.address).path)
        except ValueError:
            return False


async def look_at_policies(registries: Registries, registry: str, project: str, expected: Expected) -> list[Finding]:
    """Look for the policy that tells this webhook of a project's pushes, and for its last deliveries.

    Args:
        registries: the way there.
        registry: a Harbor.
        project: the project's name.
        expected: what the policy must be like.
    """
    subject = f"{registry}/{project}"
    api = WebhookApi(registry, project, registries.transport(Repository(registry, f"{project}/x")))
    try:
        policies = await api.policies()
    except (Denied, Unauthorized):
        return [Finding("policy", subject, FindingState.NOT_TRIED, _lacking("list"))]
    except RegistryError as error:
        return [Finding("policy", subject, FindingState.FAILED, advised(error, project))]
    state, message, policy = judge_policies(policies, replace(expected, registry=registry))
    found = [Finding("policy", subject, state, message)]
    if policy is None:
        return found
    try:
        deliveries = await api.deliveries(policy)
    except (Denied, Unauthorized):
        return [*found, Finding("deliveries", subject, FindingState.NOT_TRIED, _lacking("read"))]
    except RegistryError as error:
        return [*found, Finding("deliveries", subject, FindingState.FAILED, advised(error, project))]
    return [*found, Finding("deliveries", subject, *judge_deliveries(deliveries))]


def _lacking(action: str) -> str:
    return (
        f"the login lacks notification-policy:{action} (Notification Policy: {action.capitalize()}), which nothing "
        "but this needs: give it that, or look with replicator webhook list --user NAME"
    )


def judge_policies(policies: Sequence[Policy], expected: Expected) -> tuple[FindingState, str, Policy | None]:
    """Judge a project's policies.

    Args:
        policies: all of them.
        expected: what one of them must be like.

    Returns:
        State, message, and the policy that sends here, if there is one.
    """
    ours = [policy for policy in policies if any(map(expected.is_receiver, policy.targets))]
    if not ours:
        return FindingState.FAILED, _missing(policies, expected), None
    policy = min(ours, key=lambda each: len(_problems(each, expected)))
    named = f"policy {policy.name[:_MAX_NAME]!r}"
    problems = _problems(policy, expected)
    if problems:
        mend = "replicator webhook register corrects it"
        return FindingState.FAILED, f"the {named} {' and '.join(problems)}: {mend}", policy
    if _sends_former(policy, expected):
        told = "tells of pushes with a former token: replicator webhook register gives it the new one"
        return FindingState.OK, f"the {named} {told}", policy
    if _names_in_query(policy, expected):
        told = "names its Harbor behind ?, which Harbor may leave out: replicator webhook register corrects it"
        return FindingState.OK, f"the {named} tells of pushes; its address {told}", policy
    more = f"; {len(ours) - 1} more send here too, so events come several times" if len(ours) > 1 else ""
    return FindingState.OK, f"the {named} tells of pushes{more}", policy


def _problems(policy: Policy, expected: Expected) -> list[str]:
    problems = [] if policy.enabled else ["is disabled"]
    if not set(EVENT_TYPES) <= set(policy.event_types):
        problems.append(f"is not told of pushes (Artifact pushed, {', '.join(EVENT_TYPES)})")
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
        return f"names {named[:_MAX_NAME]!r} as the Harbor that it is told from, and not {expected.registry!r}"
    if expected.anonymous and expected.token is None:
        return ""
    if not target.auth_header:
        return "sends no auth header, so that the webhook answers 401"
    if expected.token is not None and not any(map(target.sends, (expected.token, *expected.former))):
        return "sends another auth header than REPLICATOR_WEBHOOK_TOKEN, so that the webhook answers 401"
    return ""


def _missing(policies: Sequence[Policy], expected: Expected) -> str:
    namesake = next((policy for policy in policies if policy.name == NAME and policy.targets), None)
    if namesake is not None:
        where = shown_address(namesake.targets[0].address)
        want = "REPLICATOR_WEBHOOK_URL" if expected.url is not None else f"a path {PATH}"
        return f"the policy {NAME!r} sends to {where}, and not to {want}: replicator webhook register corrects it"
    want = shown_address(expected.url) if expected.url is not None else f"a path {PATH}"
    return (
        f"no policy sends to {want}, so that only a reconcile finds what is pushed: replicator webhook register makes "
        "one in each project"
    )


def judge_deliveries(deliveries: Sequence[Delivery] | None) -> tuple[FindingState, str]:
    """Judge what was delivered lately.

    Args:
        deliveries: the newest first; None where Harbor does not tell.
    """
    if deliveries is None:
        return FindingState.NOT_TRIED, "this Harbor does not tell; 2.8 and later do"
    ended = [each for each in deliveries if each.status in ("Success", "Error", "Stopped")]
    if not ended:
        return FindingState.OK, "none yet" if not deliveries else "the first is under way"
    failed = [each for each in ended if each.status != "Success"]
    if not failed:
        return FindingState.OK, f"the last {len(ended)} arrived" if len(ended) > 1 else "the last one arrived"
    told = f"{len(failed)} of the last {len(ended)} failed"
    if ended[0].status == "Success":
        return FindingState.OK, f"the last one arrived; {told}"
    when = f" at {ended[0].started}" if ended[0].started else ""
    detail = next((each.detail for each in failed if each.detail), "")
    return FindingState.FAILED, f"the last one failed{when}{detail and f' ({detail})'}, {told}: {_MEND}"


_SECONDS = 5.0
"""For all that is asked of who listens already."""
_MAX_PROBLEMS = 300


async def judge_webhook(settings: Settings) -> list[Finding]:
    """Tell whether ``serve`` has a token to know Harbor by, a certificate, and what making Harbor's policies needs."""
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
        return [Finding("webhook", settings.listen, FindingState.OK, "takes events from anyone, as the settings say")]
    message = "has no token, so serve does not start: set REPLICATOR_WEBHOOK_TOKEN (openssl rand -hex 32)"
    return [Finding("webhook", settings.listen, FindingState.FAILED, message)]


async def try_address(address: str, variable: str) -> list[Finding]:
    """Tell whether an address can be listened on, or is by a replicator already. It is free again afterwards.

    Args:
        address: ``host:port``.
        variable: the setting it is from.
    """
    try:
        # Without listening: nobody can connect meanwhile.
        (await asyncio.to_thread(bind, address)).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            state, message = await _taken(address, variable)
        else:
            state, message = FindingState.FAILED, _refusal(error, split_address(address)[0], variable)
        return [Finding("listen", address, state, message)]
    return [Finding("listen", address, FindingState.OK, "can be listened on")]


def _refusal(error: OSError, host: str, variable: str) -> str:
    if error.errno == errno.EACCES:
        return f"this user may not listen on a port below 1024: set {variable} to a higher one"
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return f"{host} is no address of this machine: set {variable} to one, or to 0.0.0.0:PORT"
    return f"can't be listened on ({error.strerror or error}): set {variable} to another address"


async def _taken(address: str, variable: str) -> tuple[FindingState, str]:
    """Ask who listens there already."""
    another = (FindingState.FAILED, f"another program listens there: end it, or set {variable} to another port")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SECONDS):
            for tls in (False, True):
                base = asked_at(address, tls=tls)
                if await is_alive(base):
                    return _judged(await ask(base / "readyz")) or another
    return another


def _judged(ready: dict[str, Any]) -> tuple[FindingState, str] | None:
    if ready.get("status") == "ready":
        return FindingState.OK, "a replicator runs here already, and is ready"
    if ready.get("status") == "not ready":
        problems = ready.get("problems")
        said = "; ".join(map(str, problems)) if isinstance(problems, list) else ""
        return FindingState.FAILED, f"a replicator runs here already, and is not ready: {said[:_MAX_PROBLEMS]}"
    return None


_SIGNED = frozenset({Format.DINGTALK, Format.FEISHU})


async def reach_receiver(receiver: Receiver) -> list[Finding]:
    """Connect to a receiver, with TLS where its address says so, and close the connection again.

    Args:
        receiver: who it is; no part of its address but the host is told.
    """

    def found(state: FindingState, message: str) -> list[Finding]:
        return [Finding("notify", receiver.host, state, message)]

    url = receiver.url
    assert url.host is not None  # noqa: S101 - no receiver is made without one
    assert url.port is not None  # noqa: S101 - the same
    try:
        _, writer = await asyncio.open_connection(url.host, url.port, ssl=url.scheme == "https" or None)
    except ssl.SSLCertVerificationError:
        return found(
            FindingState.FAILED, "its TLS certificate is not trusted here: SSL_CERT_FILE can name its authority"
        )
    except ssl.SSLError:
        return found(FindingState.FAILED, "no TLS there: is it plain http://?")
    except OSError:
        return found(FindingState.FAILED, "can't connect: is its name right, and is it reachable from here?")
    writer.transport.abort()
    signed = ""
    if receiver.format in _SIGNED:
        signed = ", signed" if receiver.secret is not None else ", not signed"
    return found(FindingState.OK, f"reached, as {receiver.format}{signed}; replicator notify test sends a sample")
