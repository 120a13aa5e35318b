"""The contests and the table keep their promises, at a size that says nothing about speed."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest

from benchmarks import programs, report
from benchmarks.contest import Contest, Line, Standing
from benchmarks.holding import hold, verify
from benchmarks.measuring import Measurement, RunFailed, measure
from benchmarks.rows import ROWS, Row, Scale, Target
from benchmarks.stage import stage
from tests.standins.images import blobs_of, image, layer, multi_arch, push

if TYPE_CHECKING:
    from collections import Counter

    from benchmarks.contest import Route

MIB = 2**20
TINY = Scale(size=1 / 1000, number=1 / 1000)
IDLE = programs.contender("idle", lambda _: ["true"])


async def held(name: str, storage: Path, **changes: object) -> tuple[Contest, dict[str, Standing]]:
    """A row with everyone once, as requests are counted, by name."""
    contest = replace(ROWS[name].make(TINY), **changes)  # type: ignore[arg-type] # attributes of a contest
    standings = {standing.name: standing for standing in await hold(contest, runs=0, storage=storage)}
    assert next(iter(standings)) == "replicator"
    assert {name: standing.problem for name, standing in standings.items()} == dict.fromkeys(standings, "")
    assert not list(storage.iterdir()), "something was left behind"
    return contest, standings


def asked(standing: Standing) -> Counter[str]:
    return standing.requests["destination"]


async def test_everyone_copies_an_image(tmp_path: Path) -> None:
    contest, standings = await held("large", tmp_path)

    assert {"replicator", "skopeo", "curl | curl"} <= set(standings)
    assert asked(standings["curl | curl"]) == {"POST upload": 5, "PUT upload": 5, "PUT manifest": 1}
    for standing in standings.values():
        assert standing.requests["destination"].total() >= contest.fewest == 11
    assert standings["curl | curl"].floor


async def test_everyone_trusts_the_authority_of_both_registries(tmp_path: Path) -> None:
    contest = ROWS["tls"].make(TINY)
    plain = replace(contest, tls=False)
    standings = await hold(contest, runs=1, storage=tmp_path, counted=replace(plain, contenders=[]))

    assert {"replicator", "skopeo"} <= {standing.name for standing in standings}
    assert [standing.problem for standing in standings] == [""] * len(standings)
    assert all(standing.runs for standing in standings)


async def test_an_authority_that_is_not_trusted_is_noticed(tmp_path: Path) -> None:
    def unsuspecting(route: Route) -> list[str]:
        return ["curl", "-fsS", f"https://{route.destination}/v2/"]

    def trusting(route: Route) -> list[str]:
        return ["curl", "-fsS", "--cacert", str(route.ca), f"https://{route.destination}/v2/"]

    both = [programs.contender("unsuspecting", unsuspecting), programs.contender("trusting", trusting)]
    contest = Contest("", {}, both, brings=False, tls=True)
    first, second = await hold(contest, runs=1, storage=tmp_path, counted=replace(contest, tls=False, contenders=[]))
    assert "certificate" in first.problem
    assert second.problem == ""


async def test_what_a_run_takes_is_measured(tmp_path: Path) -> None:
    contest = Contest("", {"team/app": {"v1": image()}}, programs.copies("crane", "regctl", "oras"))
    for standing in await hold(contest, runs=2, storage=tmp_path):
        assert len(standing.runs) == 2
        assert all(run.seconds > 0 and run.cpu > 0 and run.peak > MIB for run in standing.runs)
        assert (standing.requests["destination"]["PUT upload"], standing.problem) == (3, "")


async def test_everyone_brings_all_tags(tmp_path: Path) -> None:
    contest, standings = await held("shared", tmp_path)

    assert [len(tags) for tags in contest.content.values()] == [2]
    assert asked(standings["replicator"])["PUT manifest"] == 2


async def test_everyone_copies_with_a_delay(tmp_path: Path) -> None:
    _, standings = await held("latency", tmp_path, delay=0.002)

    # Seven blobs of its own for each tag, and the one that is shared.
    assert asked(standings["replicator"])["PUT upload"] == 15


async def test_everyone_logs_in_and_brings_an_index(tmp_path: Path) -> None:
    contest, standings = await held("index", tmp_path)

    for standing in standings.values():
        assert asked(standing)["GET token"] > 0
        assert asked(standing)["PUT upload"] == 7
        assert asked(standing)["PUT manifest"] == 3
        # Those, a refusal and a token are the fewest.
        assert standing.requests["destination"].total() > contest.fewest == 7 * 2 + 3 + 2


def test_others_copy_an_image_over_a_line_with_their_own_defaults_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "absent", list)

    names = {contender.name for contender in ROWS["line-image"].make(TINY).contenders}
    assert {f"{name}{how}" for name in ("crane", "regctl", "oras") for how in ("", ", default")} <= names


async def test_everyone_brings_an_update_over_a_line(tmp_path: Path) -> None:
    contest, standings = await held("line-update", tmp_path, line=Line(0.002, 100e6))

    for standing in standings.values():
        # The config and a layer; what is there already is not sent again.
        assert asked(standing)["PUT upload"] == 2
    assert contest.fewest == 5


@pytest.mark.parametrize("name", ["idle-copy", "idle-backfill"])
async def test_nothing_is_sent_that_is_in_place(name: str, tmp_path: Path) -> None:
    contest, standings = await held(name, tmp_path)

    # Some of the others send the manifest again.
    assert not any(asked(one)["PUT upload"] for one in standings.values())
    assert {kind.split()[0] for kind in asked(standings["replicator"])} <= {"GET", "HEAD"}
    assert asked(standings["replicator"])["HEAD manifest"] == contest.fewest == 1


async def test_the_start_alone_asks_nobody(tmp_path: Path) -> None:
    _, standings = await held("version", tmp_path)
    assert all(asked(standing) == {} for standing in standings.values())


async def test_a_request_is_measured_by_itself(tmp_path: Path) -> None:
    standings = {standing.name: standing for standing in await hold(ROWS["head"].make(TINY), 1, tmp_path)}

    assert set(standings) == {"replicator", "aiohttp", "httptools"}
    for standing in standings.values():
        (run,) = standing.runs
        assert run.seconds > 0
        assert run.peak > MIB
        assert 1e-6 < standing.cpu < 0.1
        assert asked(standing)["HEAD manifest"] == 200 + 50


async def test_pushes_arrive_by_serve(tmp_path: Path) -> None:
    _, standings = await held("push", tmp_path)

    for standing in standings.values():
        assert asked(standing)["PUT manifest"] == 2
    # What waits for the tags is not counted.
    assert asked(standings["replicator"])["HEAD manifest"] <= 4


async def test_requests_are_counted_apart_with_small_images(tmp_path: Path) -> None:
    """What is counted is the other contest: here with fewer tags."""

    def fill(number: int) -> Contest:
        content = {"team/app": {f"v{n}": image(n) for n in range(number)}}
        return Contest("", content, programs.mirrors("replicator", "crane", "regctl", "regsync", "oras"))

    (skopeo,) = await hold(fill(2), runs=1, storage=tmp_path, counted=fill(1))
    assert asked(skopeo)["PUT manifest"] == 1


async def test_a_destination_that_runs_change_is_a_runs_own(tmp_path: Path) -> None:
    content = {"team/app": {"v1": image(1), "v2": image(2)}}
    contest = Contest("", content, [], before={"team/app": {"v1": image(1)}})

    async with stage(contest, tmp_path) as registries:
        for _ in range(2):
            async with registries.run() as run:
                with pytest.raises(RunFailed, match="nobody did not bring team/app:v2"):
                    await verify(run, contest, "nobody")
                await push(run.route.destination, "mirror/app", "v2", image(2))
                await verify(run, contest, "somebody")


async def test_who_does_not_do_the_work_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    contest = Contest("nothing", {"team/app": {"v1": image()}}, [IDLE, *programs.copies("crane", "regctl", "oras")])
    idle, ours, *_ = await hold(contest, runs=2, storage=tmp_path)

    assert idle.problem == "idle did not bring team/app:v1"
    assert len(idle.runs) == 1
    assert len(ours.runs) == 2
    assert ours.problem == ""
    result = report.Result(
        "nothing", Row(lambda _: contest, (Target("seconds", 1.0, "idle"),)), contest, [idle, ours], 1
    )
    assert result.problems == ["idle failed: idle did not bring team/app:v1"]
    assert result.judge()[0].figure is None


async def test_who_brings_something_else_is_found_out(tmp_path: Path) -> None:
    contest = Contest("", {"team/app": {"v1": image(1)}}, [])

    async with stage(contest, tmp_path) as registries, registries.run() as run:
        await push(run.route.destination, "mirror/app", "v1", image(2))
        with pytest.raises(RunFailed, match="idle made another manifest of team/app:v1"):
            await verify(run, contest, "idle")


async def test_who_leaves_a_part_out_is_found_out(tmp_path: Path) -> None:
    root = multi_arch()
    contest = Contest("", {"team/app": {"v1": root}}, [])

    async with stage(contest, tmp_path) as registries, registries.run() as run:
        await push(run.route.destination, "mirror/app", "v1", root)
        await verify(run, contest, "idle")
        for kind, digest in (("blobs", blobs_of(root)[1].digest), ("manifests", root.children[1].digest)):
            async with aiohttp.request("DELETE", f"{run.route.registry}/v2/mirror/app/{kind}/{digest}") as answer:
                assert answer.status == 202
            with pytest.raises(RunFailed, match=f"idle did not bring {digest} of team/app:v1"):
                await verify(run, contest, "idle")
            await push(run.route.destination, "mirror/app", "v1", root)


def test_the_fewest_requests_leave_out_what_is_there() -> None:
    base = [layer(1)]
    former, root = image(1, (100,), base=base), image(2, (100,), base=base)
    update = Contest("", {"a/b": {"v2": root}}, [], before={"a/b": {"v1": former}})
    assert update.fewest == 5
    assert replace(update, before={}).fewest == 7
    assert replace(update, before=update.content).fewest == 1


def test_targets_are_judged_by_the_medians_of_ratios() -> None:
    def standing(name: str, *seconds: float) -> Standing:
        return Standing(name, [Measurement(wall, wall / 2, 50 * MIB) for wall in seconds])

    targets = [Target("seconds", 1.0, "crane"), Target("cpu", 1.0), Target("peak", 50e6), Target("cpu", 1.0, "best")]
    targets.append(Target("seconds", 1.0, "oras"))
    contest = Contest("work", {}, [])
    standings = [standing("replicator", 1, 3, 2), standing("crane", 2, 2, 2), standing("regctl", 4, 4, 4)]
    standings.append(replace(standing("curl", 0.1, 0.1, 0.1), floor=True))
    result = report.Result("row", Row(lambda _: contest, targets), contest, standings, 1)

    assert [judged.sign for judged in result.judge()] == ["✓", "✓", "✗", "✓", "\N{EN DASH}"]
    shown = report.text(result).splitlines()
    assert shown[0] == "row: work (1 s)"
    assert shown[1].split()[:4] == ["replicator", "2.00", "s", "1.00"]
    assert shown[1].endswith("wall <= 1.00 x crane: 1.00 ✓")
    (line,) = [line for line in report.markdown([result], [], []).splitlines() if line.startswith("| `row`")]
    assert "regctl: 4.00 s / 2.00 s / 52 MB" in line


async def test_a_command_that_fails_is_told_with_its_words(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="sh ended with 3: no such luck"):
        await measure(["sh", "-c", "echo no such luck; exit 3"], tmp_path)
    with pytest.raises(RunFailed, match="no-such-program"):
        await measure(["no-such-program"], tmp_path)


async def test_a_command_ends_with_its_benchmark(tmp_path: Path) -> None:
    running = asyncio.create_task(measure(["sh", "-c", "echo $$ > id; exec sleep 600"], tmp_path))
    while not (tmp_path / "id").is_file() or not (said := (tmp_path / "id").read_text().strip()):
        await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    # Whoever takes over orphans may need a moment to see it off.
    while _runs(said):
        await asyncio.sleep(0.01)


def test_the_table_has_its_place_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs/comparison.md").read_text()
    assert page.count(report.BEGIN) == page.count(report.END) == 1


def test_a_document_without_a_place_for_the_table_is_refused(tmp_path: Path) -> None:
    document = tmp_path / "document.md"
    document.write_text("nothing")
    assert not report.has_place(document)
    document.write_text(f"before\n{report.BEGIN}old\n{report.END}after\n")
    assert report.has_place(document)
    report.write(document, "| table |")
    assert document.read_text() == f"before\n{report.BEGIN}\n| table |\n{report.END}after\n"


async def test_another_checkout_takes_part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "replicator" / "__main__.py"
    program.parent.mkdir()
    program.write_text("raise SystemExit('the other one')")
    program.with_name("__init__.py").touch()
    monkeypatch.setitem(programs.TREES, "replicator at other", tmp_path)

    standings = await hold(ROWS["version"].make(TINY), runs=0, storage=None)
    assert [standing.name for standing in standings][:2] == ["replicator", "replicator at other"]
    assert standings[0].problem == ""
    assert "the other one" in standings[1].problem


def test_every_row_of_the_table_has_a_target() -> None:
    assert all(row.targets for row in ROWS.values() if row.always)


async def test_the_command_line_prints_the_table_and_writes_it_into_a_document(tmp_path: Path) -> None:
    document = tmp_path / "document.md"
    document.write_text(f"# Before\n\n{report.BEGIN}old\n{report.END}\nafter\n")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks", "idle-copy", "version", "--quick"),
        *("--markdown", str(document), "--requests", "--storage", str(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    for words in (
        "idle-copy: nothing to do",
        "version: start time",
        "HEAD manifest",
        "1 interleaved runs",
        "skopeo 1.",
        "a small part",
    ):
        assert words in said.decode()
    written = document.read_text()
    assert written.startswith("# Before\n")
    assert written.endswith("\nafter\n")
    assert "old" not in written
    assert "| `idle-copy`: nothing to do" in written


def _runs(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
