"""Loading of rules: one file or two, unreadable files, and options of the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from replicator.errors import ConfigError
from replicator.reference import Repository
from replicator.registry import Access
from replicator.rules import load, parse
from tests.rules.building import ACR, AUTH, HARBOR, goes_to, text_of

IMAGES = {f"{HARBOR}/library/nginx": ""}

SEED = """{
    "auth": {
        "harbor.example.com:32080": {
            "username": "admin",
            "password": "xxxxxxxxx",
            "insecure": true
        },
        "registry.cn-beijing.aliyuncs.com": {
            "username": "acr_pusher@1938562138124787",
            "password": "xxxxxxxx"
        }
    },
    "images": {
        "harbor.example.com:32080/library/nginx": ""
    }
}
"""


def test_the_file_of_an_image_syncer_user_works_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "harbor-to-acr.json").write_text(SEED)
    rules = load(tmp_path / "harbor-to-acr.json", environ={}, registry=ACR, namespace="image-syncer")
    assert goes_to(rules, "harbor.example.com:32080/library/nginx:1.27") == {f"{ACR}/image-syncer/nginx:1.27"}
    assert rules.hosts == {"harbor.example.com:32080", ACR}
    assert not rules.warnings
    access = rules.credentials(Repository("harbor.example.com:32080", "library/nginx"))
    assert access == Access("admin", "xxxxxxxxx", insecure=True)


@pytest.mark.parametrize("extension", ["json", "yaml", "conf"])
def test_the_content_decides_between_json_and_yaml_not_the_name(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"rules.{extension}"
    for text in (text_of(IMAGES), f"images:\n  {HARBOR}/library/nginx: ''\nauth: {json.dumps(AUTH)}\n"):
        path.write_text(text)
        assert load(path, environ={}, registry=ACR, namespace="n").hosts == {HARBOR, ACR}


def test_two_files_are_the_mappings_themselves(tmp_path: Path) -> None:
    auth, images = tmp_path / "auth.yaml", tmp_path / "images.yaml"
    auth.write_text(json.dumps(AUTH))
    images.write_text(f"{HARBOR}/a/b: {ACR}/a/b\n")
    rules = load(None, auth=auth, images=images, environ={})
    assert goes_to(rules, f"{HARBOR}/a/b:1") == {f"{ACR}/a/b:1"}


def test_mistakes_in_two_files_are_reported_together(tmp_path: Path) -> None:
    auth, images = tmp_path / "auth.yaml", tmp_path / "images.yaml"
    auth.write_text(f"{HARBOR}: {{username: u}}\n{HARBOR}: {{anonymous: true}}\n")
    images.write_text("noHost: ''\n")
    with pytest.raises(ConfigError) as caught:
        load(None, auth=auth, images=images, environ={})
    assert caught.value.source == f"{auth} and {images}"
    paths = [problem.path for problem in caught.value.problems]
    assert paths[:2] == [f'auth["{HARBOR}"]', f'auth["{HARBOR}"]']
    assert set(paths[2:]) == {"images.noHost"}


def test_a_file_of_images_alone_lacks_credentials(tmp_path: Path) -> None:
    (tmp_path / "images.yaml").write_text(f"{HARBOR}/a/b: {ACR}/a/b\n")
    with pytest.raises(ConfigError, match="anonymous: true") as caught:
        load(None, images=tmp_path / "images.yaml", environ={})
    assert [problem.path for problem in caught.value.problems] == [f'auth["{HARBOR}"]', f'auth["{ACR}"]']


@pytest.mark.parametrize("given", ["nothing", "auth alone", "all"])
def test_the_two_files_of_image_syncer_are_told_apart(tmp_path: Path, given: str) -> None:
    path = tmp_path / "x"
    files = {"nothing": (None, None, None), "auth alone": (None, path, None), "all": (path, path, path)}
    config, auth, images = files[given]
    with pytest.raises(ConfigError, match="--auth and --images"):
        load(config, auth=auth, images=images)


def test_an_unreadable_file_is_reported_with_advice(tmp_path: Path) -> None:
    for name, content, wrong in [
        ("binary", b"images: \xff", "it is not UTF-8"),
        ("large", b"#" * (1024 * 1024 + 1), "larger than 1024 KiB"),
        ("typo", b"images:\n  a: [\n", "not valid YAML"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=wrong) as caught:
            load(tmp_path / name)
        assert caught.value.source == str(tmp_path / name)
    with pytest.raises(ConfigError, match="there is no such file"):
        load(tmp_path / "missing")
    with pytest.raises(ConfigError, match="this is a directory"):
        load(None, images=tmp_path)
    with pytest.raises(ConfigError, match="can't be read"):
        load(tmp_path / "typo" / "below a file")
    with pytest.raises(ConfigError, match="can't be read"):
        load(Path("\0"))


def test_the_command_line_wins_over_the_defaults() -> None:
    text = text_of(IMAGES, defaults={"registry": "other.example.com", "namespace": "other"})
    rules = parse(text, "x", environ={}, registry=ACR.upper(), namespace="mine")
    assert goes_to(rules, f"{HARBOR}/library/nginx:1") == {f"{ACR}/mine/nginx:1"}


def test_an_invalid_option_is_reported_by_its_name() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text_of(IMAGES), "x", environ={}, registry=f"https://{ACR}", namespace="")
    assert [problem.path for problem in caught.value.problems] == ["--registry", "--namespace"]


def test_variables_come_from_the_environment_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RULES_TEST_NAMESPACE", "mine")
    rules = parse(text_of(IMAGES, defaults={"registry": ACR, "namespace": "${RULES_TEST_NAMESPACE}"}), "x")
    assert goes_to(rules, f"{HARBOR}/library/nginx:1") == {f"{ACR}/mine/nginx:1"}


def test_a_ca_file_is_relative_to_the_rules(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    path = tmp_path / "rules.json"
    path.write_text(text_of(IMAGES, auth=AUTH | {HARBOR: {"anonymous": True, "ca_file": "ca.pem"}}))
    access = load(path, environ={}).credentials(Repository(HARBOR, "x"))
    assert access is not None
    assert access.ca_file == tmp_path / "ca.pem"


def test_problems_come_in_the_order_of_the_sections() -> None:
    text = 'images: {nohost: ""}\ndefaults: {registry: x}\nauth: {x: {}}\n'
    with pytest.raises(ConfigError) as caught:
        parse(text, "x", environ={})
    sections = [problem.path.partition(".")[0].partition("[")[0] for problem in caught.value.problems]
    assert list(dict.fromkeys(sections)) == ["images", "defaults", "auth"]


def test_libraries_for_expressions_and_ranges_are_loaded_on_first_use_only() -> None:
    program = (
        "import sys; from replicator.rules import TagFilter; "
        "late = ('re2', 'nodesemver', 'packaging.specifiers'); "
        "print([name for name in late if name in sys.modules]); "
        "TagFilter(include=('/a/',), semver='^1').matches('1'); "
        "print([name for name in late if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == ["[]", "['re2', 'nodesemver', 'packaging.specifiers']"]
