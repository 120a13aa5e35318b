"""What the options of the command line ask for of an image."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from replicator.commands import app, backfill, copy
from replicator.commands import options as preparing
from replicator.commands.copy import copy_options
from replicator.commands.options import platforms_of
from replicator.copy.options import VERBATIM, Attestations, CopyOptions
from replicator.errors import ConfigError
from replicator.reference import Platform, Reference
from tests.rules.building import HARBOR, text_of

if TYPE_CHECKING:
    from pathlib import Path

ACR = Reference.parse("registry.cn-beijing.aliyuncs.com/a/b:1")
PLAIN = Reference.parse("registry.example.com/a/b:1")


def test_without_a_word_everything_is_copied_but_what_acr_refuses() -> None:
    assert copy_options(PLAIN, None, None, signatures=False) == VERBATIM
    assert copy_options(ACR, None, None, signatures=False) == CopyOptions(attestations=Attestations.STRIP_REFUSED)


def test_each_option_says_its_part() -> None:
    options = copy_options(ACR, ["linux/arm64/v8", "linux/amd64"], "fail", signatures=True)
    platforms = (Platform("linux", "amd64"), Platform("linux", "arm64", "v8"))
    assert options == CopyOptions(platforms, Attestations.FAIL, signatures=True)


@pytest.mark.parametrize("word", ["keep", "strip", "fail"])
def test_a_word_on_attestations_holds_whatever_the_destination(word: str) -> None:
    assert copy_options(ACR, None, word, signatures=False) == copy_options(PLAIN, None, word, signatures=False)
    assert copy_options(ACR, None, word, signatures=False).attestations == word


def test_under_a_digest_no_byte_changes() -> None:
    digest = Reference.parse(f"registry.cn-beijing.aliyuncs.com/a/b@sha256:{'a' * 64}")
    assert copy_options(digest, None, None, signatures=False) == VERBATIM
    assert copy_options(digest, ["*/*"], "fail", signatures=True) == CopyOptions((), Attestations.FAIL, signatures=True)
    for platforms, word, option in ((["linux/amd64"], None, "--platform"), (None, "strip", "--attestations")):
        with pytest.raises(ConfigError, match="use a tag instead") as caught:
            copy_options(digest, platforms, word, signatures=False)
        assert [problem.path for problem in caught.value.problems] == [option]


@pytest.mark.parametrize(
    ("systems", "architectures", "wishes"),
    [
        (None, None, []),
        (["linux"], None, ["linux/*"]),
        (None, ["amd64"], ["*/amd64"]),
        (None, ["arm64:v8"], ["*/arm64/v8"]),
        (["linux,windows"], None, ["linux/*", "windows/*"]),
        (["linux"], ["amd64,arm64:v8", "s390x"], ["linux/amd64", "linux/arm64/v8", "linux/s390x"]),
        (["linux, windows"], ["amd64"], ["linux/amd64", "windows/amd64"]),
        (["*"], ["*"], ["*/*"]),
        ([""], ["", "amd64"], ["*/amd64"]),
    ],
)
def test_os_and_arch_make_every_pair(
    systems: list[str] | None, architectures: list[str] | None, wishes: list[str]
) -> None:
    assert [str(platform) for platform in platforms_of(systems, architectures)] == wishes


@pytest.mark.parametrize(
    ("systems", "architectures", "option"),
    [
        (["linux,"], None, "--os"),
        (["linux/amd64"], None, "--os"),
        (["lin ux"], ["amd64"], "--os"),
        (["linux:x"], None, "--os"),
        (None, ["amd64,,arm64"], "--arch"),
        (None, ["arm64/v8"], "--arch"),
        (None, ["arm64:v8:x"], "--arch"),
        (["linux"], ["arm64:"], "--arch"),
    ],
)
def test_a_wrong_list_is_told_with_its_option(
    systems: list[str] | None, architectures: list[str] | None, option: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        platforms_of(systems, architectures)
    assert [problem.path for problem in caught.value.problems] == [option]


def test_a_wrong_platform_is_told_with_its_option() -> None:
    with pytest.raises(ConfigError) as caught:
        copy_options(PLAIN, ["linux/amd64", "linux"], None, signatures=False)
    assert [problem.path for problem in caught.value.problems] == ["--platform"]


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run a command in within this process, whose logs stay as they are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preparing, "configure_logs", lambda *_: None)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ([], CopyOptions(attestations=Attestations.STRIP_REFUSED)),
        (["--attestations", "keep"], VERBATIM),
        (
            ["--platform", "linux/amd64", "--platform=linux/arm64", "--attestations=strip", "--signatures"],
            CopyOptions((Platform("linux", "amd64"), Platform("linux", "arm64")), Attestations.STRIP, signatures=True),
        ),
    ],
)
@pytest.mark.usefixtures("alone")
def test_copy_asks_for_what_its_options_say(
    arguments: list[str], options: CopyOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[CopyOptions] = []

    async def copy_one(*given: Any, **_: Any) -> int:
        asked.append(given[-1])
        return 0

    monkeypatch.setattr(copy, "copy_one", copy_one)
    ended = CliRunner().invoke(app, ["copy", str(PLAIN), str(ACR), *arguments], catch_exceptions=False)
    assert (ended.exit_code, asked) == (0, [options])


def test_backfill_gives_its_wishes_to_the_rules_without_platforms(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"to": "registry.example.com/own", "platforms": "linux/386"}
    (alone / "rules.json").write_text(text_of({f"{HARBOR}/a/b": [own, "registry.example.com/b"]}))
    asked: list[CopyOptions] = []

    async def run_backfill(given: backfill.BackfillRequest, **_: Any) -> int:
        asked.extend(request.options for request in given.rules.destinations(Reference.parse(f"{HARBOR}/a/b:1")))
        return 0

    monkeypatch.setattr(backfill, "run_backfill", run_backfill)
    arguments = ["--config", "rules.json", "--os=linux", "--arch=amd64,arm64:v8", "--arch", "s390x"]
    ended = CliRunner().invoke(app, ["backfill", *arguments], catch_exceptions=False)
    assert ended.exit_code == 0
    wishes = [Platform.parse(text) for text in ("linux/amd64", "linux/arm64/v8", "linux/s390x")]
    assert asked == [CopyOptions((Platform("linux", "386"),)), CopyOptions(tuple(wishes))]


def test_explain_needs_no_password_and_other_commands_name_the_file_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    login = {"username": "u", "password": "${SOME_PASSWORD}"}
    rules = {
        "auth": {"h.example": login, "r.example": {"anonymous": True}},
        "images": {"h.example/a/**": "r.example/a/{flat}"},
    }
    (tmp_path / "rules.json").write_text(json.dumps(rules))
    (tmp_path / ".env").write_text("SOME_PASSWORD=\n")
    told = CliRunner().invoke(app, ["explain", "h.example/a/b:1", "--config", "rules.json"])
    assert told.exit_code == 0, told.output
    assert "h.example/a/b:1 -> r.example/a/a-b:1" in told.output
    refused = CliRunner().invoke(app, ["backfill", "--config", "rules.json"])
    assert isinstance(refused.exception, ConfigError)
    assert f"is empty: set it in {tmp_path}/.env" in str(refused.exception)
