"""Conversion of ``skopeo sync``'s files."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.commands.convert import Converted, File, Options, convert_files
from replicator.errors import ConfigError
from replicator.reference import Reference
from replicator.rules import Rules, parse
from tests.running import replicator

if TYPE_CHECKING:
    from pathlib import Path

HOST, ACR = "registry.example.com", "registry.cn-beijing.aliyuncs.com"
OPTIONS = Options(registry=ACR, namespace="team")
DIGEST = f"sha256:{'0' * 64}"
SECRET = "not-to-be-seen"
# The example of skopeo-sync(1), with other names.
EXAMPLE = f"""
{HOST}:
    images:
        busybox: []
        redis:
            - "1.0"
            - "2.0"
            - "{DIGEST}"
    images-by-tag-regex:
        nginx: ^1\\.13\\.[12]-alpine-perl$
    images-by-semver:
        alpine: ">= 3.12.0"
    credentials:
        username: john
        password: {SECRET}
    tls-verify: true
    cert-dir: /home/john/certs
quay.io:
    tls-verify: false
    images:
        coreos/etcd:
            - latest
"""


def converted(content: Any, options: Options = OPTIONS) -> Converted:
    return convert_files([File("sync.yml", content if isinstance(content, str) else json.dumps(content))], options)


def rules_of(found: Converted) -> Rules:
    return parse(found.text, "x", environ=dict.fromkeys(found.variables, "secret"))


def ends(rules: Rules, reference: str) -> list[str]:
    return [str(request.destination) for request in rules.destinations(Reference.parse(reference))]


def test_the_example_of_its_manual_goes_where_skopeo_brings_it() -> None:
    found = converted(EXAMPLE)
    rules = rules_of(found)
    assert ends(rules, f"{HOST}/busybox:any") == [f"{ACR}/team/busybox:any"]
    assert ends(rules, f"{HOST}/redis:1.0") == [f"{ACR}/team/redis:1.0"]
    assert ends(rules, f"{HOST}/redis:3.0") == []
    assert ends(rules, f"{HOST}/redis@{DIGEST}") == [f"{ACR}/team/redis@{DIGEST}"]
    assert ends(rules, f"{HOST}/nginx:1.13.2-alpine-perl") == [f"{ACR}/team/nginx:1.13.2-alpine-perl"]
    assert ends(rules, f"{HOST}/nginx:1.13.3-alpine-perl") == []
    assert ends(rules, f"{HOST}/alpine:v3.12.1") == [f"{ACR}/team/alpine:v3.12.1"]
    assert ends(rules, f"{HOST}/alpine:3.11") == ends(rules, f"{HOST}/alpine:3.13.0-rc1") == []
    assert ends(rules, "quay.io/coreos/etcd:latest") == [f"{ACR}/team/etcd:latest"]
    john = rules.credentials(Reference.parse(f"{HOST}/redis:1").repository)
    quay = rules.credentials(Reference.parse("quay.io/coreos/etcd:1").repository)
    assert john is not None
    assert quay is not None
    assert (john.username, john.password, john.insecure) == ("john", "secret", False)
    assert (quay.username, quay.insecure) == (None, True)
    told = {remark.path for remark in found.remarks}
    assert {f'["{HOST}"].cert-dir', '["quay.io"]', ACR, ""} == told
    assert SECRET not in found.text
    assert SECRET in converted(EXAMPLE, Options(ACR, "team", keep_secrets=True)).text


PATTERNS = st.lists(
    st.sampled_from(["a", "b", "1", r"\.", "-", ".", "[ab]", "|", "^", "$", r"\d"]), min_size=1, max_size=5
).map("".join)
TAGS = st.text("ab1.-", min_size=1, max_size=6).filter(lambda tag: tag[0] not in ".-")


@given(PATTERNS, st.lists(TAGS, min_size=1, max_size=20))
def test_an_expression_for_tags_is_found_anywhere_as_there(pattern: str, tags: list[str]) -> None:
    rules = rules_of(converted({HOST: {"images-by-tag-regex": {"a/b": pattern}}}))
    for tag in tags:
        expected = [f"{ACR}/team/b:{tag}"] if re.search(pattern, tag) else []
        assert ends(rules, f"{HOST}/a/b:{tag}") == expected


def test_parts_without_an_equivalent_are_left_out_with_a_remark() -> None:
    found = converted(
        {
            HOST: {
                "images": {"a/b": ["1"]},
                "images-by-tag-regex": {"a/c": "(?!1)"},
                "images-by-semver": {"a/d": ">=1.0.0-0", "a/e": "^1.2 || ~3"},
                "credentials": {"identitytoken": SECRET},
                "mirrors": [],
            },
            "quay.io": {"tls-verify": True},
        }
    )
    told = {remark.path: remark.message for remark in found.remarks}
    assert "left out" in told[f'["{HOST}"].images-by-tag-regex["a/c"]']
    assert "left out" in told[f'["{HOST}"].images-by-semver["a/d"]']
    assert "left out" in told[f'["{HOST}"].credentials.identitytoken']
    assert "left out" in told[f'["{HOST}"].mirrors']
    assert '["quay.io"]' in told
    assert SECRET not in found.text + str(found.remarks)
    rules = rules_of(found)
    assert ends(rules, f"{HOST}/a/c:1") == ends(rules, f"{HOST}/a/d:1.0") == ends(rules, f"{HOST}/a/e:2.0") == []
    assert ends(rules, f"{HOST}/a/e:1.3") == [f"{ACR}/team/e:1.3"]
    assert ends(rules, f"{HOST}/a/e:3.9") == [f"{ACR}/team/e:3.9"]


def test_docker_hub_is_one_registry_by_all_its_names() -> None:
    content = {"index.docker.io": {"images": {"nginx": ["1"]}, "credentials": {"username": "a", "password": "b"}}}
    rules = rules_of(converted(content))
    assert ends(rules, "registry-1.docker.io/library/nginx:1") == [f"{ACR}/team/nginx:1"]
    access = rules.credentials(Reference.parse("registry-1.docker.io/library/nginx:1").repository)
    assert access is not None
    assert access.username == "a"


def test_a_secret_that_would_be_a_variable_is_put_in_one() -> None:
    content = {HOST: {"images": {"a/b": []}, "credentials": {"username": "a${b}", "password": "p${HOME}"}}}
    found = converted(content, Options(ACR, "team", keep_secrets=True))
    assert {"USERNAME_REGISTRY_EXAMPLE_COM", "PASSWORD_REGISTRY_EXAMPLE_COM"} <= set(found.variables)
    assert "${HOME}" not in found.text


async def test_skopeo_needs_a_destination(tmp_path: Path) -> None:
    (tmp_path / "sync.yml").write_text(EXAMPLE)
    ended = await replicator("convert", "sync.yml", cwd=tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert (
        "--to: a file of skopeo contains no destination; pass the DESTINATION of skopeo sync as --to HOST/NAMESPACE"
        in ended.err
    )
    for nowhere in ("/team", "team", ""):
        ended = await replicator("convert", "sync.yml", f"--to={nowhere}", cwd=tmp_path)
        assert (ended.code, ended.out) == (2, "")
        assert "is not a registry host" in ended.err
    ended = await replicator("convert", "sync.yml", f"--to={ACR}/team/", cwd=tmp_path)
    assert ended.code == 0, ended.said
    assert SECRET not in ended.said


def test_a_mistake_is_reported_at_its_path_in_the_source() -> None:
    content = {HOST: {"images": {"Team/App": [], "a/app": [], "b/app": ["no tag"], "c/app": []}}}
    ended = str(error_of(content))
    assert f"""["{HOST}"].images["Team/App"]: 'Team/App' is not a repository name""" in ended
    assert f"""["{HOST}"].images["b/app"][0]: is neither a tag nor a digest""" in ended
    ended = str(error_of({HOST: {"images": {"a/app": [], "c/app": []}}}))
    assert f'["{HOST}"].images["c/app"]: collision' in ended


def error_of(content: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        converted(content)
    return caught.value
