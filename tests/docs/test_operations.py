"""docs/operations.md quotes the program's real messages and responses."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

from replicator import errors as exit_codes
from replicator.commands.check.findings import FindingState
from replicator.commands.check.queue import SETTINGS
from replicator.copy import Outcome, Result
from replicator.errors import ErrorClass
from replicator.queue import Findings, Lane, ReconcileResult, history, traffic
from replicator.queue.attempt import Ending, StartedJob
from replicator.queue.destinations import MOST_ATTEMPTS
from replicator.queue.job import MAX_ID_BYTES, RunningRecord
from replicator.queue.records import EPOCH
from replicator.reference import Reference, Repository
from replicator.registry.errors import Denied
from replicator.replication.advice import explained
from replicator.replication.job import PARTS
from replicator.schedule import parse_schedule
from tests.docs.pages import ROOT, blocks

PAGE = ROOT / "docs" / "operations.md"
SOURCE = "\n".join(path.read_text() for path in sorted((ROOT / "replicator").rglob("*.py")))


def section(heading: str) -> str:
    return PAGE.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]


def first_cells(text: str) -> list[str]:
    """The first cell of each row of the tables in a text, without their heads."""
    return re.findall(r"^\| ([^|]*[^|-]) \|.*$(?!\n\|---)", text, re.MULTILINE)


def test_every_class_of_error_is_explained() -> None:
    assert set(first_cells(section("What happens when a copy fails"))) == {str(kind) for kind in ErrorClass}


def test_the_exit_codes_are_those_of_the_program() -> None:
    codes = {exit_codes.OK, exit_codes.FAILED, exit_codes.USAGE, exit_codes.INTERRUPTED}
    assert set(first_cells(section("Exit codes"))) == {str(code) for code in codes}


def test_every_line_of_a_check_is_explained() -> None:
    probes = [path.read_text() for path in (ROOT / "replicator" / "commands" / "check").glob("*.py")]
    printed = set(re.findall(r'(?:Finding|Probe)\(\s*"([a-z ]+)"', "\n".join(probes))) | {SETTINGS}
    assert printed == {cell.strip("`") for cell in first_cells(section("Check the installation"))}
    assert all(f"`{state}`" in section("Check the installation") for state in FindingState)


def test_the_webhooks_answers_are_those_of_the_program() -> None:
    documented = set(first_cells(section("The webhook's answers")))
    (told,) = re.findall(r"``POST /webhooks/harbor`` \| (.*) \|", SOURCE)
    assert documented == set(re.findall(r"\d{3}", told))


def test_log_lines_that_are_named_are_written() -> None:
    named = re.findall(r"`([a-z ]+)`", " ".join(first_cells(section("Logs").split("The line of a copy")[0])))
    assert len(named) > 8
    for event in set(named):
        assert f'"{event}"' in SOURCE, event


def test_the_line_of_a_copy_has_the_fields_that_are_explained() -> None:
    (line,) = [json.loads(block.text) for block in blocks("json") if block.page == PAGE]
    explained = set(re.findall(r"`(\w+)`", " ".join(first_cells(section("Logs").split("The line of a copy")[1]))))
    outcome = set(Outcome(Result.COPIED, "", "", signatures=1, warnings=("refused",)).to_json())
    assert outcome <= explained
    assert explained - outcome == {"rule", "tries", "lane", "lag", "event_id"}
    assert set(line) - explained == {"event", "level", "logger", "timestamp"}
    assert outcome - set(line) == {"note", "signatures", "warnings"}
    results = section("Logs").split("| `result` |")[1].split("\n")[0]
    assert all(f"`{result}`" in results for result in Result)


def test_messages_that_are_quoted_are_written() -> None:
    messages = re.findall(r"^### `([^`]+)`$", section("Troubleshooting"), re.MULTILINE)
    assert len(messages) > 15
    for message in messages:
        for part in message.split("…"):
            assert part.strip(" ,") in SOURCE, message


def test_denied_at_acr_has_the_causes_of_the_program_in_their_order() -> None:
    (causes,) = re.findall(r"^### denied: .*?\n(.*?)^### ", section("Troubleshooting"), re.MULTILINE | re.DOTALL)
    destination = Reference(Repository("registry.cn-beijing.aliyuncs.com", "team/app"), tag="v1")
    refusal = Denied("403: denied", status=403).at(destination.registry, "POST /v2/team/app/blobs/uploads/")
    told = str(explained(refusal, destination))
    for words in (causes, told):
        places = [words.lower().find(cause) for cause in ("push", "namespace", "repository", "quota")]
        assert -1 not in places
        assert places == sorted(places)


def test_the_schedules_that_are_shown_can_be_read() -> None:
    (table,) = re.findall(r"^\| value \| when \|\n(.*?)\n\n", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    shown = re.findall(r"`([^`]+)`", " ".join(first_cells(table)))
    assert {"off", "24h", "17 3 * * *"} <= set(shown)
    for text in shown:
        assert (parse_schedule(text) is None) == (text == "off")


def test_what_the_status_tells_of_a_reconcile_is_explained() -> None:
    (row,) = re.findall(r"^\| `reconcile` \| `running`(.*)$", PAGE.read_text(), re.MULTILINE)
    now = datetime.now(UTC)
    assert set(ReconcileResult(now, now, "h", Findings()).to_json()) <= set(re.findall(r"`(\w+)`", row))


def test_the_bounds_of_the_history_are_those_of_the_program() -> None:
    (row,) = re.findall(
        r"^\| `replicator:history:\*`, `replicator:lag`, `replicator:rates` \|(.*)$", PAGE.read_text(), re.MULTILINE
    )
    assert f"the last {history.MOST_JOBS:,} copies of each lane" in row
    assert f"the last {history.MOST_RECONCILES} reconciles" in row
    assert f"the last {history.MOST_ACTIONS:,} actions" in row
    assert f"{history.LAG_KEPT // traffic.LAG_SPAN} quarters of an hour" in row
    script = (ROOT / "replicator/queue/lua/looks.lua").read_text()
    bounds = f"{history.MOST_JOBS}, {history.MOST_RECONCILES}, {history.MOST_ACTIONS}"
    assert f"HISTORY_JOBS, HISTORY_RECONCILES, HISTORY_ACTIONS = {bounds}\n" in script
    spans = f"{traffic.LAG_SPAN.seconds * 1000}, {history.LAG_KEPT // traffic.LAG_SPAN}"
    assert f"LAG_SPAN, LAG_SPANS = {spans}\n" in script
    hours = history.LAG_KEPT // traffic.RATE_SPAN
    assert f"{hours} hours of numbers of results" in row
    spans = f"{traffic.RATE_SPAN.seconds * 1000}, {hours}, {traffic.MOST_RATES}"
    assert f"RATE_SPAN, RATE_SPANS, MOST_RATES = {spans}\n" in script
    assert f"HEARD, MOST_HEARD = prefix .. ':heard', {traffic.MOST_HEARD}\n" in script
    # The longest entry there can be: what takes two bytes for one in JSON, or four bytes each.
    record = RunningRecord("t", Lane.BACKFILL, "w", EPOCH, 0, 0, 0, 0)
    job = StartedJob('"' * MAX_ID_BYTES, b"", 1, 0, None, None, record, merged=False)
    longest = 0
    for text in ('"' * 10_000, "\0" * 10_000, "\N{PILE OF POO}" * 10_000):
        parts = dict.fromkeys(PARTS, 1 << 40)
        description = history.Description("source gone", text, text, text, 1 << 40, digest="x" * 200, parts=parts)
        entry = history.encode_entry(job, Lane.BACKFILL, Ending("done", lag=1e6), 3600.0, description)
        longest = max(longest, len(entry))
    (most,) = re.findall(r"(\d+) MB at the most", row)
    bytes_of_an_action = 3 * 2 * 600 + 100
    copies, actions = len(Lane) * history.MOST_JOBS * longest, history.MOST_ACTIONS * bytes_of_an_action
    attempts = MOST_ATTEMPTS * 4096
    assert f"HISTORY_ATTEMPTS, ATTEMPT_BYTES = {MOST_ATTEMPTS}, 4096\n" in script
    assert f"the last {MOST_ATTEMPTS:,} failed attempts" in row
    assert copies + actions + attempts < int(most) * 1_000_000


def test_every_part_of_the_status_page_is_explained() -> None:
    catalogue = json.loads((ROOT / "replicator/server/page/templates/messages.json").read_text())
    explained = ", ".join(first_cells(section("The status page")))
    headings = [each["en"] for key, each in catalogue.items() if key.endswith(".title")]
    assert len(headings) > 10
    for heading in headings:
        assert heading in explained
