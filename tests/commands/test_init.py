"""``replicator init``: from a few answers to files that work."""

from __future__ import annotations

import io
import os
import pty
import re
from typing import TYPE_CHECKING

import pytest
from dotenv import dotenv_values
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from replicator.commands import app
from replicator.commands.init import Answers, Tokens, _cleaned, _echo, _problems, render_environment, render_rules
from replicator.errors import ConfigError
from replicator.reference import Reference
from replicator.rules import load, parse
from replicator.settings import Settings
from tests.running import replicator

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS = (
    *("init", "--harbor=harbor.example.com", "--harbor-user=robot$replicator"),
    *("--acr=registry.cn-beijing.aliyuncs.com", "--acr-user=acr_pusher@1938562138124787"),
    *("--namespace=mirror", "--project=team", "--project=library"),
)
SECRETS = {"HARBOR_PASSWORD": "x", "ACR_PASSWORD": "y"}
PRINTABLE = st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), max_size=30)


def destinations(path: Path, image: str) -> list[str]:
    found = load(path, environ=SECRETS).destinations(Reference.parse(image))
    return [str(request.destination) for request in found]


async def test_options_alone_make_files_that_the_program_takes(tmp_path: Path) -> None:
    ended = await replicator(*OPTIONS, "--yes", cwd=tmp_path)
    assert ended.code == 0, ended.said
    assert destinations(tmp_path / "rules.yaml", "harbor.example.com/team/app/api:v1") == [
        "registry.cn-beijing.aliyuncs.com/mirror/team-app-api:v1"
    ]
    environment = dotenv_values(tmp_path / ".env")
    assert len(environment["REPLICATOR_WEBHOOK_TOKEN"] or "") == 64
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    assert "fill in the passwords" in ended.out
    assert not re.search("[0-9a-f]{64}", ended.said), "no token is printed"
    explained = await replicator(
        *("explain", "harbor.example.com/library/nginx:1", "--config=rules.yaml"), cwd=tmp_path, settings=SECRETS
    )
    assert explained.code == 0, explained.said
    assert "mirror/library-nginx:1" in explained.out


@pytest.mark.parametrize("name", ["rules.yaml", ".env"])
async def test_a_file_that_is_there_is_kept_without_force(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    ended = await replicator(*OPTIONS, "--yes", cwd=tmp_path)
    assert ended.code == 2
    assert "--force" in ended.err
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"
    assert (await replicator(*OPTIONS, "--yes", "--force", cwd=tmp_path)).code == 0
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600


async def test_every_missing_or_wrong_answer_is_told_and_nothing_written(tmp_path: Path) -> None:
    ended = await replicator("init", "--yes", "--harbor=harbor.example.com", cwd=tmp_path)
    assert ended.code == 2
    assert "--acr-user: is missing" in ended.err
    wrong = await replicator(*OPTIONS, "--yes", "--harbor=https://x", "--namespace=a/b", cwd=tmp_path)
    assert wrong.code == 2
    assert "--harbor:" in wrong.err
    assert "--namespace:" in wrong.err
    assert list(tmp_path.iterdir()) == []


def test_passwords_that_are_asked_for_stand_in_the_environment_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = ["harbor.example.com", "robot$r", "registry.cn-beijing.aliyuncs.com", "u@1", "mirror", "team, library"]
    ended = CliRunner().invoke(app, ["init"], input="\n".join([*lines, "pa$$'w\\", "other-secret", ""]))
    assert ended.exit_code == 0, ended.output
    environment = dotenv_values(tmp_path / ".env", interpolate=False)
    assert (environment["HARBOR_PASSWORD"], environment["ACR_PASSWORD"]) == ("pa$$'w\\", "other-secret")
    assert "other-secret" not in ended.output + (tmp_path / "rules.yaml").read_text()
    assert "fill in" not in ended.output


def test_a_pasted_address_is_taken_and_one_wrong_answer_is_asked_again_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answers = ["harbor", " https://harbor.example.com/ ", "robot$r", "HTTP://acr.example.com", "u@1"]
    answers += ["a/b", "mirror", "Team", "team", "", ""]
    ended = CliRunner().invoke(app, ["init"], input="\n".join([*answers, ""]))
    assert ended.exit_code == 0, ended.output
    assert ended.output.count("Harbor host") == ended.output.count("ACR namespace") == 2
    assert ended.output.count("Harbor robot account") == 1
    assert "'harbor' is not a host" in ended.output
    assert destinations(tmp_path / "rules.yaml", "harbor.example.com/team/a:1") == ["acr.example.com/mirror/team-a:1"]


@pytest.mark.parametrize(
    "pasted",
    [
        "https://harbor.example.com/harbor/projects/3/repositories",
        "harbor.example.com/team",
        "https://jane:secret@harbor.example.com",
        '"harbor.example.com"',
        "<https://harbor.example.com/>",
        "harbor.example.com\u3002",
        "docker login --username=jane harbor.example.com",
        "docker pull harbor.example.com/team/app:v1",
        "docker login harbor.example.com -u u@1 -p pass.word",
        "docker login -u jane@x.example --password pass.word harbor.example.com",
        "docker login harbor.example.com --username=jane@x.example",
        "harbor.example.com/team/app@sha256:0123",
    ],
)
def test_the_host_is_found_in_what_people_paste(pasted: str) -> None:
    assert (_cleaned("harbor", pasted), _cleaned("acr", pasted)) == ("harbor.example.com", "harbor.example.com")


@pytest.mark.parametrize(
    "pasted",
    [
        "",
        "echo pass.word | docker login --password-stdin acr.example.com",
        "a.example.com, b.example.com",
        "robot@pass.word",
        "https://user:pa/ss@host/x",
        "docker login -p pass.word",
    ],
)
def test_a_text_with_another_number_of_hosts_is_refused_and_not_shown(pasted: str) -> None:
    assert _cleaned("acr", pasted) == ""
    (problem,) = _problems("acr", "")
    assert str(problem) == (
        "--acr: no host was found in this answer, or several; example: registry.cn-beijing.aliyuncs.com"
    )


async def test_pasted_lists_are_taken_and_plain_http_is_told_of(tmp_path: Path) -> None:
    more = ("--harbor=http://10.0.0.5:8080/", "--namespace=mirror/", "--project=team\uff0clibrary/** base\u3001")
    ended = await replicator(*OPTIONS, *more, "--yes", cwd=tmp_path)
    assert "if 10.0.0.5:8080 has no HTTPS, add insecure: true" in ended.out
    for project in ("team", "library", "base"):
        image = f"10.0.0.5:8080/{project}/app:v1"
        assert destinations(tmp_path / "rules.yaml", image) == [
            f"registry.cn-beijing.aliyuncs.com/mirror/{project}-app:v1"
        ]


async def test_answers_may_come_from_a_pipe_and_end_before_the_passwords(tmp_path: Path) -> None:
    answers = "https://harbor.example.com/\nrobot$r\nacr.example.com\nu@1\n"
    short = await replicator("init", cwd=tmp_path, stdin=answers)
    assert (short.code, short.err) == (2, "replicator: command line: 1 problem(s)\n  --namespace: is missing\n")
    ended = await replicator("init", cwd=tmp_path, stdin=answers + "mirror\nteam\n")
    assert (ended.code, ended.err) == (0, "")
    assert "fill in the passwords" in ended.out


@pytest.mark.parametrize(("user", "more"), [("robot$r", " --user admin"), ("jane", "")])
async def test_the_command_that_connects_harbor_fits_the_login(user: str, more: str, tmp_path: Path) -> None:
    ended = await replicator(*OPTIONS, f"--harbor-user={user}", "--yes", cwd=tmp_path)
    (line,) = [line for line in ended.out.splitlines() if "webhook register" in line]
    assert line.endswith(f"--url http://HOST:8080/webhooks/harbor{more}")


def test_a_terminal_shows_what_is_typed_at_a_prompt_and_nothing_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    person, terminal = pty.openpty()
    with os.fdopen(terminal, encoding="utf-8") as stdin, os.fdopen(person, "r+b", buffering=0) as keyboard:
        monkeypatch.setattr("sys.stdin", stdin)
        with _echo(shown=False):
            keyboard.write(b"too-early\n")
            assert stdin.readline() == "too-early\n"
            with _echo(shown=True):
                keyboard.write(b"answer\n")
                assert stdin.readline() == "answer\n"
        assert keyboard.read(100) == b"answer\r\n"


def test_every_token_is_random_and_serve_takes_them_as_they_are_written(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    seen: set[str] = set()
    for _ in range(5):
        file.write_text(render_environment(Tokens.new()))
        values = {name.lower(): value for name, value in dotenv_values(file, interpolate=False).items() if value}
        known = {name.removeprefix("replicator_"): value for name, value in values.items()}
        settings = Settings(_env_file=None, _secrets_dir=None, **known)  # type: ignore[arg-type]  # texts of a file
        assert [scope for scope, _ in settings.scoped_tokens] == ["read", "operate"]
        tokens = [token for _, token in settings.scoped_tokens]
        assert settings.token is not None
        assert settings.status_token is not None
        tokens += [settings.token, settings.status_token.get_secret_value()]
        assert all(re.fullmatch("[0-9a-f]{64}", token) for token in tokens)
        seen.update(tokens)
    assert len(seen) == 20


@given(PRINTABLE, PRINTABLE)
def test_any_password_comes_out_of_the_environment_file_as_it_went_in(harbor: str, acr: str) -> None:
    found = dotenv_values(stream=io.StringIO(render_environment(Tokens.new(), harbor, acr)), interpolate=False)
    assert (found["HARBOR_PASSWORD"], found["ACR_PASSWORD"]) == (harbor, acr)


@given(PRINTABLE)
def test_any_user_is_written_as_given_or_refused(user: str) -> None:
    try:
        text = render_rules(Answers("h.example.com", user, "acr.example.com", "u", "mirror", ("team",)))
    except ConfigError:
        assert not user or ":" in user or "${" in user
        return
    access = parse(text, "x", environ=SECRETS).credentials(Reference.parse("h.example.com/team/a:1").repository)
    assert access is not None
    assert access.username == user


@pytest.mark.parametrize(
    ("harbor_user", "acr_user", "doubted"),
    [
        ("robot$", "u@1", ["'robot$' is unlikely"]),
        ("robot", "me", ["'robot' is unlikely", "'me' has no @"]),
        ("robot$team+r", "u@1", []),
        ("jane", "me", ["'me' has no @"]),
    ],
)
def test_user_names_that_a_shell_has_cut_or_that_are_no_ram_users_are_doubted(
    harbor_user: str, acr_user: str, doubted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = (f"--harbor-user={harbor_user}", f"--acr-user={acr_user}")
    ended = CliRunner().invoke(app, [*OPTIONS, *names, "--yes"])
    assert ended.exit_code == 0, ended.output
    warnings = [line for line in ended.stderr.splitlines() if line.startswith("Warning: ")]
    assert len(warnings) == len(doubted)
    assert all(text in line for text, line in zip(doubted, warnings, strict=True))


def test_a_wrong_host_of_acr_is_told_with_an_example_of_acr() -> None:
    (wrong,) = _problems("acr", _cleaned("acr", "registry/team"))
    assert wrong.message == ("'registry' is not a host; example: registry.cn-beijing.aliyuncs.com")
