"""``replicator init``: write a first rules file and its ``.env`` from a few answers; works offline."""

import math
import os
import secrets
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

import typer
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from replicator.errors import ConfigError, Problem
from replicator.reference import is_registry, is_repository_name
from replicator.rules import parse

_QUESTIONS = {
    "harbor": "Harbor host, e.g. harbor.example.com",
    "harbor_user": "Harbor robot account, e.g. robot$replicator",
    "acr": "ACR registry host, e.g. registry.cn-beijing.aliyuncs.com",
    "acr_user": "ACR user name, e.g. acr_pusher@1938562138124787",
    "namespace": "ACR namespace",
    "project": "Harbor projects to copy, separated by commas",
}
_ENVIRONMENT = Path(".env")
_EXISTS = "already exists; --force overwrites it"


def init(
    harbor: Annotated[str | None, typer.Option(metavar="HOST", help="Harbor host.")] = None,
    harbor_user: Annotated[str | None, typer.Option(metavar="NAME", help="Harbor robot account.")] = None,
    acr: Annotated[str | None, typer.Option(metavar="HOST", help="ACR registry host.")] = None,
    acr_user: Annotated[str | None, typer.Option(metavar="NAME", help="ACR user name.")] = None,
    namespace: Annotated[str | None, typer.Option(metavar="NAME", help="ACR namespace.")] = None,
    project: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Harbor project to copy; repeatable.")
    ] = None,
    output: Annotated[Path, typer.Option(metavar="FILE", help="Rules file to write.")] = Path("rules.yaml"),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not prompt; fill in the passwords later.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite both files; all variables in an existing .env are lost.")
    ] = False,
) -> None:
    """Write a first rules file, and .env with its secrets; prompts for what no option gives."""
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
    environment = render_environment(Tokens.new(), *passwords)
    write(_ENVIRONMENT, environment, mode=0o600, force=force)
    write(output, rules, mode=0o644, force=force)
    _print_next_steps(output, f"{answers.harbor}/{projects[0]}/app:v1", complete=all(passwords))


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens that ``serve`` accepts.

    Attributes:
        webhook: what Harbor's webhook policy sends.
        status: the password of the status page.
        read: of the API, for those who may only read.
        operate: of the API, for those who may also act.
    """

    webhook: str
    status: str
    read: str
    operate: str

    @classmethod
    def new(cls) -> Self:
        """Make them: random, of 256 bits each."""
        return cls(*(secrets.token_hex(32) for _ in range(4)))


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers that the files are made from.

    Attributes:
        harbor: Harbor's host, with its port if it needs one.
        harbor_user: the robot account's full name, e.g. ``robot$replicator``.
        acr: ACR's registry host.
        acr_user: e.g. ``acr_pusher@1938562138124787``.
        namespace: ACR's namespace, one path segment.
        projects: Harbor's projects to copy.

    Raises:
        ConfigError: an answer is invalid; with every problem, by option.
    """

    harbor: str
    harbor_user: str
    acr: str
    acr_user: str
    namespace: str
    projects: tuple[str, ...]

    def __post_init__(self) -> None:
        problems = [
            Problem(option, f"{host!r} is no registry host: it needs a dot or a port, and no https://")
            for option, host in (("--harbor", self.harbor), ("--acr", self.acr))
            if not is_registry(host)
        ]
        problems += [
            Problem(option, f"{name!r} is no name: use lower-case letters, digits, - _ . and no slash")
            for option, name in (("--namespace", self.namespace), *(("--project", name) for name in self.projects))
            if not is_repository_name(name) or "/" in name
        ]
        problems += [
            Problem(option, "is empty")
            for option, name in (("--harbor-user", self.harbor_user), ("--acr-user", self.acr_user))
            if not name
        ]
        if not self.projects:
            problems.append(Problem("--project", "is missing: name at least one Harbor project"))
        if problems:
            raise ConfigError("command line", problems)


def _check_free(paths: tuple[Path, ...]) -> None:
    """Fail before the first prompt if a file exists."""
    for path in paths:
        if path.exists():
            raise ConfigError(str(path), [Problem("", _EXISTS)])


def _completed(given: dict[str, str | None], *, ask: bool) -> dict[str, str]:
    missing = [name for name, value in given.items() if value is None]
    if missing and not ask:
        problems = [Problem(f"--{name.replace('_', '-')}", "is missing, and --yes does not prompt") for name in missing]
        raise ConfigError("command line", problems)
    return {name: typer.prompt(_QUESTIONS[name]) if value is None else value for name, value in given.items()}


def _password(user: str) -> str:
    question = f"Password of {user} (hidden; leave it empty to fill it in later)"
    return str(typer.prompt(question, default="", show_default=False, hide_input=True))


def _print_next_steps(output: Path, example: str, *, complete: bool) -> None:
    config = shlex.quote(str(output))
    typer.echo(f"Written: {output} and {_ENVIRONMENT}, with tokens for the webhook, the status page and the API.")
    typer.echo("Next steps:")
    if not complete:
        typer.echo(f"  fill in the passwords in {_ENVIRONMENT}")
    typer.echo(f"  replicator explain {example} --config {config}      # which rule matches; works offline")
    typer.echo(f"  replicator check --config {config}                  # test hosts, logins, permissions and queue")
    typer.echo(f"  replicator backfill --config {config} --dry-run     # list what would be copied")
    typer.echo(f"  replicator serve --config {config}                  # start it; also copies existing images")
    typer.echo(
        f"  replicator webhook register --config {config} --url http://HOST:8080/webhooks/harbor   # connect Harbor"
    )


def render_rules(answers: Answers) -> str:
    """Return the text of the rules file.

    Raises:
        ConfigError: the rules' loader rejects it, e.g. because of a ``${`` in a user name.
    """
    text = (
        _environment()
        .get_template("rules.yaml.j2")
        .render(answers=answers, projects=tuple(dict.fromkeys(answers.projects)))
    )
    parse(text, "rules file", environ={"HARBOR_PASSWORD": "-", "ACR_PASSWORD": "-"})
    return text


def render_environment(tokens: Tokens, harbor_password: str = "", acr_password: str = "") -> str:
    """Return the text of ``.env``.

    Args:
        tokens: those that ``serve`` accepts.
        harbor_password: the robot account's secret; empty to fill it in later.
        acr_password: the ACR user's; likewise.

    Raises:
        ConfigError: a password contains a control character, which no HTTP header can carry.
    """
    for name, value in (("HARBOR_PASSWORD", harbor_password), ("ACR_PASSWORD", acr_password)):
        if any(ord(character) < 32 or ord(character) == 127 for character in value):
            raise ConfigError("command line", [Problem(name, "contains a control character, which can't be sent")])
    template = _environment().get_template("env.j2")
    return template.render(tokens=tokens, harbor_password=harbor_password, acr_password=acr_password)


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
    """Quote a text for YAML, in one line."""
    return str(yaml.safe_dump(text, default_style='"', width=math.inf)).rstrip("\n")


def _quoted(text: str) -> str:
    """Quote a text for ``.env``: within single quotes only backslash and quote are special."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def write(path: Path, text: str, *, mode: int, force: bool) -> None:
    """Write a UTF-8 file completely or not at all.

    Args:
        path: the file.
        text: its content.
        mode: its permissions; it never has more, not even while it is written.
        force: whether an existing file is overwritten.

    Raises:
        ConfigError: it exists, or can't be written.
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
                # Unlike a rename, a link fails if the path exists, also if another process created it just now.
                path.hardlink_to(name)
        finally:
            Path(name).unlink(missing_ok=True)
    except FileExistsError:
        raise ConfigError(str(path), [Problem("", _EXISTS)]) from None
    except OSError as error:
        raise ConfigError(str(path), [Problem("", f"can't be written: {error.strerror}")]) from None
