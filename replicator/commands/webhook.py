"""``replicator webhook``: create, show, test and remove Harbor's webhook policies."""

import dataclasses
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from replicator.commands.options import Auth, Config, Images, Json, rules_of, run, settings_of
from replicator.commands.status import existing_queue
from replicator.console import document, page, plain, say, stderr
from replicator.errors import FAILED, INTERRUPTED, OK, ConfigError, ErrorText, Problem, ReplicatorError, error_fields
from replicator.harbor.api import SILENT
from replicator.harbor.events import Answer, send_samples
from replicator.harbor.policy import shown_address
from replicator.harbor.registration import Change, Policies, PolicyChange, PolicyStatus
from replicator.networks import check_reachable, reach_warning
from replicator.queue import named, note_action, system_user
from replicator.reference import Repository
from replicator.registry import Access
from replicator.replication.transfer import access_by, open_registries
from replicator.rules import Rules
from replicator.settings import Settings
from replicator.tasks import stoppable

_DONE = frozenset({Change.CREATED, Change.UPDATED, Change.REMOVED})

Login = tuple[str, str]  # a user name and a password

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="Webhook URL as Harbor reaches it, .../webhooks/harbor (REPLICATOR_WEBHOOK_URL).",
    ),
]
Projects = Annotated[
    list[str] | None,
    typer.Option(
        "--project", metavar="NAME", help="Only this project; repeatable. Default: every project of the rules."
    ),
]
User = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Log in with this name instead of the rules' logins; prompts for the password."),
]
Sidecar = Annotated[
    bool, typer.Option("--sidecar", help="Harbor runs in the same pod or network namespace: accept a loopback address.")
]
SkipVerify = Annotated[bool, typer.Option("--skip-cert-verify", help="Do not verify the webhook's TLS certificate.")]

webhook = typer.Typer(help="Manage Harbor's webhook policies.", no_args_is_help=True, add_completion=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Scope:
    """The policies that a command works on.

    Attributes:
        settings: with the webhook's URL and token.
        rules: their sources are the Harbors and projects.
        projects: only these; empty for all.
        login: used instead of the rules' logins.
    """

    settings: Settings
    rules: Rules
    projects: Collection[str] = ()
    login: Login | None = None

    @classmethod
    def of(
        cls, context: typer.Context, projects: list[str] | None, user: str | None, *, sidecar: bool | None = None
    ) -> "Scope":
        """Load settings and rules, check the URL unless ``sidecar`` is None, and ask for the password of ``user``."""
        settings = settings_of(context, quiet=True)
        rules = rules_of(context, settings)
        if sidecar is not None:
            check_reachable(url := needed_url(settings), sidecar=sidecar)
            if not sidecar and (warning := reach_warning(url)):
                say(f"warning: {warning}", stderr())
        return cls(settings, rules, projects or (), _login(user))

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Policies]:
        """Open the policies.

        Raises:
            ConfigError: the login could go to several hosts.
        """
        find = access_by(self.rules.credentials)
        hosts = {source.registry for source in self.rules.sources()}
        if self.login is not None and len(hosts) > 1:
            problem = "the rules have several sources, and a password is for one host: put the logins under auth"
            raise ConfigError("command line", [Problem("--user", problem)])

        def access(repository: Repository) -> Access:
            found = find(repository)
            if self.login is None:
                return found
            return dataclasses.replace(found, username=self.login[0], password=self.login[1])

        async with open_registries(self.settings, access) as (registries, _):
            yield Policies(self.rules, registries, self.projects, self.login[0] if self.login is not None else "")


@webhook.command()
def register(
    context: typer.Context,
    webhook_url: Url = None,
    project: Projects = None,
    user: User = None,
    sidecar: Sidecar = False,
    skip_cert_verify: SkipVerify = False,
    as_json: Json = False,
    config: Config = None,
    auth: Auth = None,
    images: Images = None,
) -> None:
    """Create or correct the webhook policy in every project of the rules. Other policies stay unchanged."""
    scope = Scope.of(context, project, user, sidecar=sidecar)
    run(register_policies(scope, skip_cert_verify=skip_cert_verify, as_json=as_json, out=Console()))


@webhook.command("list")
def show(
    context: typer.Context,
    webhook_url: Url = None,
    project: Projects = None,
    user: User = None,
    as_json: Json = False,
    config: Config = None,
    auth: Auth = None,
    images: Images = None,
) -> None:
    """Show policies named replicator or with this URL, and their last deliveries."""
    run(show_policies(Scope.of(context, project, user), as_json=as_json, out=Console()))


@webhook.command("test")
def send_test(
    context: typer.Context, webhook_url: Url = None, skip_cert_verify: SkipVerify = False, as_json: Json = False
) -> None:
    """Send a sample event to the webhook from this machine, and explain the answer. Copies nothing."""
    run(try_webhook(settings_of(context, quiet=True), verify=not skip_cert_verify, as_json=as_json, out=Console()))


@webhook.command()
def unregister(
    context: typer.Context,
    webhook_url: Url = None,
    project: Projects = None,
    user: User = None,
    as_json: Json = False,
    config: Config = None,
    auth: Auth = None,
    images: Images = None,
) -> None:
    """Remove policies named replicator, and policies that send to this URL only."""
    run(remove_policies(Scope.of(context, project, user), as_json=as_json, out=Console()))


async def register_policies(scope: Scope, *, skip_cert_verify: bool, as_json: bool, out: Console) -> int:
    """Create or correct the policies; return the exit code.

    Raises:
        ConfigError: URL or token is missing, or the login could go to several hosts.
    """
    url, token = needed_url(scope.settings), needed_token(scope.settings)

    async def work(policies: Policies) -> list[PolicyChange]:
        return await policies.register(url, token, skip_cert_verify=skip_cert_verify)

    return await _change(scope, work, "register webhook", as_json=as_json, warn=True, out=out)


async def remove_policies(scope: Scope, *, as_json: bool, out: Console) -> int:
    """Remove our policies; return the exit code.

    Raises:
        ConfigError: the login could go to several hosts.
    """

    def waiting(projects: int) -> None:
        say(f"disabled; waiting up to 60 s for the last deliveries in {projects} project(s)", stderr())

    async def work(policies: Policies) -> list[PolicyChange]:
        return await policies.unregister(scope.settings.webhook_url, on_wait=waiting)

    return await _change(scope, work, "unregister webhook", as_json=as_json, out=out)


async def show_policies(scope: Scope, *, as_json: bool, out: Console) -> int:
    """Show our policies and their last deliveries; return the exit code.

    Raises:
        ConfigError: the login could go to several hosts.
    """

    async def work() -> tuple[list[PolicyStatus], list[PolicyChange], list[str]]:
        async with scope.open() as policies:
            return *await policies.show(scope.settings.webhook_url), policies.silent()

    if (result := await stoppable(work())) is None:
        return INTERRUPTED
    shown, others, silent = result
    if as_json:
        lists = {"policies": list(map(_policy_json, shown)), "others": list(map(_change_json, others))}
        document({**lists, "switched_off": silent}, out)
    else:
        page(_policies_table(shown, others), out)
        # Beside the table: a reason is longer than any of its columns.
        for each in filter(lambda other: other.note, others):
            _say_change(each, out)
        _warn(silent, out)
    return _code(others)


async def try_webhook(settings: Settings, *, verify: bool, as_json: bool, out: Console) -> int:
    """Send a sample in both payload formats to the webhook; return the exit code.

    Raises:
        ConfigError: URL or token is missing.
    """
    url, token = needed_url(settings), needed_token(settings)
    answers: list[Answer] | None = await stoppable(send_samples(url, token, verify=verify))
    if answers is None:
        return INTERRUPTED
    if as_json:
        document([dataclasses.asdict(answer) for answer in answers], out)
    else:
        for answer in answers:
            status = answer.status if answer.status is not None else "no answer"
            say(f"{'ok' if answer.ok else 'failed'}  {answer.format}: {status}: {answer.meaning}", out)
        if warning := reach_warning(url):
            say(f"warning: {warning}", out)
        say("The sample was sent from this machine. Harbor must reach the URL too: see replicator webhook list", out)
    return OK if all(answer.ok for answer in answers) else FAILED


def needed_token(settings: Settings) -> str | None:
    """Return the webhook's token; None if it accepts events from anyone.

    Raises:
        ConfigError: there is no token, and events from anyone are not allowed either.
    """
    if settings.token is not None or settings.webhook_anonymous:
        return settings.token
    message = "set it to the token of replicator serve, for Harbor to send; or set REPLICATOR_WEBHOOK_ANONYMOUS=true"
    raise ConfigError("settings", [Problem("REPLICATOR_WEBHOOK_TOKEN", message)])


def needed_url(settings: Settings) -> str:
    """Return the webhook's URL.

    Raises:
        ConfigError: there is none.
    """
    if settings.webhook_url is None:
        message = "give the webhook's URL as Harbor reaches it, e.g. https://replicator.example.com/webhooks/harbor"
        raise ConfigError("command line", [Problem("--url", message)])
    return settings.webhook_url


async def _change(
    scope: Scope,
    work: Callable[[Policies], Awaitable[list[PolicyChange]]],
    action: str,
    *,
    as_json: bool,
    out: Console,
    warn: bool = False,
) -> int:
    """Change the policies, note the action, and print the result; with ``warn`` also Harbors that send no events."""

    async def change() -> tuple[list[PolicyChange], list[str]]:
        async with scope.open() as policies:
            return await work(policies), policies.silent()

    if (result := await stoppable(change())) is None:
        return INTERRUPTED
    changes, silent = result
    await _note(scope.settings, action, changes)
    if as_json:
        document([_change_json(each) | {"switched_off": each.registry in silent} for each in changes], out)
    for each in () if as_json else changes:
        _say_change(each, out)
    if not changes and not as_json:
        say("no project: the rules contain none of the given projects", out)
    if not as_json and warn:
        _warn(silent, out)
    return _code(changes) if changes else FAILED


async def _note(settings: Settings, action: str, changes: list[PolicyChange]) -> None:
    """Note an action in the history, if there is a queue here: webhooks can be registered from anywhere."""
    done = [_project(each) for each in changes if each.change in _DONE]
    if not done:
        return
    facts = {"action": action, "what": named(done), "by": system_user()}
    try:
        async with existing_queue(settings) as queue:
            await note_action(queue, **facts)
    except ReplicatorError:
        await note_action(None, **facts)


def _warn(silent: list[str], out: Console) -> None:
    for registry in silent:
        say(f"warning    {registry}: {SILENT}", out)


def _policies_table(shown: list[PolicyStatus], others: list[PolicyChange]) -> Table:
    table = Table(
        "project", "policy", "enabled", "events", "format", "address", "last deliveries", box=None, pad_edge=False
    )
    for each in shown:
        targets = _policy_json(each)["targets"]
        table.add_row(
            plain(f"{each.registry}/{each.project}"),
            plain(each.policy.title),
            "yes" if each.policy.enabled else "no",
            plain(", ".join(each.policy.event_types)),
            plain(", ".join(target["payload_format"] for target in targets)),
            plain(", ".join(target["address"] for target in targets)),
            plain(_deliveries(each)),
        )
    for other in others:
        none = "none: replicator webhook register creates one"
        table.add_row(plain(_project(other)), none if other.change is Change.ABSENT else str(other.change))
    return table


def _code(changes: list[PolicyChange]) -> int:
    return FAILED if any(each.change is Change.FAILED for each in changes) else OK


def _project(change: PolicyChange) -> str:
    return f"{change.registry}/{change.project}" if change.project else change.registry


def _say_change(change: PolicyChange, out: Console) -> None:
    first, *more = ErrorText.parse(change.note).lines or [""]
    say(f"{change.change:9}  {_project(change)}{first and f': {first}'}", out)
    for line in more:
        say(line, out, indent=11)


def _change_json(change: PolicyChange) -> dict[str, Any]:
    return {
        "registry": change.registry,
        "project": change.project,
        "change": str(change.change),
        "note": str(ErrorText.parse(change.note)),
        **error_fields(change.note if change.change is Change.FAILED else None),
    }


def _policy_json(shown: PolicyStatus) -> dict[str, Any]:
    """Return a policy as JSON values, without the Authorization header that it sends."""
    policy = shown.policy
    return {
        "registry": shown.registry,
        "project": shown.project,
        "name": policy.name,
        "enabled": policy.enabled,
        "event_types": list(policy.event_types),
        "targets": [
            {
                "address": shown_address(target.address),
                "payload_format": target.payload_format,
                "skip_cert_verify": target.skip_cert_verify,
                "authorization": bool(target.auth_header),
            }
            for target in policy.targets
        ],
        "deliveries": None
        if shown.deliveries is None
        else [dataclasses.asdict(delivery) for delivery in shown.deliveries],
    }


def _deliveries(shown: PolicyStatus) -> str:
    if shown.deliveries is None:
        return "not available from this Harbor"
    return ", ".join(f"{each.status}{each.detail and f' ({each.detail})'}" for each in shown.deliveries) or "none yet"


def _login(user: str | None) -> Login | None:
    """Return a name and its password, from a prompt on a terminal or from the first line of stdin."""
    if user is None:
        return None
    if sys.stdin.isatty():
        return user, str(typer.prompt(f"Password of {user}", hide_input=True, err=True))
    return user, sys.stdin.readline(64 * 1024).rstrip("\r\n")
