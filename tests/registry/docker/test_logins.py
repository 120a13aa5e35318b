"""The file of Docker's logins: its place, and the errors of a broken one."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from replicator.errors import ConfigError
from replicator.registry import Access
from replicator.registry.docker_logins import OFF, DockerLogins, Helper, docker_logins

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOST = "h.example.com"
AUTHS = {HOST: {"username": "alice", "password": "s3cret"}}


def written(directory: Path, **sections: Any) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "config.json"
    file.write_text(json.dumps(sections))
    return file


def test_the_file_is_looked_for_where_docker_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    by_home = written(tmp_path / "home" / ".docker", auths=AUTHS)
    by_variable = written(tmp_path / "else", auths=AUTHS)
    by_setting = written(tmp_path / "set", auths=AUTHS)
    access = Access("alice", "s3cret")
    assert docker_logins(None, {}).find(HOST) == (access, str(by_home))
    assert docker_logins(None, {"DOCKER_CONFIG": ""}).find(HOST) == (access, str(by_home))
    assert docker_logins(None, {"DOCKER_CONFIG": str(tmp_path / "else")}).find(HOST) == (access, str(by_variable))
    assert docker_logins(str(by_setting), {"DOCKER_CONFIG": "x"}).find(HOST) == (access, str(by_setting))
    assert docker_logins(OFF, {"DOCKER_CONFIG": str(tmp_path / "else")}).find(HOST) is None


def test_without_a_file_nobody_has_a_login_and_nothing_is_wrong(tmp_path: Path) -> None:
    logins = docker_logins(None, {"DOCKER_CONFIG": str(tmp_path)})
    assert (logins.find(HOST), logins.problem) == (None, None)


def test_a_file_that_is_set_must_be_there(tmp_path: Path) -> None:
    logins = docker_logins(str(tmp_path / "nowhere.json"))
    assert logins.problem is not None
    with pytest.raises(ConfigError, match=r"nowhere\.json.*\n.*there is no such file; see REPLICATOR_DOCKER_CONFIG"):
        logins.find(HOST)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{s3cret", "not valid JSON"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b" " * 1024 * 1024 + b"{}", "larger than 1024 KiB"),
        (None, "can't be read: Is a directory"),
    ],
)
def test_an_invalid_file_is_an_error_only_when_a_login_is_looked_up(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    file = tmp_path / "config.json"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    logins = DockerLogins(file, required=False)
    assert logins.problem is not None
    assert words in str(logins.problem)
    with pytest.raises(ConfigError) as caught:
        logins.find(HOST)
    assert str(file) in str(caught.value)
    assert words in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_broken_login_is_an_error_for_its_registry_only(tmp_path: Path) -> None:
    file = written(tmp_path, auths={**AUTHS, "b.example.com": {"auth": "s3cret"}})
    logins = DockerLogins(file, required=False)
    assert logins.problem is None
    assert logins.find(HOST) is not None
    with pytest.raises(ConfigError, match=r'auths\["b\.example\.com"\]\.auth') as caught:
        logins.find("b.example.com/team")
    assert str(file) in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_helper_is_named_and_not_asked(
    tmp_path: Path, helper: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    note = tmp_path / "note"
    helper("test", f"open({str(note)!r}, 'w')")
    file = written(tmp_path, credHelpers={HOST: "test"})
    logins = DockerLogins(file, required=False)
    found = logins.find(f"{HOST}/team/app")
    assert found == (Access(logins=Helper(HOST, "test", HOST)), f"docker-credential-test ({file})")
    assert not note.exists()
    # One access for the registry: connections and tokens are shared by its hash.
    other = logins.find(f"{HOST}/other")
    assert other is not None
    assert hash(other[0]) == hash(found[0])
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(ConfigError, match="docker-credential-test is not on PATH"):
        DockerLogins(file, required=False).find(HOST)
