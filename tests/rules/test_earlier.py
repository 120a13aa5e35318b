"""Rules files and queued jobs of an earlier version keep their meaning, tag for tag.

That version ran every expression on Python's ``re`` and knew no ranges but PEP 440's. ``earlier/rules.yaml`` is a
file of it, and ``earlier/decisions.json`` what it made of the file: a queued job for each repository, the tags whose
push it copied, and the latest of all tags.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from replicator.reference import Reference, Repository
from replicator.rules import CopyRequest, Rules, load

EARLIER = Path(__file__).parent / "earlier"
DECISIONS = json.loads((EARLIER / "decisions.json").read_text())
TAGS: list[str] = DECISIONS["tags"]
REPOSITORIES = pytest.mark.parametrize(("name", "expected"), DECISIONS["repositories"].items())


@pytest.fixture(scope="module")
def rules() -> Rules:
    return load(EARLIER / "rules.yaml", environ={})


@REPOSITORIES
def test_a_file_copies_the_same_tags(rules: Rules, name: str, expected: dict[str, Any]) -> None:
    registry, _, path = name.partition("/")
    repository = Repository(registry, path)
    assert [tag for tag in TAGS if rules.destinations(Reference(repository, tag))] == expected["pushed"]
    assert [request.source.tag for request in rules.requests(repository, TAGS)] == expected["latest"]


@REPOSITORIES
def test_a_queued_job_selects_the_same_tags(rules: Rules, name: str, expected: dict[str, Any]) -> None:
    job = CopyRequest.from_json(expected["job"])
    assert job.selection is not None
    assert job.selection.select(TAGS) == expected["latest"]
    assert job.to_json() == expected["job"]
    (asked,) = rules.destinations(job.source)
    assert asked.selection is not None
    # Signatures came to be copied apart since, or not at all by a rule that leaves their tags out.
    assert replace(asked, selection=replace(asked.selection, signatures_apart=False), options=job.options) == job


def test_only_constructs_that_re2_lacks_are_warned_of(rules: Rules) -> None:
    told = {problem.path.split("/")[1]: problem.message for problem in rules.warnings if "RE2" in problem.message}
    assert set(told) == {"lookahead", "lookbehind", "possessive", "atomic", "again", "upto", "converted"}
