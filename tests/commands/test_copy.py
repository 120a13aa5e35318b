"""What ``replicator copy`` says of a copy, and what it asks the engine for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from replicator.commands import copy as command
from replicator.copy import Outcome, Result
from replicator.copy.options import VERBATIM, CopyOptions
from replicator.errors import OK
from replicator.reference import Reference
from replicator.registry import Access
from replicator.settings import load_settings

if TYPE_CHECKING:
    from replicator.rules import CopyRequest

SOURCE, DESTINATION = Reference.parse("h.example.com/a/b:1"), Reference.parse("r.example.com/c/d:1")
SHA = "sha256:" + "a" * 64


async def said(
    outcome: Outcome, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: CopyOptions
) -> tuple[list[str], CopyOptions]:
    """The lines that are printed when a copy ends so, and what of the image was asked for."""
    asked: list[CopyOptions] = []

    async def transfer(_: Any, request: CopyRequest) -> Outcome:
        asked.append(request.options)
        return outcome

    monkeypatch.setattr(command, "transfer", transfer)
    code = await command.copy_one(load_settings(), lambda _: Access(), SOURCE, DESTINATION, *options)
    assert code == OK
    return capsys.readouterr().out.splitlines(), asked[0]


def ended(result: Result, **values: Any) -> Outcome:
    return Outcome(result, str(SOURCE), str(DESTINATION), SHA, **values)


COPIED = (
    f"copied {SOURCE} to {DESTINATION}: {SHA}, 0 bytes in 0.0 s; blobs: 0 sent, 0 mounted, 0 already there; manifests: "
)


@pytest.mark.parametrize(
    ("outcome", "line"),
    [
        (ended(Result.UP_TO_DATE), f"up to date: {DESTINATION} is {SHA}"),
        (ended(Result.UP_TO_DATE, note="less [of] it"), f"up to date: {DESTINATION} is {SHA}; less [of] it"),
        (ended(Result.COPIED, manifests=2), f"{COPIED}2"),
        (ended(Result.COPIED, note="one attestation is left out"), f"{COPIED}0; one attestation is left out"),
        (ended(Result.COPIED, manifests=3, signatures=2, note="less"), f"{COPIED}3; signatures: 2; less"),
        (ended(Result.UP_TO_DATE, manifests=1, signatures=1), f"up to date: {DESTINATION} is {SHA}; signatures: 1"),
        (ended(Result.SKIPPED, note="no such platform"), f"skipped: {SOURCE}: no such platform"),
    ],
)
async def test_a_copy_is_told_in_one_sentence(
    outcome: Outcome, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await said(outcome, monkeypatch, capsys) == ([line], VERBATIM)


async def test_every_warning_has_a_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, _ = await said(ended(Result.UP_TO_DATE, warnings=("a [b]", "c")), monkeypatch, capsys)
    assert lines[1:] == ["Warning: a [b]", "Warning: c"]


async def test_what_of_the_image_is_asked_for_reaches_the_engine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = CopyOptions(signatures=True)
    assert (await said(ended(Result.COPIED), monkeypatch, capsys, options))[1] == options
