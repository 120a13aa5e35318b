"""With ``--json``, stdout is one JSON value: the facts, or else the error."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console
from typer.core import TyperGroup

from replicator import commands
from replicator.commands import COMMANDS, health, load_command
from replicator.commands import copy as copy_command
from replicator.commands import failures as failures_command
from replicator.commands.explain import explain_reference
from replicator.copy import Outcome, Result
from replicator.errors import FAILED, OK, USAGE, ErrorClass, ReplicatorError
from replicator.queue import Causes, QueueUnavailable
from replicator.reference import Reference
from replicator.registry import Access
from replicator.registry.proxies import Proxies
from replicator.settings import Settings
from tests.queue.test_causes import letter
from tests.rules.building import ACR, HARBOR, rules_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

WITHOUT = {
    "init",  # writes files
    "convert",  # prints a rules file
    "serve",
    "worker",
    "backfill",  # has --report
    "schema",  # prints nothing but JSON
    "version",  # one line, as of --version
}


def leaves(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(command, TyperGroup) or command.invoke_without_command:
        yield name, command
    for each in command.commands.values() if isinstance(command, TyperGroup) else ():
        yield from leaves(f"{name} {each.name}", each)


def test_every_command_that_prints_facts_can_print_them_as_json() -> None:
    found = {
        each: any("--json" in parameter.opts for parameter in command.params)
        for name in COMMANDS
        for each, command in leaves(name, load_command(name))
    }
    assert {name for name, has in found.items() if not has} == WITHOUT
    assert {"failures", "failures retry", "webhook test", "reconcile approve", "queue cancel"} <= set(found)


def called(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    """The exit code of a command, and the JSON that it prints."""
    monkeypatch.setattr("sys.argv", ["replicator", *arguments, "--json"])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    return int(ended.value.code or 0), json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    "arguments",
    ["status", "explain h.example/a:1", "health", "reconcile approve", "notify test", "copy a.b/c:1 d.e/f:1"],
)
def test_a_wrong_setting_is_an_object_with_every_problem(
    arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPLICATOR_LISTEN", "nowhere")
    code, told = called(monkeypatch, capsys, *arguments.split())
    assert code == USAGE
    (problem,) = told["error"]["problems"]
    assert problem["path"] == "REPLICATOR_LISTEN"
    assert told["error"]["class"] == "permanent"
    assert set(told["error"]) == {"what", "why", "do", "class", "problems"}


def test_an_error_has_its_class_in_the_form_of_all_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        error = ReplicatorError("host: GET /v2/", "503", "wait")
        error.error_class = ErrorClass.NOT_YET
        raise error

    monkeypatch.setattr(commands, "app", fails)
    told = {"what": "host: GET /v2/", "why": "503", "do": "wait", "class": "not_yet"}
    assert called(monkeypatch, capsys, "status") == (FAILED, {"error": told})
    cause = Causes().add(ErrorClass.NOT_YET, "no", "a.example/b:1", "c.example/d:1")
    assert cause.to_json()["error_class"] == "not_yet"


async def test_a_list_that_fails_midway_prints_no_part_of_an_array(monkeypatch: pytest.MonkeyPatch) -> None:
    async def pages(_: Any, **__: Any) -> AsyncIterator[list[Any]]:
        yield [letter(1), letter(2)]
        if fails:
            raise QueueUnavailable("redis: gone")

    class Opened:
        async def __aenter__(self) -> None:
            pass

        async def __aexit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(failures_command, "read_letters", pages)
    monkeypatch.setattr(failures_command, "existing_queue", lambda _: Opened())
    paper = io.StringIO()
    out, fails = Console(file=paper), True
    with pytest.raises(QueueUnavailable):
        await failures_command.print_failures(Settings(), as_json=True, out=out)
    assert paper.getvalue() == ""
    fails = False
    assert await failures_command.print_failures(Settings(), as_json=True, out=out) == OK
    assert [each["destination"] for each in json.loads(paper.getvalue())] == [letter(1).id, letter(2).id]


async def test_a_copy_is_an_object(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(
        Result.SKIPPED, "h.example.com/a:1", "r.example.com/a:1", note="no such platform", warnings=("a",)
    )

    async def transfer(*_: Any, **__: Any) -> Outcome:
        return outcome

    monkeypatch.setattr(copy_command, "transfer", transfer)
    ends = (Reference.parse(outcome.source), Reference.parse(outcome.destination))
    settings = Settings(state_dir="/nonexistent/state")
    assert await copy_command.copy_one(settings, lambda _: Access(), *ends, as_json=True) == FAILED
    assert json.loads(capsys.readouterr().out) == outcome.to_json()


def test_an_explanation_is_an_object(capsys: pytest.CaptureFixture[str]) -> None:
    rules = rules_of({f"{HARBOR}/team/**": [f"{ACR}/mirror/{{name}}"], f"{HARBOR}/other/*": f"{ACR}/x/{{name}}"})
    image = Reference.parse(f"{HARBOR}/team/app:v1")
    assert explain_reference(rules, image, Proxies(), as_json=True) == OK
    told = json.loads(capsys.readouterr().out)
    assert (told["image"], told["copied"]) == (str(image), True)
    assert [rule["matches"] for rule in told["rules"]] == [True, False]
    (copy,) = told["copies"]
    assert (copy["destination"], copy["problem"]) == (f"{ACR}/mirror/app:v1", None)
    assert list(told["editions"]) == [ACR]
    assert explain_reference(rules, Reference.parse(f"{HARBOR}/no/app:v1"), Proxies(), as_json=True) == FAILED
    assert json.loads(capsys.readouterr().out)["copies"] == []


def test_health_is_an_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    async def is_alive(_: object) -> bool:
        return alive

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(health, "is_alive", is_alive)
    for alive in (True, False):
        told = {"address": "127.0.0.1:8080", "alive": alive}
        code = OK if alive else FAILED
        assert called(monkeypatch, capsys, "health", "--listen", "127.0.0.1:8080") == (code, told)
