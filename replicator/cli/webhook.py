"""``replicator webhook``, which makes, shows, tries out and removes Harbor's webhook policies."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from replicator.cli.options import Auth, Config, Images
from replicator.cli.preparing import given_rules, prepared_settings, run

if TYPE_CHECKING:
    from replicator.settings import Settings

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
    from replicator.webhooks import command

    login = _login(user)
    run(
        command.register(
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
    from replicator.webhooks import command

    run(command.show(settings, rules, project or (), _login(user), as_json=as_json, out=Console()))


@webhook.command("test")
def send_test(url: Url = None, skip_cert_verify: SkipVerify = False, as_json: Json = False) -> None:
    """Send a sample event to the webhook from here, and say what its answer means; nothing is copied."""
    settings = _settings(url)
    from replicator.webhooks import command

    run(command.send_test(settings, verify=not skip_cert_verify, as_json=as_json, out=Console()))


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
    from replicator.webhooks import command

    run(command.unregister(settings, rules, project or (), _login(user), as_json=as_json, out=Console()))


def _settings(url: str | None, **options: object) -> "Settings":
    return prepared_settings(None, quiet=True, webhook_url=url, **options)


def _login(user: str | None) -> tuple[str, str] | None:
    """Return a name and its password, asked on a terminal or read from the standard input's first line."""
    if user is None:
        return None
    if sys.stdin.isatty():
        return user, str(typer.prompt(f"Password of {user}", hide_input=True, err=True))
    return user, sys.stdin.readline(64 * 1024).rstrip("\r\n")
