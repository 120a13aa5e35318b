"""``replicator init``: the first rules file and its ``.env``."""

import secrets
import shlex
from pathlib import Path
from typing import Annotated

import typer

from replicator.errors import ConfigError, Problem

_QUESTIONS = {
    "harbor": "Harbor's host, e.g. harbor.example.com",
    "harbor_user": "Name of the robot account there, e.g. robot$replicator",
    "acr": "Registry host of ACR, e.g. registry.cn-beijing.aliyuncs.com",
    "acr_user": "User there, e.g. acr_pusher@1938562138124787",
    "namespace": "Namespace there",
    "project": "Projects of Harbor to copy, with commas between",
}
_ENVIRONMENT = Path(".env")


def init(
    harbor: Annotated[str | None, typer.Option(help="Harbor's host.")] = None,
    harbor_user: Annotated[str | None, typer.Option(help="Name of the robot account there.")] = None,
    acr: Annotated[str | None, typer.Option(help="Registry host of ACR.")] = None,
    acr_user: Annotated[str | None, typer.Option(help="User there.")] = None,
    namespace: Annotated[str | None, typer.Option(help="Namespace there.")] = None,
    project: Annotated[list[str] | None, typer.Option(help="A project of Harbor to copy; several times.")] = None,
    output: Annotated[Path, typer.Option(help="The rules file to write.")] = Path("rules.yaml"),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing; passwords are filled in later.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace both files, and all that .env holds, if they are there.")
    ] = False,
) -> None:
    """Write a first rules file, and .env for its secrets; asks for what no option says."""
    _check_free(() if force else (output, _ENVIRONMENT))
    given = {"harbor": harbor, "harbor_user": harbor_user, "acr": acr, "acr_user": acr_user, "namespace": namespace}
    given["project"] = ",".join(project) if project else None
    found = _completed(given, ask=not yes)
    from replicator.starting import Answers, render_environment, render_rules, write

    projects = tuple(name.strip() for name in found.pop("project").split(",") if name.strip())
    answers = Answers(**found, projects=projects)
    rules = render_rules(answers)
    passwords = ("", "")
    if not yes:
        passwords = _password(answers.harbor_user), _password(answers.acr_user)
    environment = render_environment(secrets.token_hex(32), *passwords)
    write(_ENVIRONMENT, environment, mode=0o600, force=force)
    write(output, rules, mode=0o644, force=force)
    _tell_what_next(output, f"{answers.harbor}/{projects[0]}/app:v1", complete=all(passwords))


def _check_free(paths: tuple[Path, ...]) -> None:
    """Refuse before any question is asked."""
    for path in paths:
        if path.exists():
            raise ConfigError(str(path), [Problem("", "is there already; --force replaces it")])


def _completed(given: dict[str, str | None], *, ask: bool) -> dict[str, str]:
    missing = [name for name, value in given.items() if value is None]
    if missing and not ask:
        problems = [Problem(f"--{name.replace('_', '-')}", "is missing, and --yes asks nothing") for name in missing]
        raise ConfigError("command line", problems)
    return {name: typer.prompt(_QUESTIONS[name]) if value is None else value for name, value in given.items()}


def _password(user: str) -> str:
    question = f"Password of {user} (not shown; empty: fill it in later)"
    return str(typer.prompt(question, default="", show_default=False, hide_input=True))


def _tell_what_next(output: Path, example: str, *, complete: bool) -> None:
    config = shlex.quote(str(output))
    typer.echo(f"Written: {output} and {_ENVIRONMENT}. What next:")
    if not complete:
        typer.echo(f"  fill in the passwords in {_ENVIRONMENT}")
    typer.echo(f"  replicator explain {example} --config {config}      # what the rules mean; nothing is contacted")
    typer.echo(f"  replicator check --config {config}                  # hosts, logins, permissions, the queue")
    typer.echo(f"  replicator backfill --config {config} --dry-run     # what would be copied")
    typer.echo(f"  replicator serve --config {config}                  # start it; brings what is there already, too")
    typer.echo(
        f"  replicator webhook register --config {config} --url http://HOST:8080/webhooks/harbor   # tell Harbor"
    )
