"""A small number of mutated inputs, inputs that once broke a parser, and the fuzzer itself."""

from __future__ import annotations

import json

import pytest

from tests.fuzz.__main__ import main
from tests.fuzz.running import made, run
from tests.fuzz.targets import TARGETS, Target

FOUND = {
    # A tag written out that is none went through as a pattern, and failed where it was taken for a tag.
    "rules": [
        json.dumps(
            {
                "auth": {"harbor.example.com": {"anonymous": True}, "registry.example.com": {"anonymous": True}},
                "images": {
                    "harbor.example.com/team/*": "registry.example.com/{project}/{name}",
                    "harbor.example.com/team/app:-v1": "registry.example.com/a/b",
                },
            }
        ),
    ],
    # A number that is not whole went through to where the newest so many are taken.
    "filters": ['{"latest": 1.5}', '{"latest": NaN}', '{"latest": true}', '{"others": [{"latest": 1e3}]}'],
}


@pytest.mark.parametrize("name", TARGETS)
def test_the_valid_inputs_of_the_corpus_are_understood(name: str) -> None:
    refused = 0
    for seed in TARGETS[name].seeds:
        try:
            TARGETS[name].attempt(seed)
        except TARGETS[name].refusals:
            refused += 1
    assert refused == (1 if name == "manifests" else 0)


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_inputs_are_understood_or_refused_as_documented(name: str) -> None:
    done = run(TARGETS[name], 0, range(100))
    assert done.findings == ()
    assert done.inputs == 100


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in FOUND.items() for text in texts])
def test_what_was_found_once_is_refused_as_documented(name: str, text: str) -> None:
    with pytest.raises(TARGETS[name].refusals):
        TARGETS[name].attempt(text)


def test_an_input_can_be_made_again_by_its_number() -> None:
    target = TARGETS["events"]
    assert [made(target, 7, number) for number in range(50)] == [made(target, 7, number) for number in range(50)]
    assert made(target, 7, 1) != made(target, 8, 1)


def test_an_exception_that_is_not_documented_is_a_finding_with_its_input() -> None:
    def attempt(text: str) -> None:
        if len(text) != 3:
            raise KeyError(text)

    (finding, *_) = run(Target(("abc",), attempt, (ValueError,)), 0, range(100)).findings
    assert "KeyError" in finding.what
    assert made(Target(("abc",), attempt), 0, finding.number) == finding.text


def test_an_input_that_takes_too_long_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.running._GIVEN_UP_SECONDS", 0.05)

    def attempt(_: str) -> None:
        while True:
            pass

    findings = run(Target(("abc",), attempt), 0, range(1)).findings
    assert "_Overrun" in findings[0].what


def test_the_command_says_what_was_done_and_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["events", "links", "--count", "200", "--processes", "1"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in said[:2]] == [["events", "200", "inputs"], ["links", "200", "inputs"]]
