"""``replicator init``: write a first rules file and its ``.env`` from a few answers; works offline."""

import contextlib
import math
import os
import re
import secrets
import shlex
import sys
import tempfile
import termios
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

import typer
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from replicator.aliyun.acr import is_acr_host
from replicator.errors import ConfigError, Problem
from replicator.reference import is_registry, is_repository_name
from replicator.rules import parse

_ACR_EXAMPLE = "registry.cn-beijing.aliyuncs.com"
_QUESTIONS = {
    "harbor": "Harbor host, e.g. harbor.example.com",
    "harbor_user": "Harbor robot account (its full name), e.g. robot$replicator",
    "acr": f"ACR registry host, e.g. {_ACR_EXAMPLE}",
    "acr_user": "ACR user name, e.g. acr_pusher@1938562138124787",
    "namespace": "ACR namespace",
    "project": "Harbor projects to copy, separated by commas",
}
_HOSTS = frozenset({"harbor", "acr"})
_HTTP = "http://"
_SCHEME = re.compile("https?://", re.IGNORECASE)
_EXAMPLES = {"harbor": "harbor.example.com, or harbor:443 for a name without a dot", "acr": _ACR_EXAMPLE}
_VALUED = frozenset({"-u", "--username", "-p", "--password"})
"""Options of ``docker login`` that a value follows."""
_BEHIND_HOST = re.compile("[/?#]")
_AROUND = " \t\"'`<>\u201c\u201d\u2018\u2019\uff0c\u3002,;"
"""Characters around a pasted address: quotes, brackets and punctuation, also Chinese."""
_BETWEEN = re.compile("[,;\\s\uff0c\u3001\uff1b]+")
"""Separators of projects: commas and spaces, and the Chinese commas."""
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
    """Write a first rules file, and .env with its secrets. Asks for missing answers."""
    _check_free(() if force else (output, _ENVIRONMENT))
    given = {"harbor": harbor, "harbor_user": harbor_user, "acr": acr, "acr_user": acr_user, "namespace": namespace}
    given["project"] = ",".join(project) if project else None
    with _echo(shown=False):
        _write(_completed(given, ask=not yes), output, ask=not yes, force=force)


def _write(found: dict[str, str], output: Path, *, ask: bool, force: bool) -> None:
    """Ask for the passwords, and write both files."""
    answers = Answers(
        **{name: text.removeprefix(_HTTP) for name, text in found.items() if name != "project"}, projects=_names(found)
    )
    rules = render_rules(answers)
    passwords = ("", "")
    if ask:
        acr = f"{answers.acr_user} at ACR: that of its Access Credential page, not of the console"
        passwords = _password(answers.harbor_user), _password(acr)
    environment = render_environment(Tokens.new(), *passwords)
    write(_ENVIRONMENT, environment, mode=0o600, force=force)
    write(output, rules, mode=0o644, force=force)
    for warning in _doubts(answers):
        typer.echo(f"Warning: {warning}", err=True)
    _print_next_steps(output, answers, complete=all(passwords), plain=found["harbor"].startswith(_HTTP))


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
        texts = {"harbor": self.harbor, "harbor_user": self.harbor_user, "acr": self.acr, "acr_user": self.acr_user}
        texts |= {"namespace": self.namespace, "project": ",".join(self.projects)}
        if problems := [problem for name, text in texts.items() for problem in _problems(name, text)]:
            raise ConfigError("command line", problems)


def _names(found: dict[str, str]) -> tuple[str, ...]:
    names = (name.removesuffix("/**").strip("/") for name in _BETWEEN.split(found["project"]))
    return tuple(filter(None, names))


def _cleaned(name: str, text: str) -> str:
    """Return an answer without what a person copies with it.

    Of a browser's address, an image's name or a ``docker login`` command, only the host is left, behind ``http://`` if
    that was there. A text that may hold a password, and in which not just one word is a host, becomes empty.
    """
    if name not in _HOSTS:
        return text.strip().strip("/") if name == "namespace" else text.strip()
    words = _without_options(text.split())
    hosts = {host for host in map(_host, words) if is_registry(host.removeprefix(_HTTP))}
    if len(hosts) == 1:
        return hosts.pop()
    return _host(words[0]) if len(words) == 1 and "@" not in text else ""


def _without_options(words: list[str]) -> list[str]:
    """Return the words of a command that are no options, nor the user or password after one."""
    behind = ["", *words]
    return [
        word for before, word in zip(behind, words, strict=False) if not word.startswith("-") and before not in _VALUED
    ]


def _host(word: str) -> str:
    """Return the host of an address, behind ``http://`` if that was there. Only an address with a scheme has a user."""
    address = word.strip(_AROUND)
    bare = _SCHEME.sub("", address, count=1)
    authority = _BEHIND_HOST.split(bare, maxsplit=1)[0]
    host = (authority.rpartition("@")[2] if bare != address else authority).strip(_AROUND)
    return _HTTP + host if address.lower().startswith(_HTTP) else host


def _problems(name: str, text: str) -> list[Problem]:
    """Return what is wrong with the answer to one question."""
    option = f"--{name.replace('_', '-')}"
    if name in _HOSTS:
        host = text.removeprefix(_HTTP)
        if not host:
            return [Problem(option, f"no host was found in this answer, or several; example: {_EXAMPLES[name]}")]
        return [] if is_registry(host) else [Problem(option, f"{host!r} is not a host; example: {_EXAMPLES[name]}")]
    if name in ("harbor_user", "acr_user"):
        return [] if text else [Problem(option, "is empty")]
    names = _names({"project": text}) if name == "project" else (text,)
    if not names:
        return [Problem(option, "is missing: name at least one Harbor project")]
    wrong = [each for each in names if not is_repository_name(each) or "/" in each]
    return [
        Problem(option, f"{each!r} is no name: use lower-case letters, digits, - _ . and no slash") for each in wrong
    ]


def _doubts(answers: Answers) -> list[str]:
    """Say which user names are unlikely, though some are right."""
    found = []
    if re.fullmatch(r"robot\$?", answers.harbor_user, re.IGNORECASE):
        found.append(
            f"{answers.harbor_user!r} is unlikely: a robot account is robot$NAME, or robot$PROJECT+NAME. "
            "In double quotes the shell removes $NAME: use single quotes"
        )
    if is_acr_host(answers.acr) and "@" not in answers.acr_user:
        found.append(f"{answers.acr_user!r} has no @: a RAM user is NAME@ACCOUNT-ID, see ACR's Access Credential page")
    return found


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
    # What the options say is checked before the first question.
    cleaned = {name: _cleaned(name, value) for name, value in given.items() if value is not None}
    if problems := [problem for name, text in cleaned.items() for problem in _problems(name, text)]:
        raise ConfigError("command line", problems)
    return {name: cleaned[name] if name in cleaned else _ask(name) for name in given}


def _ask(name: str) -> str:
    """Ask a question until its answer is right; a wrong one costs no other answer."""
    while True:
        with _echo(shown=True):
            text = _cleaned(name, _answer(name))
        problems = _problems(name, text)
        if not problems:
            return text
        for problem in problems:
            typer.echo(f"  {problem.message}", err=True)


def _answer(name: str) -> str:
    try:
        return str(typer.prompt(_QUESTIONS[name]))
    except typer.Abort:
        if sys.stdin.isatty():
            raise
        # The answers of a pipe or a file have ended.
        raise ConfigError("command line", [Problem(f"--{name.replace('_', '-')}", "is missing")]) from None


@contextlib.contextmanager
def _echo(*, shown: bool) -> Iterator[None]:
    """Switch the terminal's echo: characters typed between two prompts may be a password, typed too early."""
    if not sys.stdin.isatty():
        yield
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    flags = before[3] | termios.ECHO if shown else before[3] & ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSANOW, [*before[:3], flags, *before[4:]])
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSANOW, before)


def _password(user: str) -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline(64 * 1024).rstrip("\r\n")
    question = f"Password of {user} (hidden; leave empty to fill it in later)"
    return str(typer.prompt(question, default="", show_default=False, hide_input=True))


def _print_next_steps(output: Path, answers: Answers, *, complete: bool, plain: bool) -> None:
    example = f"{answers.harbor}/{answers.projects[0]}/app:v1"
    # A robot account has no permission for webhook policies, unless someone grants it.
    login = " --user admin" if "$" in answers.harbor_user or "robot" in answers.harbor_user else ""
    config = shlex.quote(str(output))
    typer.echo(f"Written: {output} and {_ENVIRONMENT}, with tokens for the webhook, the status page and the API.")
    typer.echo("Next steps:")
    if not complete:
        typer.echo(f"  fill in the passwords in {_ENVIRONMENT}")
    if plain:
        typer.echo(
            f"  if {answers.harbor} has no HTTPS, add insecure: true to it in {output}; the password is then readable"
        )
    typer.echo(f"  replicator explain {example} --config {config}      # which rule matches; works offline")
    typer.echo(f"  replicator check --config {config}                  # test hosts, logins, permissions and queue")
    typer.echo(f"  replicator backfill --config {config} --dry-run     # list what would be copied")
    typer.echo(f"  replicator serve --config {config}                  # start it; also copies existing images")
    typer.echo(
        "  # connect Harbor; HOST is this machine as Harbor reaches it" + (login and ", admin a project administrator")
    )
    typer.echo(f"  replicator webhook register --config {config} --url http://HOST:8080/webhooks/harbor{login}")


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
