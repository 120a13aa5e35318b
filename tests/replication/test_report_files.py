"""The files of a backfill are valid, and complete even after an error."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from replicator.errors import ReplicatorError
from replicator.reference import Reference
from replicator.replication.report import (
    IN_PLACE,
    ImagesFile,
    ListFormat,
    Output,
    Row,
    RowFormat,
    RowOutcome,
    RowsFile,
    end_all,
)
from replicator.rules import load
from tests.docs.pages import ROOT, blocks
from tests.rules.building import AUTH, HARBOR, PLAIN

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

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
def file(tmp_path: Path) -> Path:
    return tmp_path / "file"


def made(output: Output, file: Path, rows: Sequence[Row] = ROWS) -> str:
    """The content of a file with these rows."""
    output.check()
    for row in rows:
        output.row(row)
    output.end()
    return file.read_bytes().decode()


def rows_in(file: Path, row_format: RowFormat, rows: Sequence[Row] = ROWS) -> str:
    return made(RowsFile(file, row_format), file, rows)


def images_in(
    file: Path, list_format: ListFormat, rows: Sequence[Row] = ROWS, outcomes: Collection[RowOutcome] = IN_PLACE
) -> str:
    return made(ImagesFile("--x", file, outcomes, list_format), file, rows)


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
def test_the_suffix_of_a_file_selects_its_format(name: str, row_format: RowFormat) -> None:
    assert RowFormat.of(Path("x.csv") / name) is row_format


def test_every_format_holds_every_row_and_every_column(file: Path) -> None:
    rows = json.loads(rows_in(file, RowFormat.JSON))
    assert [row["source"] for row in rows] == [row.source for row in ROWS]
    lines = rows_in(file, RowFormat.JSON_LINES).splitlines()
    assert [json.loads(line) for line in lines] == rows
    table = list(csv.DictReader(io.StringIO(rows_in(file, RowFormat.CSV), newline=""), strict=True))
    for row, line in zip(rows, table, strict=True):
        words = {name: "" if value is None else str(value) for name, value in row.items()}
        assert line == words | {"warnings": "; ".join(row["warnings"])}


def test_csv_is_that_of_rfc_4180_on_the_disk_too(file: Path) -> None:
    content = rows_in(file, RowFormat.CSV)
    columns = (
        "source,destination,outcome,digest,error,size,bytes,seconds,note,warnings,replaced,still_holds,refused,"
        "source_digest,present,what,why,do"
    )
    assert content.startswith(f"{columns}\r\n")
    assert '"it said ""no"",: and é",,0,0.0,,,,,,,,"it said ""no"",",and é,\r\n' in content
    assert "\r\r\n" not in content


def test_a_file_without_rows_is_valid(file: Path) -> None:
    assert json.loads(rows_in(file, RowFormat.JSON, [])) == []
    assert rows_in(file, RowFormat.JSON_LINES, []) == ""
    assert len(rows_in(file, RowFormat.CSV, []).splitlines()) == 1
    assert (
        json.loads(images_in(file, ListFormat.JSON, [])) == yaml.safe_load(images_in(file, ListFormat.YAML, [])) == {}
    )


@pytest.mark.parametrize("list_format", list(ListFormat))
def test_lists_of_images_have_each_source_once_with_its_destinations(list_format: ListFormat, file: Path) -> None:
    content = yaml.safe_load(images_in(file, list_format))
    assert content == {f"{APP}:v2": [f"{PLAIN}/a/app:v2", f"{PLAIN}/b/app:v2"]}


@pytest.mark.parametrize("list_format", list(ListFormat))
def test_the_list_of_failed_images_can_be_given_to_images(list_format: ListFormat, tmp_path: Path) -> None:
    images_in(tmp_path / "failed", list_format, outcomes=[RowOutcome.FAILED])
    (tmp_path / "auth").write_text(json.dumps(AUTH))
    rules = load(None, auth=tmp_path / "auth", images=tmp_path / "failed", environ={})
    for row in ROWS[2:4]:
        (request,) = rules.destinations(Reference.parse(row.source))
        assert str(request.destination) == row.destination
    assert len(rules.sources()) == 1


def test_a_file_that_can_not_be_written_does_not_lose_the_others(tmp_path: Path) -> None:
    outputs = [RowsFile(tmp_path / name) for name in ("absent/r.json", "r.json")]
    for row in ROWS:
        for output in outputs:
            output.row(row)
    with pytest.raises(ReplicatorError, match=r"the report is lost: .*absent/r.json: No such file"):
        end_all(outputs)
    assert len(json.loads((tmp_path / "r.json").read_text())) == len(ROWS)


def test_the_list_in_the_documentation_is_one(file: Path) -> None:
    page = ROOT / "docs" / "backfill.md"
    (example,) = [block.text for block in blocks("yaml") if block.page == page]
    row = Row(f"{APP}:v1", "registry.cn-beijing.aliyuncs.com/team-mirror/app:v1", RowOutcome.COPIED)
    assert images_in(file, ListFormat.YAML, [row]) == example


def test_the_columns_in_the_documentation_are_those_of_a_row(file: Path) -> None:
    table = (ROOT / "docs" / "backfill.md").read_text().split("| column |")[1].split("\n\n")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    named = [name.strip("` ") for line in rows for name in line.split("|")[1].split(",")]
    assert sorted(named) == sorted(json.loads(rows_in(file, RowFormat.JSON))[0])
    (outcomes,) = [line for line in rows if line.startswith("| `outcome`")]
    assert all(f"`{outcome}`" in outcomes for outcome in RowOutcome)


def test_rows_are_on_the_disk_before_the_run_has_ended(file: Path) -> None:
    output = RowsFile(file, RowFormat.JSON_LINES)
    for _ in range(200):
        output.row(ROWS[0])
    assert json.loads(file.read_text().splitlines()[0])["source"] == ROWS[0].source
    output.end()
    assert len(file.read_text().splitlines()) == 200


@pytest.mark.parametrize("list_format", list(ListFormat))
def test_a_list_of_many_images_is_one_document(list_format: ListFormat, file: Path) -> None:
    rows = [Row(f"{APP}:{number}", f"{PLAIN}/a:{number}", RowOutcome.COPIED) for number in range(1203)]
    content = yaml.safe_load(images_in(file, list_format, rows[::-1] + rows))
    assert content == {row.source: [row.destination] for row in rows}
    assert list(content) == sorted(content)
