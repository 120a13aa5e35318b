"""The table: in the terminal, a row as soon as it is measured, and in a document."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from benchmarks.programs import TREES, absent, programs
from tests.running import environment

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from benchmarks.contest import Contest, Standing
    from benchmarks.rows import Row, Target

BEGIN, END = "<!-- benchmarks: begin -->\n", "<!-- benchmarks: end -->\n"
FEWEST = "(fewest)"
"""The row of those requests that nobody can do without."""
_WIDTHS = (18, 9, 9, 9, 22, 9, 8)
_LINE = 132
_TIMES, _AT_MOST = "\N{MULTIPLICATION SIGN}", "\N{LESS-THAN OR EQUAL TO}"
_MET, _MISSED, _UNKNOWN = "\N{CHECK MARK}", "\N{BALLOT X}", "\N{EN DASH}"
_FIGURES = {"seconds": "wall", "cpu": "CPU", "peak": "peak"}
_LEGEND = (
    "All values are medians. CPU and peak memory are those of the program itself, peak of its largest process. "
    "Requests are those to the destination, including token requests. If the source is a Harbor, its API and registry "
    "requests come first. Ratios compare wall time within each round, or CPU if CPU is the first target. Best is the "
    "other program with the lowest value."
)


@dataclass(frozen=True, slots=True)
class Judged:
    """A target, the figure for it and whether it is met; None where that program took no part."""

    target: Target
    figure: float | None

    @property
    def sign(self) -> str:
        if self.figure is None:
            return _UNKNOWN
        return _MET if round(self.figure, 9) <= self.target.most else _MISSED

    def __str__(self) -> str:
        target = self.target
        show = _ratio if target.of else _SHOW[target.figure]
        to = f" x {target.of}" if target.of else ""
        was = "" if self.figure is None else f": {show(self.figure)}"
        return f"{_FIGURES[target.figure]} <= {show(target.most)}{to}{was} {self.sign}"


@dataclass(slots=True)
class Result:
    """One row, measured.

    Attributes:
        name: of the row.
        row: what it is.
        contest: what was held.
        standings: of everyone.
        took: seconds for all of it.
    """

    name: str
    row: Row
    contest: Contest
    standings: Sequence[Standing]
    took: float
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.problems += [f"{one.name} failed: {one.problem}" for one in self.standings if one.problem]

    @property
    def figure(self) -> str:
        """The figure that the row is about."""
        return "cpu" if self.row.targets and self.row.targets[0].figure == "cpu" else "seconds"

    @property
    def ours(self) -> Standing | None:
        """Our program's, if it did the work."""
        return self.named("replicator")

    def named(self, name: str) -> Standing | None:
        """Find one that did all of the work."""
        if name == "best":
            return self.best()
        return next((one for one in self._whole() if one.name == name), None)

    def best(self, *without: str) -> Standing | None:
        """Find who of the others took the least."""
        others = [one for one in self._whole() if not one.floor and one.name not in {*without, *TREES}]
        others = [one for one in others if not one.name.startswith("replicator")]
        return min(others, key=lambda one: float(getattr(one, self.figure)), default=None)

    def ratio(self, standing: Standing, other: Standing | None) -> str:
        """Compare two, in the figure that the row is about."""
        whole = not standing.problem and not standing.tags and standing.runs
        return _ratio(standing.ratio(other, self.figure)) if other is not None and whole else ""

    def judge(self) -> list[Judged]:
        """See which targets are met."""
        ours = self.ours
        found = []
        for target in self.row.targets:
            other = self.named(target.of) if target.of else None
            figure = None
            if ours is not None and not target.of:
                figure = float(getattr(ours, target.figure))
            elif ours is not None and other is not None:
                figure = ours.ratio(other, target.figure)
            found.append(Judged(target, figure))
        return found

    def _whole(self) -> list[Standing]:
        return [one for one in self.standings if one.runs and not one.problem and not one.tags]


def heading() -> str:
    """The head of the table in the terminal."""
    names = ("program", "wall", "CPU", "peak", "requests", "x crane", "x best")
    return f"{_cells(names)}  target\n{'=' * _LINE}"


def text(result: Result) -> str:
    """The row in the terminal: a line for every program, targets beside them."""
    programs_lines = []
    for one in result.standings:
        name = f"{one.name}, {one.tags:,} tags" if one.tags else one.name
        figures = [_SHOW[figure](getattr(one, figure)) if one.runs else "" for figure in _FIGURES]
        ratios = [result.ratio(one, result.named(other)) for other in ("crane", "best")]
        programs_lines.append(_cells([name, *figures, _requests(one), *ratios]))
    if result.contest.content and result.contest.brings:
        programs_lines.append(_cells([FEWEST, "", "", "", str(result.contest.fewest), "", ""]))
    targets = [str(judged) for judged in result.judge()]
    pairs = zip_longest(programs_lines, targets, fillvalue="")
    lines = [f"{result.name}: {result.contest.title} ({result.took:.0f} s)"]
    lines += [f"{cells:{len(_cells([''] * 7))}}  {target}".rstrip() for cells, target in pairs]
    lines += [f"  {remark}" for remark in (result.row.note, *result.problems) if remark]
    return "\n".join([*lines, "-" * _LINE])


def markdown(results: Sequence[Result], failures: Sequence[str], machine: Sequence[str]) -> str:
    """The table in a document: a row for each contest."""
    lines = [
        _typeset("| Work | `replicator` | crane | best of the others | x crane | x best | target |"),
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        ours, crane, other = result.ours, result.named("crane"), result.best("crane")
        ratios = [result.ratio(ours, result.named(name)) if ours else "" for name in ("crane", "best")]
        targets = "<br>".join(_typeset(str(judged)) for judged in result.judge())
        beside = f"{other.name}: {_cell(other)}" if other is not None else ""
        cells = [f"`{result.name}`: {result.contest.title}", _cell(ours), _cell(crane), beside, *ratios, targets]
        lines.append(f"| {' | '.join(cells)} |")
    notes = [f"`{result.name}`: {result.row.note}" for result in results if result.row.note]
    problems = [f"`{result.name}`: {problem}" for result in results for problem in result.problems]
    cells_are = "A cell is wall time / CPU time / peak memory / requests. " + _LEGEND
    remarks = [cells_are, *notes, *(_one_line(problem) for problem in (*problems, *failures)), *machine]
    return "\n".join([*lines, "", *(f"- {remark}" for remark in remarks), ""])


def has_place(document: Path) -> bool:
    """Whether a document has the two marks that the table goes between."""
    return END in document.read_text().partition(BEGIN)[2]


def write(document: Path, table: str) -> None:
    """Put the table between the two marks of a document."""
    before, _, rest = document.read_text().partition(BEGIN)
    document.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}")


def machine(runs: int) -> list[str]:
    """Name the machine and the versions of the programs."""
    versions = [f"{name} {_version(program.version)}" for name, program in programs().items()]
    said = [
        f"{runs} interleaved runs; {os.cpu_count()} cores, {_processor()}; load {os.getloadavg()[0]:.1f} at the end.",
        f"Programs: {', '.join(versions)}.",
    ]
    return [*said, f"Left out, not on PATH: {', '.join(absent())}."] if absent() else said


def legend() -> str:
    """What the columns are."""
    return _LEGEND


def requests_table(result: Result) -> Table:
    """Make a table of the requests: a row a kind of request, a column a contender."""
    made = Table(title=f"{result.name}: requests", title_justify="left")
    made.add_column("request", no_wrap=True)
    for standing in result.standings:
        made.add_column(standing.name, justify="right")
    sides = dict.fromkeys(side for standing in result.standings for side in standing.requests)
    for side in sides:
        counts: list[Mapping[str, int]] = [standing.requests.get(side, {}) for standing in result.standings]
        for kind in sorted({kind for count in counts for kind in count}):
            name = f"{side}: {kind}" if len(sides) > 1 else kind
            made.add_row(name, *(str(count.get(kind, "")) for count in counts))
        made.add_section()
    totals = [sum(count.total() for count in standing.requests.values()) for standing in result.standings]
    made.add_row("all", *map(str, totals))
    return made


def _requests(standing: Standing) -> str:
    sides = [standing.requests[side] for side in ("API", "Harbor", "destination") if side in standing.requests]
    return " / ".join(f"{count.total():,}" for count in sides)


def _cell(standing: Standing | None) -> str:
    if standing is None:
        return ""
    shown = [_SHOW[figure](getattr(standing, figure)) for figure in _FIGURES]
    number = standing.requests.get("destination")
    return " / ".join([*shown, *([f"{number.total():,}"] if number else [])])


def _cells(cells: Iterable[str]) -> str:
    first, *rest = cells
    return f"{first:{_WIDTHS[0]}}" + "".join(f"{cell:>{width}}" for cell, width in zip(rest, _WIDTHS[1:], strict=True))


def _time(seconds: float) -> str:
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1000:.0f} ms" if seconds < 0.1 else f"{seconds:.2f} s"


def _bytes(size: float) -> str:
    return f"{size / 1e6:.0f} MB"


def _ratio(ratio: float) -> str:
    return f"{ratio:.2f}"


_SHOW = {"seconds": _time, "cpu": _time, "peak": _bytes}


def _typeset(text: str) -> str:
    return text.replace(" x ", f" {_TIMES} ").replace("<=", _AT_MOST)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]


def _version(command: Sequence[str]) -> str:
    """The first word with a digit of what a program says about itself."""
    said = subprocess.run(command, capture_output=True, text=True, env=environment()).stdout
    return next((word for word in said.replace("VCSTag:", "").split() if any(map(str.isdigit, word))), "?")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown processor"
