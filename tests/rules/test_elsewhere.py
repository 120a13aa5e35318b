"""Logins from outside the rules file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from replicator.errors import ConfigError
from replicator.reference import Repository
from replicator.registry import Access
from replicator.registry.docker_logins import DockerLogins
from replicator.rules import Rules, load_credentials, parse
from tests.rules.building import ACR, HARBOR, PLAIN, text_of

if TYPE_CHECKING:
    from pathlib import Path

IMAGES = {f"{HARBOR}/team/**": f"{PLAIN}/{{repository}}"}
DOCKER = {"username": "docker", "password": "s3cret"}
OURS = {"username": "ours", "password": "other"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.json"


def rules(file: Path, auth: dict[str, Any], auths: dict[str, Any], images: Any = None) -> Rules:
    file.write_text(json.dumps({"auths": auths}))
    text = text_of(images or IMAGES, auth=auth)
    return parse(text, "rules.json", environ={}, elsewhere=DockerLogins(file, required=False))


def problems(file: Path, auth: dict[str, Any], auths: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        rules(file, auth, auths)
    return [str(problem) for problem in caught.value.problems]


def who(rules: Rules, place: str) -> str | None:
    access = rules.credentials(Repository.parse(place))
    assert access is not None
    return access.username


def test_a_registry_without_a_login_in_the_rules_uses_dockers(file: Path) -> None:
    made = rules(file, {HARBOR: OURS}, {PLAIN: DOCKER, HARBOR: DOCKER, ACR: DOCKER})
    assert who(made, f"{PLAIN}/team/app") == "docker"
    assert who(made, f"{HARBOR}/team/app") == "ours"
    assert made.logins == ((HARBOR, "the rules"), (PLAIN, str(file)))
    # Logins in Docker's file for other registries cause no warning.
    assert made.warnings == ()


def test_a_login_of_docker_is_used_for_no_host_that_the_rules_do_not_name(file: Path) -> None:
    made = rules(file, {HARBOR: OURS}, {PLAIN: DOCKER, "private.example.com": DOCKER})
    assert who(made, f"{PLAIN.upper()}/team/app") == "docker"
    assert made.credentials(Repository("private.example.com", "team/app")) is None


def test_anonymous_in_the_rules_wins_over_a_login_of_docker(file: Path) -> None:
    made = rules(file, {HARBOR: {"anonymous": True}, PLAIN: OURS}, {HARBOR: DOCKER, f"{HARBOR}/team": DOCKER})
    assert who(made, f"{HARBOR}/team/app") is None
    assert made.logins == ((HARBOR, "anonymous in the rules"), (PLAIN, "the rules"))


def test_an_entry_without_a_login_says_only_how_the_registry_is_reached(file: Path) -> None:
    made = rules(file, {HARBOR: OURS, PLAIN: {"insecure": True, "endpoint": "10.0.0.1:5000"}}, {PLAIN: DOCKER})
    access = made.credentials(Repository(PLAIN, "team/app"))
    assert access == Access("docker", "s3cret", insecure=True, endpoint="10.0.0.1:5000")
    assert made.logins == ((HARBOR, "the rules"), (PLAIN, str(file)))


def test_the_rules_file_needs_no_auth_at_all(file: Path) -> None:
    file.write_text(json.dumps({"auths": {HARBOR: DOCKER, PLAIN: DOCKER}}))
    text = json.dumps({"images": IMAGES})
    made = parse(text, "rules.json", environ={}, elsewhere=DockerLogins(file, required=False))
    assert who(made, f"{PLAIN}/x") == "docker"


def test_a_login_for_a_part_of_a_rule_is_not_enough(file: Path) -> None:
    (problem,) = problems(file, {PLAIN: OURS}, {f"{HARBOR}/team/app": DOCKER})
    assert f"is missing or does not cover all of {HARBOR}/team/**" in problem
    assert who(rules(file, {PLAIN: OURS}, {f"{HARBOR}/team": DOCKER}), f"{HARBOR}/team/app") == "docker"


def test_a_registry_without_any_login_is_reported(file: Path) -> None:
    assert problems(file, {HARBOR: OURS, PLAIN: {"insecure": True}}, {}) == [
        f'auth["{PLAIN}"]: no login; set username and password, or anonymous: true'
    ]


def test_a_broken_login_is_an_error_only_where_it_is_needed(file: Path) -> None:
    broken = {"auth": "s3cret"}
    for entry in ({}, {PLAIN: {"insecure": True}}):
        (problem,) = problems(file, {HARBOR: OURS, **entry}, {PLAIN: broken})
        assert f"the logins of {file} can't be used: auths[" in problem
        assert "is not username:password in base64" in problem
        assert "s3cret" not in problem
    assert rules(file, {HARBOR: OURS, PLAIN: OURS}, {PLAIN: broken}).warnings == ()


def test_a_broken_file_is_a_warning_where_nobody_needs_it(file: Path) -> None:
    file.write_text("{")
    elsewhere = DockerLogins(file, required=False)
    made = parse(text_of(IMAGES), "rules.json", environ={}, elsewhere=elsewhere)
    (warning,) = [warning for warning in made.warnings if warning.path == str(file)]
    assert "not valid JSON" in warning.message
    with pytest.raises(ConfigError, match=r"can't be used: not valid JSON") as caught:
        parse(text_of(IMAGES, auth={HARBOR: OURS}), "rules.json", environ={}, elsewhere=elsewhere)
    assert len(caught.value.problems) == 1
    assert str(file) in str(caught.value)


def test_a_copy_under_the_credentials_of_a_file_has_those_of_docker_too(file: Path, tmp_path: Path) -> None:
    file.write_text(json.dumps({"auths": {PLAIN: DOCKER}}))
    auth = tmp_path / "auth.json"
    auth.write_text(json.dumps({HARBOR: OURS}))
    credentials = load_credentials(None, auth=auth, environ={}, elsewhere=DockerLogins(file, required=False))
    assert credentials.find(Repository(PLAIN, "a/b")) == Access("docker", "s3cret")
    assert credentials.find(Repository(HARBOR, "a/b")) == Access("ours", "other")
    assert credentials.find(Repository(ACR, "a/b")) is None
