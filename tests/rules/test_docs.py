"""The examples of docs/rules.md are true, and those of its Chinese page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from replicator.errors import ConfigError
from replicator.reference import Platform, Reference, Repository
from replicator.rules import Rules, TagFilter, parse
from replicator.rules.patterns import compile_glob
from replicator.rules.tags import newest_first, version_of

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "rules.md").read_text()
CHINESE = (DOCS / "zh-CN" / "rules.md").read_text()
EXAMPLES = re.findall(r"```yaml rules\n(.*?)```\n```(\w+)\n(.*?)```", TEXT + CHINESE, re.DOTALL)
ENVIRONMENT = {"HARBOR_PASSWORD": "x", "ACR_PASSWORD": "y"}


def check(kind: str, line: str, rules: Rules) -> None:
    if kind == "goes":
        reference, _, places = line.partition(" -> ")
        expected = [] if places == "nowhere" else places.split(", ")
        assert [str(request.destination) for request in rules.destinations(Reference.parse(reference))] == expected
    elif kind == "copies":
        reference, _, copies = line.partition(" -> ")
        requests = rules.destinations(Reference.parse(reference))
        told = [(str(copy.destination), "a signature" if copy.signature else str(copy.options)) for copy in requests]
        assert [": ".join(pair) for pair in told] == ([] if copies == "nowhere" else [copies])
    elif kind == "login":
        repository, _, name = line.partition(" as ")
        access = rules.credentials(Repository.parse(repository))
        assert access is not None
        assert (access.username or "nobody") == name
    else:
        repository, _, rest = line.partition(": ")
        tags, _, expected_tags = rest.partition(" -> ")
        listed = rules.requests(Repository.parse(repository), tags.split())
        assert [request.source.tag for request in listed] == expected_tags.split()


@pytest.mark.parametrize(("text", "kind", "lines"), EXAMPLES)
def test_an_example_does_what_is_written_under_it(text: str, kind: str, lines: str) -> None:
    if kind == "problems":
        with pytest.raises(ConfigError) as caught:
            parse(text, "rules.yaml", environ={})
        assert [str(problem) for problem in caught.value.problems] == lines.splitlines()
        return
    assert kind in {"goes", "copies", "login", "latest"}
    rules = parse(text, "rules.yaml", environ=ENVIRONMENT)
    for line in lines.splitlines():
        check(kind, line, rules)


def test_every_example_is_looked_at() -> None:
    assert len(EXAMPLES) == TEXT.count("```yaml") + CHINESE.count("```yaml")
    assert min(TEXT.count("```yaml"), CHINESE.count("```yaml")) >= 5


def test_the_table_of_patterns_is_true() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| (`.+) \| (`.+) \|$", TEXT, re.MULTILINE)
    patterns = [row for row in rows if "*" in row[0]]
    assert len(patterns) == 4
    for glob, yes, no in patterns:
        for name in re.findall(r"`([^`]+)`", yes):
            assert compile_glob(glob).match(name), (glob, name)
        for name in re.findall(r"`([^`]+)`", no):
            assert not compile_glob(glob).match(name), (glob, name)


def test_the_table_of_ranges_is_true() -> None:
    table = TEXT[TEXT.index("| range | takes | leaves out |") :].partition("\n\n")[0]
    rows = [re.findall(r"`([^`]+)`", cells) for row in table.splitlines()[2:] for cells in row.strip("|").split(" | ")]
    assert len(rows) == 3 * 9
    for (range_,), taken, left in zip(rows[::3], rows[1::3], rows[2::3], strict=True):
        tags = TagFilter(semver=range_)
        assert [tag for tag in [*taken, *left] if tags.matches(tag)] == taken, range_


@pytest.mark.parametrize(
    ("wish", "taken", "left"),
    [
        ("linux/arm", ["linux/arm/v6", "linux/arm/v7"], ["linux/arm64"]),
        ("linux/arm/v7", ["linux/arm", "linux/arm/v7"], ["linux/arm/v6"]),
        ("linux/arm64/v8", ["linux/arm64/v8", "linux/arm64"], ["linux/arm"]),
        ("linux/*", ["linux/amd64", "linux/arm64"], ["windows/amd64"]),
        ("*/amd64", ["linux/amd64", "windows/amd64"], ["linux/arm64"]),
        ("*/*", ["linux/amd64", "windows/amd64"], []),
    ],
)
def test_the_table_of_platforms_is_true(wish: str, taken: list[str], left: list[str]) -> None:
    assert f"`{wish}`" in TEXT or f'`"{wish}"`' in TEXT
    platform = Platform.parse(wish)
    assert [text for text in [*taken, *left] if platform.matches(Platform.parse(text))] == taken


def test_the_examples_of_versions_are_true() -> None:
    yes, no = re.findall(r"missing parts are zero\. (.+?) are versions; (.+?) are none", TEXT)[0]
    assert all(version_of(tag) for tag in re.findall(r"`([^`]+)`", yes))
    assert not any(version_of(tag) for tag in re.findall(r"`([^`]+)`", no))
    assert newest_first(["1.2.3", "1.2.3-1"]) == ["1.2.3-1", "1.2.3"]
    assert newest_first(["1.9", "1.10", "latest", "build-9"])[:2] == ["1.10", "1.9"]
