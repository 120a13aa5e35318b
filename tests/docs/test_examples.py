"""Every example in the documentation works. Those of docs/rules.md have tests of their own."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import trustme
import yaml

from replicator import commands as command_line
from replicator.rules import load, parse
from tests.docs.pages import DEPLOYED, PAGES, ROOT, blocks, commands, here_documents, name

if TYPE_CHECKING:
    from pathlib import Path

    from tests.docs.pages import Block

COMMANDS = {name: command_line.load_command(name) for name in command_line.COMMANDS}
SECRETS = {"HARBOR_PASSWORD": "x", "ACR_PASSWORD": "y"}
COMPOSE = ROOT / "deploy" / "compose"


def is_rules(text: str) -> bool:
    # Kubernetes' files have their own meaning of the word, and tests of their own.
    return bool(re.search(r'^(?:images:|\s*"images":)', text, re.MULTILINE)) and not text.startswith("apiVersion:")


OURS = [block for block in blocks() if block.page.name != "rules.md"]
RULES = [block for block in OURS if block.language in {"yaml", "json"} and is_rules(block.text)]


def replicator_commands(text: str) -> list[list[str]]:
    """The calls of ``replicator`` in a script, each from the command's name on."""
    found = []
    for words in commands(text):
        for index, word in enumerate(words[:-1]):
            called = word == "replicator" or word.endswith("/bin/replicator") or word.startswith("replicator:")
            if called and (words[index + 1] in COMMANDS or index == 0):
                found.append(words[index + 1 :])
        # A shell that is given its command in one word.
        found += [call for word in words if " " in word for call in replicator_commands(word)]
    return found


def try_out(call: list[str]) -> None:
    """Parse a call as the program would, without doing it; raise what it would say if it is wrong."""
    command = COMMANDS[call[0]]
    with command.make_context(call[0], list(call[1:])):
        pass


def steps(block: Block) -> str:
    """The shell commands of a block: its own, or those in the steps of a pipeline."""
    if block.language in {"sh", "crontab"}:
        return block.text
    if block.language == "groovy":
        return "\n".join(re.findall(r"^\s*sh '(.*)'$", block.text, re.MULTILINE))
    jobs = yaml.safe_load(block.text)
    found = [job.get("script", []) for job in jobs.values() if isinstance(job, dict)] if isinstance(jobs, dict) else []
    return "\n".join(line for script in found for line in script)


SCRIPTS = [block for block in OURS if block.language in {"sh", "crontab", "groovy", "yaml"} and steps(block)]
CALLS = [(block, call) for block in SCRIPTS for call in replicator_commands(steps(block))]


@pytest.mark.parametrize("block", RULES, ids=str)
def test_rules_files_can_be_loaded(block: Block, tmp_path: Path) -> None:
    text = block.text
    if "ca_file: " in text:
        trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        text = re.sub(r"(?<=ca_file: )[^\s,}]+", str(tmp_path / "ca.pem"), text)
    # Those of image-syncer have no defaults: they come from the command line, as the page says.
    defaults: dict[str, Any] = (
        {} if "defaults" in block.text else {"registry": "registry.cn-beijing.aliyuncs.com", "namespace": "mirror"}
    )
    assert list(parse(text, str(block), environ=SECRETS, **defaults).warnings) == []


def test_the_example_rules_can_be_loaded() -> None:
    rules = load(COMPOSE / "rules.example.yaml", environ=SECRETS)
    assert list(rules.warnings) == []


@pytest.mark.parametrize(("block", "call"), CALLS, ids=[f"{block}-{call[0]}" for block, call in CALLS])
def test_command_lines_are_understood(block: Block, call: list[str]) -> None:
    try_out(call)


@pytest.mark.parametrize(
    ("script", "calls"),
    [
        ("replicator serve --nonsense", [["serve", "--nonsense"]]),
        ("replicator nonsense", [["nonsense"]]),
        ("docker compose exec -T replicator replicator backfill > x", [["backfill"]]),
        ("cd /x && /opt/replicator/bin/replicator copy a", [["copy", "a"]]),
        ("sh -c 'set -a; replicator worker --listen x'", [["worker", "--listen", "x"]]),
        ("systemctl restart replicator.service", []),
    ],
)
def test_a_wrong_command_line_would_be_found(script: str, calls: list[list[str]]) -> None:
    assert replicator_commands(script) == calls
    for call in calls:
        if call != ["backfill"]:
            with pytest.raises(Exception, match=r"No such option|Missing parameter|nonsense"):
                try_out(call)


def test_every_kind_of_example_is_looked_at() -> None:
    known = {"sh", "crontab", "yaml", "json", "text", "groovy", "python", "mermaid"}
    assert {"groovy", "yaml"} <= {block.language for block in SCRIPTS}, "pipelines"
    assert {block.language for block in OURS} <= known
    assert len(RULES) >= 2
    assert {call[0] for _, call in CALLS} == set(COMMANDS)
    call = re.compile(rf"replicator (?:{'|'.join(COMMANDS)})\b")
    mentioned = sum(len(call.findall(steps(block))) for block in SCRIPTS)
    assert len(CALLS) == mentioned > 10


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_json_examples_are_json(block: Block) -> None:
    assert json.loads(block.text)


@pytest.mark.parametrize("block", blocks("sh"), ids=str)
def test_what_is_sent_to_harbor_is_json(block: Block) -> None:
    for body in here_documents(block.text):
        assert json.loads(body)


@pytest.mark.parametrize("block", [block for block in OURS if block.language == "yaml"], ids=str)
def test_yaml_examples_are_yaml(block: Block) -> None:
    assert yaml.safe_load(block.text)


def test_json_files_are_json() -> None:
    files = [file for file in DEPLOYED if file.suffix == ".json"]
    assert files
    for file in files:
        assert json.loads(file.read_text())


def test_the_options_of_image_syncer_are_there() -> None:
    options: set[str] = {option for parameter in COMMANDS["backfill"].params for option in parameter.opts}
    text = (ROOT / "docs" / "compatibility.md").read_text()
    rows = re.findall(r"^\| (`--.+?) \|", text, re.MULTILINE)
    named = {option for row in rows for option in re.findall(r"`(--[a-z-]+)`", row)}
    assert {"--config", "--proc", "--force", "--output-images-format"} <= named <= options


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_named_in_the_text_exist(page: Path) -> None:
    assert set(re.findall(r"`replicator ([a-z]+)", page.read_text())) <= set(COMMANDS)
