"""``replicator convert`` on files of image-syncer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.commands.convert import File, Options, convert_files
from replicator.errors import ConfigError
from replicator.reference import Reference
from replicator.rules import parse
from tests.running import replicator

if TYPE_CHECKING:
    from pathlib import Path

HARBOR, ACR = "harbor.example.com", "registry.cn-beijing.aliyuncs.com"
PASSWORD_OF_ACR = "PASSWORD_REGISTRY_CN_BEIJING_ALIYUNCS_COM"
SECRET = "not-to-be-seen"
AUTH = {host: {"username": "robot$a", "password": SECRET, "insecure": True} for host in (HARBOR, ACR)}
NAMES, TAGS = ["library/nginx", "team/app", "team/app/api"], ["1", "1.10", "on", "v2"]
SOURCES = st.builds(
    lambda name, tags: f"{HARBOR}/{name}{tags}", st.sampled_from(NAMES), st.sampled_from(["", ":1", ":1,on", ":/^v/"])
)
ENDS = st.sampled_from(["", f"{ACR}/mirror/x", f"{ACR}/mirror/y:8", f"{ACR}/mirror/z:8,9"])
IMAGES = st.dictionaries(SOURCES, ENDS | st.lists(ENDS, min_size=1, max_size=2), min_size=1, max_size=4)


def without_head(text: str) -> str:
    """The text without the line that names the files."""
    return text.partition("\n")[2]


OPTIONS = Options(registry=ACR, namespace="ns")


@given(IMAGES)
def test_the_converted_rules_send_every_image_where_the_original_does(images: dict[str, Any]) -> None:
    text = json.dumps({"auth": AUTH, "images": images})
    try:
        original = parse(text, "x", environ={}, registry=ACR, namespace="ns")
    except ConfigError:
        return
    found = convert_files([File("x", text)], OPTIONS)
    assert SECRET not in found.text
    halves = [File("i", json.dumps(images)), File("a", json.dumps(AUTH))]
    assert without_head(convert_files(halves, OPTIONS).text) == without_head(convert_files(halves[::-1], OPTIONS).text)
    assert without_head(convert_files(halves, OPTIONS).text) == without_head(found.text)
    converted = parse(found.text, "y", environ=dict.fromkeys(found.variables, SECRET))
    for name in NAMES:
        for tag in TAGS:
            reference = Reference.parse(f"{HARBOR}/{name}:{tag}")
            assert converted.destinations(reference) == original.destinations(reference)
        assert converted.credentials(reference.repository) == original.credentials(reference.repository)


def test_of_several_names_of_docker_hub_the_login_is_kept_that_the_rules_use() -> None:
    auth = {
        name: {"username": user, "password": SECRET}
        for name, user in (("docker.io", "a"), ("registry-1.docker.io", "b"), ("index.docker.io", "c"))
    }
    text = json.dumps({"auth": auth | AUTH, "images": {"mongo:4": f"{ACR}/mirror/mongo"}})
    found = convert_files([File("x", text)], OPTIONS)
    mongo = Reference.parse("registry-1.docker.io/library/mongo:4").repository
    access = parse(found.text, "y", environ=dict.fromkeys(found.variables, SECRET)).credentials(mongo)
    assert access == parse(text, "x", environ={}).credentials(mongo)
    assert access is not None
    assert access.username == "b"
    assert sum("is another name of registry-1.docker.io" in str(remark) for remark in found.remarks) == 2


async def test_the_command_writes_rules_and_reports_what_it_left_out(tmp_path: Path) -> None:
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


def test_a_scalar_without_quotes_keeps_its_text() -> None:
    text = f"""
auth:
  {HARBOR}: {{username: 0123, password: 1.10, insecure: true}}
  {ACR}: {{username: on, password: {SECRET}}}
images:
  {HARBOR}/library/nginx:1.10: [{ACR}/mirror/nginx, {ACR}/mirror/old:1.1]
  {HARBOR}/team/app: {ACR}/team/app
"""
    found = convert_files([File("x", text)], Options(keep_secrets=True))
    rules = parse(found.text, "y", environ={})
    harbor = rules.credentials(Reference.parse(f"{HARBOR}/team/app:1").repository)
    assert harbor is not None
    assert (harbor.username, harbor.password) == ("0123", "1.10")
    (request,) = rules.destinations(Reference.parse(f"{HARBOR}/team/app:1"))
    assert str(request.destination) == f"{ACR}/team/app:1"


async def test_two_files_go_in_any_order_and_to_says_where(tmp_path: Path) -> None:
    (tmp_path / "auth.json").write_text(json.dumps(AUTH))
    (tmp_path / "images.yaml").write_text(f"{HARBOR}/library/nginx: ''\n")
    ended = await replicator("convert", "images.yaml", "auth.json", f"--to={ACR}/ns", cwd=tmp_path)
    assert ended.code == 0, ended.said
    rules = parse(ended.out, "x", environ={"PASSWORD_HARBOR_EXAMPLE_COM": "x", PASSWORD_OF_ACR: "x"})
    (request,) = rules.destinations(Reference.parse(f"{HARBOR}/library/nginx:1"))
    assert str(request.destination) == f"{ACR}/ns/nginx:1"
    assert ended.out.startswith("# From images.yaml and auth.json, a file of image-syncer")
    twice = await replicator("convert", "images.yaml", "auth.json", f"--to={ACR}/ns", "--registry=x.y", cwd=tmp_path)
    assert twice.code == 2
    assert "--to: replaces --registry and --namespace" in twice.err


async def test_unusable_rules_are_reported_with_their_path(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text(json.dumps({"auth": {HARBOR: "x"}, "images": {f"{HARBOR}/UPPER": f"{ACR}/a/b"}}))
    ended = await replicator("convert", "old.json", cwd=tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert f'auth["{HARBOR}"]: must be a mapping' in ended.err
    (tmp_path / "old.json").write_text(json.dumps({"images": {f"{HARBOR}/UPPER": f"{ACR}/a/b"}}))
    ended = await replicator("convert", "old.json", cwd=tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert f"images[\"{HARBOR}/UPPER\"]: 'UPPER' is not a repository" in ended.err


def test_a_remark_is_written_at_its_entry() -> None:
    text = json.dumps(
        {"auth": {HARBOR: AUTH[HARBOR] | {"proxy\nx: y": "z"}}, "images": {f"{HARBOR}/a/b": f"{ACR}/a/b"}}
    )
    lines = convert_files([File("x\nauth: {}", text)], Options()).text.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith(f"  {HARBOR}:"))
    assert "has no equivalent; left out" in lines[at - 1]
    assert lines[at - 1].startswith("  # auth")
    assert lines[0].startswith("# From x auth: {}, a file of image-syncer")


def test_short_names_variables_and_slashes_are_written_out() -> None:
    login = {"username": "$ACR_USER", "password": "$ACR_PASSWORD"}
    content = {
        "auth": {f"{HARBOR}/": AUTH[HARBOR], "docker.io": login, ACR: login},
        "images": {"mongo:4": "$REG/ns/mongo", "docker.io/nginx": "${REG}/${NS}/nginx", f"{HARBOR}/t/a:/^v1$/": ""},
    }
    options = Options(registry=ACR, namespace="ns", environ={"REG": ACR})
    found = convert_files([File("x", json.dumps(content))], options)
    assert "registry-1.docker.io/library/mongo:4: ${REG}/ns/mongo" in found.text
    assert "registry-1.docker.io/library/nginx: ${REG}/${NS}/nginx" in found.text
    assert found.text.count("{username: '${ACR_USER}', password: '${ACR_PASSWORD}'}") == 2
    environ = {"REG": ACR, "NS": "n", "PASSWORD_HARBOR_EXAMPLE_COM": "p", "ACR_USER": "u", "ACR_PASSWORD": "p"}
    rules = parse(found.text, "y", environ=environ)
    for asked, end in (
        ("registry-1.docker.io/library/mongo:4", f"{ACR}/ns/mongo:4"),
        ("registry-1.docker.io/library/nginx:1", f"{ACR}/n/nginx:1"),
        (f"{HARBOR}/t/a:v1", f"{ACR}/ns/a:v1"),
    ):
        assert [str(request.destination) for request in rules.destinations(Reference.parse(asked))] == [end]


def test_a_variable_for_a_registry_must_be_set_to_convert() -> None:
    content = {"auth": AUTH, "images": {f"{HARBOR}/t/a": "${REG}/ns/a"}}
    with pytest.raises(ConfigError, match="variable REG is not set; it names a registry, so set it to convert"):
        convert_files([File("x", json.dumps(content))], OPTIONS)
