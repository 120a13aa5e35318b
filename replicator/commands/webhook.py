"""``replicator webhook`` and its commands: what they do, and how they tell it.

``replicator webhook``, which makes, shows, tries out and removes Harbor's webhook policies.
"""

import dataclasses
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from replicator.commands.options import Auth, Config, Images, given_rules, prepared_settings, run
from replicator.console import document, page, plain
from replicator.errors import FAILED, INTERRUPTED, OK, ConfigError, Problem
from replicator.harbor.policy import shown_address
from replicator.harbor.registration import Change, Policies, PolicyChange, PolicyStatus
from replicator.harbor.sample import Answer, send_samples
from replicator.reference import Repository
from replicator.registry import Access
from replicator.replication.transfer import access_by, open_registries
from replicator.rules import Rules
from replicator.settings import Settings
from replicator.tasks import stoppable

Login = tuple[str, str]
"""A name and a password to use instead of those in the rules."""


def needed_token(settings: Settings) -> str | None:
    """Return the webhook's token; None where it takes events from anyone.

    Raises:
        ConfigError: there is neither a token nor the word that none is wanted.
    """
    if settings.token is not None or settings.webhook_anonymous:
        return settings.token
    message = "set it to what replicator serve has, so that Harbor sends it; or set REPLICATOR_WEBHOOK_ANONYMOUS=true"
    raise ConfigError("settings", [Problem("REPLICATOR_WEBHOOK_TOKEN", message)])


def needed_url(settings: Settings) -> str:
    """Return the webhook's address.

    Raises:
        ConfigError: there is none.
    """
    if settings.webhook_url is None:
        message = "say where Harbor reaches the webhook, e.g. https://replicator.example.com/webhooks/harbor"
        raise ConfigError("command line", [Problem("--url", message)])
    return settings.webhook_url


async def register_policies(
    settings: Settings,
    rules: Rules,
    only: Collection[str],
    login: Login | None,
    *,
    skip_cert_verify: bool,
    as_json: bool,
    out: Console,
) -> int:
    """Make or correct the policies; return the exit code.

    Raises:
        ConfigError: address or token is missing, or the login could go to several hosts.
    """
    url, token = needed_url(settings), needed_token(settings)

    async def work(policies: Policies) -> list[PolicyChange]:
        return await policies.register(url, token, skip_cert_verify=skip_cert_verify)

    return await _changed(settings, rules, only, login, work, as_json=as_json, out=out)


async def remove_policies(
    settings: Settings, rules: Rules, only: Collection[str], login: Login | None, *, as_json: bool, out: Console
) -> int:
    """Remove our policies; return the exit code.

    Raises:
        ConfigError: the login could go to several hosts.
    """

    async def work(policies: Policies) -> list[PolicyChange]:
        return await policies.unregister(settings.webhook_url)

    return await _changed(settings, rules, only, login, work, as_json=as_json, out=out)


async def show_policies(
    settings: Settings, rules: Rules, only: Collection[str], login: Login | None, *, as_json: bool, out: Console
) -> int:
    """Show our policies and their last deliveries; return the exit code.

    Raises:
        ConfigError: the login could go to several hosts.
    """

    async def work() -> tuple[list[PolicyStatus], list[PolicyChange]]:
        async with _opened(settings, rules, only, login) as policies:
            return await policies.show(settings.webhook_url)

    result = await stoppable(work())
    if result is None:
        return INTERRUPTED
    shown, others = result
    if as_json:
        document({"policies": [_policy(each) for each in shown], "others": [_done(each) for each in others]}, out)
        return _code(others)
    table = Table("project", "policy", "enabled", "events", "format", "address", "last deliveries", box=None)
    for each in shown:
        values = _policy(each)
        table.add_row(
            plain(f"{each.registry}/{each.project}"),
            plain(each.policy.name),
            "yes" if each.policy.enabled else "no",
            plain(", ".join(each.policy.event_types)),
            plain(", ".join(target["payload_format"] for target in values["targets"])),
            plain(", ".join(target["address"] for target in values["targets"])),
            plain(_sent(each)),
        )
    for other in others:
        table.add_row(plain(_place(other)), plain(f"{other.change}{other.note and f': {other.note}'}"))
    page(table, out)
    return _code(others)


async def try_webhook(settings: Settings, *, verify: bool, as_json: bool, out: Console) -> int:
    """Send a sample in both formats to the webhook; return the exit code.

    Raises:
        ConfigError: address or token is missing.
    """
    answers: list[Answer] | None = await stoppable(
        send_samples(needed_url(settings), needed_token(settings), verify=verify)
    )
    if answers is None:
        return INTERRUPTED
    if as_json:
        document([dataclasses.asdict(answer) for answer in answers], out)
    else:
        for answer in answers:
            said = answer.status if answer.status is not None else "no answer"
            line = f"{'ok' if answer.ok else 'failed'}  {answer.format}: {said}: {answer.meaning}"
            out.print(plain(line), soft_wrap=True)
        out.print("This was sent from here; whether Harbor gets through is in: replicator webhook list", soft_wrap=True)
    return OK if all(answer.ok for answer in answers) else FAILED


async def _changed(
    settings: Settings,
    rules: Rules,
    only: Collection[str],
    login: Login | None,
    work: Callable[[Policies], Awaitable[list[PolicyChange]]],
    *,
    as_json: bool,
    out: Console,
) -> int:
    async def changing() -> list[PolicyChange]:
        async with _opened(settings, rules, only, login) as policies:
            return await work(policies)

    done = await stoppable(changing())
    if done is None:
        return INTERRUPTED
    if as_json:
        document([_done(each) for each in done], out)
    for each in () if as_json else done:
        out.print(plain(f"{each.change:9}  {_place(each)}{each.note and f': {each.note}'}"), soft_wrap=True)
    if not done and not as_json:
        out.print("no project: the rules name none that is meant", soft_wrap=True)
    return _code(done) if done else FAILED


@asynccontextmanager
async def _opened(
    settings: Settings, rules: Rules, only: Collection[str], login: Login | None
) -> AsyncIterator[Policies]:
    find = access_by(rules.credentials)
    hosts = {source.registry for source in rules.sources()}
    if login is not None and len(hosts) > 1:
        problem = "the rules have several sources, and a password goes to the host it is for: put logins under auth"
        raise ConfigError("command line", [Problem("--user", problem)])

    def access(repository: Repository) -> Access:
        found = find(repository)
        return found if login is None else dataclasses.replace(found, username=login[0], password=login[1])

    async with open_registries(settings, access) as (registries, _):
        yield Policies(rules, registries, only)


def _code(done: list[PolicyChange]) -> int:
    return FAILED if any(each.change is Change.FAILED for each in done) else OK


def _place(done: PolicyChange) -> str:
    return f"{done.registry}/{done.project}" if done.project else done.registry


def _done(done: PolicyChange) -> dict[str, Any]:
    return {"registry": done.registry, "project": done.project, "change": str(done.change), "note": done.note}


def _policy(shown: PolicyStatus) -> dict[str, Any]:
    """A policy as JSON values, without what it sends as Authorization."""
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


def _sent(shown: PolicyStatus) -> str:
    if shown.deliveries is None:
        return "not told by this Harbor"
    words = [f"{each.status}{each.detail and f' ({each.detail})'}" for each in shown.deliveries]
    return ", ".join(words) or "none yet"


Url = Annotated[
    str | None,
    typer.Option(help="The webhook's address as Harbor reaches it, .../webhooks/harbor (REPLICATOR_WEBHOOK_URL)."),
]
Projects = Annotated[
    list[str] | None, typer.Option("--project", help="Only this project; without: every one that the rules name.")
]
User = Annotated[
    str | None,
    typer.Option("--user", help="Log in as this instead of as the rules say; its password is asked, or read."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SkipVerify = Annotated[bool, typer.Option("--skip-cert-verify", help="Do not verify the webhook's TLS certificate.")]

webhook = typer.Typer(help="Have Harbor tell the replicator of pushes.", no_args_is_help=True)


@webhook.command()
def register(
    url: Url = None,
    project: Projects = None,
    user: User = None,
    skip_cert_verify: SkipVerify = False,
    as_json: Json = False,
    config: Config = None,
    auth: Auth = None,
    images: Images = None,
) -> None:
    """Make the webhook policy in every project that the rules name, or correct it; others are left alone."""
    settings = _settings(url, config=config, auth=auth, images=images)
    rules = given_rules(settings)
    login = _login(user)
    run(
        register_policies(
            settings, rules, project or (), login, skip_cert_verify=skip_cert_verify, as_json=as_json, out=Console()
        )
    )


@webhook.command("list")
def show(
    url: Url = None,
    project: Projects = None,
    user: User = None,
    as_json: Json = False,
    config: Config = None,
    auth: Auth = None,
    images: Images = None,
) -> None:
    """Show the policies of our name or address, and how their last deliveries went."""
    settings = _settings(url, config=config, auth=auth, images=images)
    rules = given_rules(settings)
    run(show_policies(settings, rules, project or (), _login(user), as_json=as_json, out=Console()))


@webhook.command("test")
def send_test(url: Url = None, skip_cert_verify: SkipVerify = False, as_json: Json = False) -> None:
    """Send a sample event to the webhook from here, and say what its answer means; nothing is copied."""
    settings = _settings(url)
    run(try_webhook(settings, verify=not skip_cert_verify, as_json=as_json, out=Console()))


@webhook.command()
def unregister(
    url: Url = None,
    project: Projects = None,
    user: User = None,
    as_json: Json = False,
    config: Config = None,
    auth: Auth = None,
    images: Images = None,
) -> None:
    """Remove the policies of our name, and those that do nothing but send to our address."""
    settings = _settings(url, config=config, auth=auth, images=images)
    rules = given_rules(settings)
    run(remove_policies(settings, rules, project or (), _login(user), as_json=as_json, out=Console()))


def _settings(url: str | None, **options: object) -> "Settings":
    return prepared_settings(None, quiet=True, webhook_url=url, **options)


def _login(user: str | None) -> tuple[str, str] | None:
    """Return a name and its password, asked on a terminal or read from the standard input's first line."""
    if user is None:
        return None
    if sys.stdin.isatty():
        return user, str(typer.prompt(f"Password of {user}", hide_input=True, err=True))
    return user, sys.stdin.readline(64 * 1024).rstrip("\r\n")
