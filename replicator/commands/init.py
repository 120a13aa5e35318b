"""``replicator init``: the first rules file and its ``.env``.

From answers to the text of the two files.

What must be known before the first rules file can be written.

Writes a file whole or not at all, and over another one only where that is meant.

The first files of an installation: a rules file and its ``.env``, from a few answers. No network.
"""

import math
import os
import secrets
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from replicator.errors import ConfigError, Problem
from replicator.reference import is_registry, is_repository_name
from replicator.rules import parse

__all__ = ["Answers", "render_environment", "render_rules", "write"]

_QUESTIONS = {
    "harbor": "Harbor's host, e.g. harbor.example.com",
    "harbor_user": "Name of the robot account there, e.g. robot$replicator",
    "acr": "Registry host of ACR, e.g. registry.cn-beijing.aliyuncs.com",
    "acr_user": "User there, e.g. acr_pusher@1938562138124787",
    "namespace": "Namespace there",
    "project": "Projects of Harbor to copy, with commas between",
}
_ENVIRONMENT = Path(".env")


@dataclass(frozen=True, slots=True)
class Answers:
    """Who copies what from where to where.

    Attributes:
        harbor: Harbor's host, with a port if it has one.
        harbor_user: the robot's whole name, e.g. ``robot$replicator``.
        acr: the host of the registry that is copied to.
        acr_user: the user there, e.g. ``acr_pusher@1938562138124787``.
        namespace: the namespace there, one segment.
        projects: the projects of Harbor that are copied.

    Raises:
        ConfigError: something can't be what it should be; with every problem at once, by option.
    """

    harbor: str
    harbor_user: str
    acr: str
    acr_user: str
    namespace: str
    projects: tuple[str, ...]

    def __post_init__(self) -> None:
        problems = [
            Problem(option, f"{host!r} is no registry's host: write it with a dot or a port, without https://")
            for option, host in (("--harbor", self.harbor), ("--acr", self.acr))
            if not is_registry(host)
        ]
        problems += [
            Problem(option, f"{name!r} is no single name: lower-case letters, digits, - _ . and no slash")
            for option, name in (("--namespace", self.namespace), *(("--project", name) for name in self.projects))
            if not is_repository_name(name) or "/" in name
        ]
        problems += [
            Problem(option, "is empty")
            for option, name in (("--harbor-user", self.harbor_user), ("--acr-user", self.acr_user))
            if not name
        ]
        if not self.projects:
            problems.append(Problem("--project", "is missing: name at least one project of Harbor"))
        if problems:
            raise ConfigError("command line", problems)


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


def render_rules(answers: Answers) -> str:
    """Return the text of the rules file; the loader of the rules takes it.

    Raises:
        ConfigError: the loader would refuse it, e.g. because of a ``${`` in a user's name.
    """
    text = _environment().get_template("rules.yaml.j2").render(answers=answers, projects=_once(answers.projects))
    parse(text, "rules file", environ={"HARBOR_PASSWORD": "-", "ACR_PASSWORD": "-"})
    return text


def render_environment(token: str, harbor_password: str = "", acr_password: str = "") -> str:
    """Return the text of ``.env``.

    Args:
        token: what Harbor's webhook policy sends.
        harbor_password: the robot's secret; empty for a place to fill in.
        acr_password: the same of the other registry.

    Raises:
        ConfigError: a password has a control character in it, which can't be sent.
    """
    for name, value in (("HARBOR_PASSWORD", harbor_password), ("ACR_PASSWORD", acr_password)):
        if any(ord(character) < 32 or ord(character) == 127 for character in value):
            raise ConfigError("command line", [Problem(name, "holds a control character, which can't be sent")])
    template = _environment().get_template("env.j2")
    return template.render(token=token, harbor_password=harbor_password, acr_password=acr_password)


def _environment() -> Environment:
    environment = Environment(  # noqa: S701 - the result is YAML and .env, quoted by the filters; never HTML
        loader=PackageLoader("replicator.commands"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
    )
    environment.filters["scalar"] = _scalar
    environment.filters["quoted"] = _quoted
    return environment


def _scalar(text: str) -> str:
    """Quote a text for YAML, on one line."""
    return str(yaml.safe_dump(text, default_style='"', width=math.inf)).rstrip("\n")


def _quoted(text: str) -> str:
    """Quote a text for ``.env``: between single quotes only the backslash and the quote have a meaning."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _once(projects: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(projects))


def write(path: Path, text: str, *, mode: int, force: bool) -> None:
    """Write a file.

    Args:
        path: where.
        text: what; UTF-8.
        mode: its permissions, from the first moment on at most these.
        force: whether a file that is there is replaced.

    Raises:
        ConfigError: it is there already, or can't be written.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                os.fchmod(file.fileno(), mode)
            if force:
                Path(name).replace(path)
            else:
                # Unlike a rename, a link fails where something is, whoever put it there meanwhile.
                path.hardlink_to(name)
        finally:
            Path(name).unlink(missing_ok=True)
    except FileExistsError:
        raise ConfigError(str(path), [Problem("", "is there already; --force replaces it")]) from None
    except OSError as error:
        raise ConfigError(str(path), [Problem("", f"can't be written: {error.strerror}")]) from None
