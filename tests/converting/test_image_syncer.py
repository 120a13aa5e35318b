"""``replicator convert`` on files of image-syncer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from replicator.converting import convert
from replicator.errors import ConfigError
from replicator.reference import Reference
from replicator.rules import parse
from tests.running import replicator

if TYPE_CHECKING:
    from pathlib import Path

HARBOR, ACR = "harbor.example.com", "registry.cn-beijing.aliyuncs.com"
SECRET = "not-to-be-seen"
AUTH = {host: {"username": "robot$a", "password": SECRET, "insecure": True} for host in (HARBOR, ACR)}
NAMES, TAGS = ["library/nginx", "team/app", "team/app/api"], ["1", "1.10", "on", "v2"]
SOURCES = st.builds(
    lambda name, tags: f"{HARBOR}/{name}{tags}", st.sampled_from(NAMES), st.sampled_from(["", ":1", ":1,on", ":/^v/"])
)
ENDS = st.sampled_from(["", f"{ACR}/mirror/x", f"{ACR}/mirror/y:8", f"{ACR}/mirror/z:8,9"])
IMAGES = st.dictionaries(SOURCES, ENDS | st.lists(ENDS, min_size=1, max_size=2), min_size=1, max_size=4)


@given(IMAGES)
def test_the_converted_rules_send_every_image_where_the_original_does(images: dict[str, Any]) -> None:
    text = json.dumps({"auth": AUTH, "images": images})
    try:
        original = parse(text, "x", environ={}, registry=ACR, namespace="ns")
    except ConfigError:
        return
    found = convert(text, "x", registry=ACR, namespace="ns")
    assert SECRET not in found.text
    converted = parse(found.text, "y", environ=dict.fromkeys(found.variables, SECRET))
    for name in NAMES:
        for tag in TAGS:
            reference = Reference.parse(f"{HARBOR}/{name}:{tag}")
            assert converted.destinations(reference) == original.destinations(reference)
        assert converted.credentials(reference.repository) == original.credentials(reference.repository)


async def test_the_command_writes_rules_and_tells_what_it_left_out(tmp_path: Path) -> None:
    content = {"auth": {HARBOR: AUTH[HARBOR]}, "images": {f"{HARBOR}/library/nginx": ""}, "proc": "3"}
    (tmp_path / "old.json").write_text(json.dumps(content))
    arguments = ("convert", "old.json", "--output=rules.yaml", f"--registry={ACR}", "--namespace=ns")
    ended = await replicator(*arguments, cwd=tmp_path)
    assert ended.code == 0, ended.said
    assert "old.json: proc: has no equivalent" in ended.err
    assert "PASSWORD_HARBOR_EXAMPLE_COM" in ended.err
    written = (tmp_path / "rules.yaml").read_text()
    assert SECRET not in ended.said + written
    again = await replicator(*arguments, cwd=tmp_path)
    assert (again.code, (tmp_path / "rules.yaml").read_text()) == (2, written)
    kept = await replicator(*arguments, "--keep-secrets", "--force", cwd=tmp_path)
    assert kept.code == 0
    assert SECRET in (tmp_path / "rules.yaml").read_text()


async def test_a_file_of_another_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("version: 1\nsync: []\n")
    ended = await replicator("convert", "other.yaml", cwd=tmp_path)
    assert ended.code == 2
    assert "no file of image-syncer" in ended.err
