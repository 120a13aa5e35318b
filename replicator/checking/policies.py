"""Probes of Harbor's side of the webhook: the policy of each project, and what it delivered lately."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from yarl import URL

from replicator.checking.findings import Finding, State
from replicator.harbor.policies import WebhookApi
from replicator.harbor.webhooks import (
    EVENT_TYPES,
    NAME,
    PATH,
    canonical,
    is_webhook_path,
    names_in_query,
    shown_address,
)
from replicator.reference import Repository
from replicator.registry.errors import Denied, RegistryError, Unauthorized
from replicator.webhooks.managing import advised

if TYPE_CHECKING:
    from collections.abc import Sequence

    from replicator.harbor.policies import Delivery
    from replicator.harbor.webhooks import Policy, Target
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

    def is_receiver(self, target: Target) -> bool:
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
        return [Finding("policy", subject, State.NOT_TRIED, _lacking("list"))]
    except RegistryError as error:
        return [Finding("policy", subject, State.FAILED, advised(error, project))]
    state, message, policy = judge_policies(policies, replace(expected, registry=registry))
    found = [Finding("policy", subject, state, message)]
    if policy is None:
        return found
    try:
        deliveries = await api.deliveries(policy)
    except (Denied, Unauthorized):
        return [*found, Finding("deliveries", subject, State.NOT_TRIED, _lacking("read"))]
    except RegistryError as error:
        return [*found, Finding("deliveries", subject, State.FAILED, advised(error, project))]
    return [*found, Finding("deliveries", subject, *judge_deliveries(deliveries))]


def _lacking(action: str) -> str:
    return (
        f"the login lacks notification-policy:{action} (Notification Policy: {action.capitalize()}), which nothing "
        "but this needs: give it that, or look with replicator webhook list --user NAME"
    )


def judge_policies(policies: Sequence[Policy], expected: Expected) -> tuple[State, str, Policy | None]:
    """Judge a project's policies.

    Args:
        policies: all of them.
        expected: what one of them must be like.

    Returns:
        State, message, and the policy that sends here, if there is one.
    """
    ours = [policy for policy in policies if any(map(expected.is_receiver, policy.targets))]
    if not ours:
        return State.FAILED, _missing(policies, expected), None
    policy = min(ours, key=lambda each: len(_problems(each, expected)))
    named = f"policy {policy.name[:_MAX_NAME]!r}"
    problems = _problems(policy, expected)
    if problems:
        mend = "replicator webhook register corrects it"
        return State.FAILED, f"the {named} {' and '.join(problems)}: {mend}", policy
    if _sends_former(policy, expected):
        told = "tells of pushes with a former token: replicator webhook register gives it the new one"
        return State.OK, f"the {named} {told}", policy
    if _names_in_query(policy, expected):
        told = "names its Harbor behind ?, which Harbor may leave out: replicator webhook register corrects it"
        return State.OK, f"the {named} tells of pushes; its address {told}", policy
    more = f"; {len(ours) - 1} more send here too, so events come several times" if len(ours) > 1 else ""
    return State.OK, f"the {named} tells of pushes{more}", policy


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


def _target_problem(target: Target, expected: Expected) -> str:
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


def judge_deliveries(deliveries: Sequence[Delivery] | None) -> tuple[State, str]:
    """Judge what was delivered lately.

    Args:
        deliveries: the newest first; None where Harbor does not tell.
    """
    if deliveries is None:
        return State.NOT_TRIED, "this Harbor does not tell; 2.8 and later do"
    ended = [each for each in deliveries if each.status in ("Success", "Error", "Stopped")]
    if not ended:
        return State.OK, "none yet" if not deliveries else "the first is under way"
    failed = [each for each in ended if each.status != "Success"]
    if not failed:
        return State.OK, f"the last {len(ended)} arrived" if len(ended) > 1 else "the last one arrived"
    told = f"{len(failed)} of the last {len(ended)} failed"
    if ended[0].status == "Success":
        return State.OK, f"the last one arrived; {told}"
    when = f" at {ended[0].started}" if ended[0].started else ""
    detail = next((each.detail for each in failed if each.detail), "")
    return State.FAILED, f"the last one failed{when}{detail and f' ({detail})'}, {told}: {_MEND}"
