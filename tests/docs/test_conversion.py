"""The examples of conversion are true, and the schema in docs/ is the one that the program prints."""

from __future__ import annotations

import json
import re

from replicator.commands.convert import File, Options, convert_files
from replicator.rules import parse
from replicator.rules.schema import rules_schema
from tests.docs.pages import ROOT, blocks
from tests.docs.schema import FILES, printed

PAGE = [block for block in blocks("yaml") if block.page.name == "compatibility.md"]


def test_a_file_of_regsync_becomes_what_is_written_under_it() -> None:
    source, result, _ = PAGE
    found = convert_files([File("regsync.yml", source.text)], Options())
    assert found.text == result.text
    assert {remark.path for remark in found.remarks} == {"defaults.interval", "sync[0].backup"}


def test_a_file_of_skopeo_is_converted_but_for_what_the_page_says() -> None:
    found = convert_files([File("sync.yml", PAGE[2].text)], Options("registry.cn-beijing.aliyuncs.com", "team"))
    rules = parse(found.text, "rules.yaml", environ=dict.fromkeys(found.variables, "x"))
    assert {source.repository.name for source in rules.sources() if source.repository} == {
        *("team/app", "team/tool", "team/site", "team/api")
    }
    assert [remark.path for remark in found.remarks if "left out" in remark.message] == [
        '["harbor.example.com"].cert-dir'
    ]


def test_the_schemas_are_current() -> None:
    for file, options in FILES.items():
        assert file.read_text() == printed(options), "renew it: make docs"


def test_the_schema_is_reached_as_the_page_says() -> None:
    text = (ROOT / "docs" / "rules.md").read_text()
    assert re.findall(r"# yaml-language-server: \$schema=(\S+)", text) == ["rules.schema.json"]
    assert json.loads((ROOT / "docs" / "rules.schema.json").read_text()) == rules_schema()
    assert set(re.findall(r"#/definitions/(\w+)", text)) <= set(rules_schema()["definitions"])
