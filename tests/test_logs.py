"""Log lines on stderr and in files."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import json
import logging
import re
import shutil
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from replicator import commands
from replicator.errors import USAGE, ConfigError, Problem, ReplicatorError
from replicator.logs import LogLimit, configure_logs
from replicator.queue import Lane
from replicator.reference import Reference
from tests.docs.pages import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

LEVELS = {"debug", "info", "warning", "error", "exception"}


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Leave the logging of the other tests as it was."""
    root, raising = logging.getLogger(), logging.raiseExceptions
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    yield
    for handler in root.handlers:
        with contextlib.suppress(OSError):  # what could not be written still can't
            handler.close()
    root.handlers, logging.raiseExceptions = handlers, raising
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_trace_shows_no_variables(capsys: pytest.CaptureFixture[str], form: str) -> None:
    def login(password: str) -> None:
        raise KeyError(len(password))

    configure_logs("info", form)  # type: ignore[arg-type]  # the parameters of a test are plain texts
    try:
        login("hunter" + "2")
    except KeyError as error:
        structlog.get_logger("test").error("unexpected", exc_info=error)
    written = capsys.readouterr().err
    assert "KeyError: 7" in written
    assert "hunter2" not in written


def test_a_value_can_neither_begin_a_line_nor_colour_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("info", "console")
    structlog.get_logger("test").info("event", error="a\n2026-01-01 [info] forged \x1b[31m")
    written = capsys.readouterr().err
    assert written.count("\n") == 1
    assert "\x1b" not in written


def test_a_lost_log_file_stops_no_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "logs"
    directory.mkdir()
    configure_logs("info", "json", directory / "log")
    log = structlog.get_logger("test")
    log.info("first")
    shutil.rmtree(directory)
    log.info("lost")
    directory.mkdir()
    log.info("found again")
    assert "found again" in (directory / "log").read_text()
    assert capsys.readouterr().err == ""


def test_a_full_disk_stops_no_work_and_prints_no_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log").symlink_to("/dev/full")
    configure_logs("info", "json", tmp_path / "log")
    structlog.get_logger("test").info("lost", name="\udcff")
    assert capsys.readouterr().err == ""


def test_a_file_that_can_not_be_written_is_an_error_of_the_option(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--log"):
        configure_logs("info", "json", tmp_path)


async def test_the_mistakes_of_an_address_are_one_line_a_second_and_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.logs._LIMIT_SECONDS", 0.2)
    monkeypatch.setattr("replicator.logs._MOST_CLIENTS", 2)
    configure_logs(form="json")
    limit = LogLimit("replicator.test", "refused")
    for client in ("192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.1"):
        limit.warning(client, reason="wrong")
    lines: list[dict[str, Any]] = []

    async def until(count: int) -> None:
        async with asyncio.timeout(20):
            while len(lines) < count:
                lines.extend(json.loads(line) for line in capsys.readouterr().err.splitlines())
                await asyncio.sleep(0.01)

    # The third and fourth address share a line: what is remembered of strangers has a bound.
    await until(5)
    assert sorted((str(line["client"]), line.get("more", 0)) for line in lines) == [
        ("192.0.2.1", 0),
        ("192.0.2.1", 2),
        ("192.0.2.2", 0),
        ("None", 0),
        ("None", 1),
    ]
    await asyncio.sleep(0.5)
    limit.warning("192.0.2.3", reason="wrong")
    await until(6)
    assert lines[-1]["client"] == "192.0.2.3"


@pytest.mark.parametrize("error", [ReplicatorError("PUT", "403", "ask"), "PUT\n403\nask"])
def test_an_error_is_three_fields_for_programs_and_not_twice_the_same_for_people(
    capsys: pytest.CaptureFixture[str], error: object
) -> None:
    configure_logs("info", "json")
    structlog.get_logger("test").warning("job failed", error=error)
    line = json.loads(capsys.readouterr().err)
    assert {name: line[name] for name in ("error", "what", "why", "do")} == {
        "error": "PUT: 403; ask",
        "what": "PUT",
        "why": "403",
        "do": "ask",
    }
    configure_logs("info", "console")
    structlog.get_logger("test").warning("job failed", error=error)
    structlog.get_logger("test").warning("job failed", reason="denied", error="refused")
    full, short = capsys.readouterr().err.splitlines()
    assert "error=" not in full
    assert "what=PUT why=403 do=ask" in full
    assert short.rstrip().endswith("reason=denied what=refused")


def test_a_reason_is_three_fields_where_it_is_an_error_and_a_list_is_shown_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = ConfigError("rules.yaml", [Problem("images", "empty")])
    configure_logs("info", "json")
    structlog.get_logger("test").warning("not ready", reason=ReplicatorError("Redis", "away", "start it"))
    structlog.get_logger("test").warning("webhook open", reason="a setting")
    line, plain = map(json.loads, capsys.readouterr().err.splitlines())
    assert [line[name] for name in ("reason", "what", "why", "do")] == [
        "Redis: away; start it",
        "Redis",
        "away",
        "start it",
    ]
    assert (plain["reason"], "what" in plain) == ("a setting", False)
    configure_logs("info", "console")
    structlog.get_logger("test").warning("refused", problems=["images: empty"], error=error)
    assert capsys.readouterr().err.count("images: empty") == 1


def test_a_line_for_people_shows_no_python(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("info", "console")
    structlog.get_logger("test").info(
        "event",
        lane=Lane.EVENTS,
        error=None,
        path=Path("/a"),
        done=True,
        concurrency={Lane.EVENTS: 4},
        names=["中", "\x9b31m\u202e"],
    )
    written = capsys.readouterr().err
    for shown in (
        "lane=events",
        "path=/a",
        "done=true",
        'concurrency={"events": 4}',
        'names=["中", "\\x9b31m\\u202e"]',
    ):
        assert shown in written
    for insides in ("<", "None", "error=", "True", "Posix"):
        assert insides not in written


class Plain(Enum):
    A = "a word"


VALUES: list[tuple[object, str, object]] = [
    (Lane.EVENTS, "events", "events"),
    (Plain.A, "'a word'", "a word"),
    (Path("/a"), "/a", "/a"),
    (frozenset({"b", "a"}), '["a", "b"]', ["a", "b"]),
    ({Lane.EVENTS}, '["events"]', ["events"]),
    ((1, Path("/a")), '[1, "/a"]', [1, "/a"]),
    ({"a": [frozenset({Plain.A})]}, '{"a": [["a word"]]}', {"a": [["a word"]]}),
    (b"a\xff", "a\\xff", "a\\xff"),
    (datetime(2026, 1, 2, 3, 4, tzinfo=UTC), "'2026-01-02 03:04:00+00:00'", "2026-01-02 03:04:00+00:00"),
    (timedelta(minutes=90), "1:30:00", "1:30:00"),
    (Reference.parse("a.example.com/b:1"), "a.example.com/b:1", "a.example.com/b:1"),
    (ConnectionResetError(104, "reset by peer"), "'reset by peer'", "reset by peer"),
    (True, "true", True),
    (1.5, "1.5", 1.5),
]
"""Values as code has them, with the text for people and the JSON for programs."""


@pytest.mark.parametrize(("value", "text", "as_json"), VALUES, ids=lambda each: type(each).__name__)
def test_a_value_is_written_without_its_python_type(
    capsys: pytest.CaptureFixture[str], value: object, text: str, as_json: object
) -> None:
    configure_logs("info", "console")
    structlog.get_logger("test").info("event", value=value)
    assert capsys.readouterr().err.rstrip().endswith(f" value={text}")
    configure_logs("info", "json")
    structlog.get_logger("test").info("event", value=value)
    assert json.loads(capsys.readouterr().err)["value"] == as_json


def kind_of(value: ast.expr) -> str | None:
    """The JSON type that an expression certainly has; None where its text does not tell."""
    match value:
        case ast.Constant(value=bool()):
            return "boolean"
        case ast.Constant(value=str()) | ast.JoinedStr() | ast.Attribute(attr="id"):
            return "text"
        case ast.Call(func=ast.Name(id="bool")) | ast.Compare() | ast.UnaryOp(op=ast.Not()):
            return "boolean"
        case ast.Call(func=ast.Name(id="str")):
            return "text"
        case ast.Constant(value=int() | float()) | ast.Call(func=ast.Name(id="len" | "round")):
            return "number"
        case ast.List() | ast.ListComp() | ast.Call(func=ast.Name(id="list" | "sorted")):
            return "list"
        case ast.Dict() | ast.DictComp() | ast.Call(func=ast.Name(id="dict")):
            return "object"
    return None


def test_a_key_of_log_lines_has_one_type() -> None:
    kinds: dict[str, set[str]] = {}
    texts = [path.read_text() for path in (ROOT / "replicator").rglob("*.py")]
    for text in filter(re.compile(r"log\w*\.(debug|info|warning|error|exception)\(").search, texts):
        for node in ast.walk(ast.parse(text)):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr in LEVELS and "log" in ast.unparse(node.func.value).lower():
                for keyword in node.keywords:
                    kind = kind_of(keyword.value)
                    if keyword.arg is not None and keyword.arg != "exc_info" and kind is not None:
                        kinds.setdefault(keyword.arg, set()).add(kind)
    assert len(kinds) > 30
    assert {key: found for key, found in kinds.items() if len(found) > 1} == {}


@pytest.mark.parametrize(
    ("words", "variable", "as_json"),
    [
        (["serve"], "json", True),
        (["worker", "--log-format", "json"], "", True),
        (["serve", "--log-format=console"], "json", False),
        (["serve"], "auto", False),
        (["status"], "json", False),
    ],
)
def test_what_ends_a_service_is_a_line_of_json_where_its_log_is_json(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    variable: str,
    *,
    as_json: bool,
) -> None:
    def fails() -> None:
        raise ConfigError("rules.yaml", [Problem("images", "no rules"), Problem("auth", "no login")])

    monkeypatch.setattr(commands, "app", fails)
    monkeypatch.setattr("sys.argv", ["replicator", *words])
    monkeypatch.setenv("REPLICATOR_LOG_FORMAT", variable)
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert ended.value.code == USAGE
    written = capsys.readouterr().err
    if not as_json:
        assert written.startswith("replicator: rules.yaml")
        return
    line = json.loads(written)
    assert (line["event"], line["level"]) == ("not running", "error")
    assert line["problems"] == ["images: no rules", "auth: no login"]
    assert {"what", "why", "do", "error", "timestamp", "logger"} <= set(line)
