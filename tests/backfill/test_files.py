"""The files a backfill leaves behind can be read by what they are for."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import yaml

from replicator.backfill import (
    IN_PLACE,
    ListFormat,
    Report,
    Row,
    RowFormat,
    RowOutcome,
    images_output,
    rows_output,
)
from replicator.backfill.files import render_images, render_rows, write_all
from replicator.errors import ReplicatorError
from replicator.reference import Reference
from replicator.rules import load
from tests.docs.pages import ROOT, blocks
from tests.rules.building import AUTH, HARBOR, PLAIN

DIGEST = "sha256:" + "a" * 64
APP = f"{HARBOR}/team/app"
ROWS = [
    Row(f"{APP}:v2", f"{PLAIN}/b/app:v2", RowOutcome.COPIED, DIGEST, bytes=5, seconds=0.25, warnings=("one", "two")),
    Row(f"{APP}:v2", f"{PLAIN}/a/app:v2", RowOutcome.UP_TO_DATE, DIGEST),
    Row(f"{APP}:v1", f"{PLAIN}/a/app:v1", RowOutcome.FAILED, error='it said "no",\nand é'),
    Row(f"{APP}@{DIGEST}", f"{PLAIN}/a/app@{DIGEST}", RowOutcome.FAILED, error="no"),
    Row(f"{HARBOR}/secret/**", "", RowOutcome.FAILED, error="can't be listed: no"),
    Row(f"{APP}:v0", f"{PLAIN}/a/app:v0", RowOutcome.QUEUED),
]


@pytest.fixture
def report() -> Report:
    report = Report()
    for row in ROWS:
        report.add(row)
    return report


@pytest.mark.parametrize(
    ("name", "row_format"),
    [
        ("r.json", RowFormat.JSON),
        ("r.jsonl", RowFormat.JSON_LINES),
        ("R.CSV", RowFormat.CSV),
        ("r.txt", RowFormat.JSON),
        ("json", RowFormat.JSON),
        ("csv", RowFormat.JSON),
        ("r.csv.gz", RowFormat.JSON),
    ],
)
def test_the_ending_of_a_file_says_its_format(name: str, row_format: RowFormat) -> None:
    assert RowFormat.of(Path("x.csv") / name) is row_format


def test_every_format_holds_every_row_and_every_column() -> None:
    rows = json.loads(render_rows(ROWS, RowFormat.JSON))
    assert [row["source"] for row in rows] == [row.source for row in ROWS]
    lines = render_rows(ROWS, RowFormat.JSON_LINES).splitlines()
    assert [json.loads(line) for line in lines] == rows
    table = list(csv.DictReader(io.StringIO(render_rows(ROWS, RowFormat.CSV), newline=""), strict=True))
    for row, line in zip(rows, table, strict=True):
        words = {name: "" if value is None else str(value) for name, value in row.items()}
        assert line == words | {"warnings": "; ".join(row["warnings"])}


def test_csv_is_that_of_rfc_4180_on_the_disk_too(report: Report, tmp_path: Path) -> None:
    rows_output(tmp_path / "r.csv").write(report)
    content = (tmp_path / "r.csv").read_bytes()
    assert content.startswith(b"source,destination,outcome,digest,error,bytes,seconds,note,warnings\r\n")
    assert b'"it said ""no"",\nand \xc3\xa9",0,0.0,,\r\n' in content
    assert b"\r\r\n" not in content


def test_without_a_row_a_file_is_still_whole() -> None:
    assert json.loads(render_rows([], RowFormat.JSON)) == []
    assert render_rows([], RowFormat.JSON_LINES) == ""
    assert len(render_rows([], RowFormat.CSV).splitlines()) == 1
    assert json.loads(render_images([], ListFormat.JSON)) == yaml.safe_load(render_images([], ListFormat.YAML)) == {}


@pytest.mark.parametrize("list_format", list(ListFormat))
def test_lists_of_images_have_each_source_once_with_its_destinations(
    report: Report, list_format: ListFormat, tmp_path: Path
) -> None:
    images_output("--x", tmp_path / "in-place", IN_PLACE, list_format).write(report)
    content = yaml.safe_load((tmp_path / "in-place").read_text())
    assert content == {f"{APP}:v2": [f"{PLAIN}/a/app:v2", f"{PLAIN}/b/app:v2"]}


@pytest.mark.parametrize("list_format", list(ListFormat))
def test_what_failed_can_be_given_back_as_images(report: Report, list_format: ListFormat, tmp_path: Path) -> None:
    images_output("--x", tmp_path / "failed", [RowOutcome.FAILED], list_format).write(report)
    (tmp_path / "auth").write_text(json.dumps(AUTH))
    rules = load(None, auth=tmp_path / "auth", images=tmp_path / "failed", environ={})
    for row in ROWS[2:4]:
        (request,) = rules.destinations(Reference.parse(row.source))
        assert str(request.destination) == row.destination
    assert len(rules.sources()) == 1


def test_one_file_that_is_lost_does_not_lose_the_others(report: Report, tmp_path: Path) -> None:
    outputs = [rows_output(tmp_path / name) for name in ("absent/r.json", "r.json")]
    with pytest.raises(ReplicatorError, match=r"the report is lost: .*absent/r.json: No such file"):
        write_all(outputs, report)
    assert len(json.loads((tmp_path / "r.json").read_text())) == len(ROWS)


def test_the_list_in_the_documentation_is_one() -> None:
    page = ROOT / "docs" / "backfill.md"
    (example,) = [block.text for block in blocks("yaml") if block.page == page]
    row = Row(f"{APP}:v1", "registry.cn-beijing.aliyuncs.com/team-mirror/app:v1", RowOutcome.COPIED)
    assert render_images([row], ListFormat.YAML) == example


def test_the_columns_in_the_documentation_are_those_of_a_row() -> None:
    table = (ROOT / "docs" / "backfill.md").read_text().split("| column |")[1].split("\n\n")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    named = [name.strip("` ") for line in rows for name in line.split("|")[1].split(",")]
    assert sorted(named) == sorted(json.loads(render_rows(ROWS, RowFormat.JSON))[0])
    (outcomes,) = [line for line in rows if line.startswith("| `outcome`")]
    assert all(f"`{outcome}`" in outcomes for outcome in RowOutcome)
