"""The forms of Docker's config.json."""

from __future__ import annotations

import base64
import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import Problem
from replicator.registry.credentials import IDENTITY_TOKEN
from replicator.registry.docker_config import DockerConfig, HelperLogin, StoredLogin, parse_config

HOST = "h.example.com"
ALICE = StoredLogin("alice", "s3cret:with colon")


def encoded(login: StoredLogin, more: str = "") -> dict[str, str]:
    return {"auth": base64.b64encode(f"{login.username}:{login.password}{more}".encode()).decode()}


def config(**sections: Any) -> DockerConfig:
    return parse_config(json.dumps(sections))


def found(config: DockerConfig, path: str) -> Any:
    match = config.find(path)
    return match[1] if match is not None else None


@pytest.mark.parametrize(
    ("entry", "login"),
    [
        (encoded(ALICE), ALICE),
        (encoded(ALICE, "\0\0"), ALICE),
        ({"username": ALICE.username, "password": ALICE.password}, ALICE),
        ({**encoded(ALICE), "username": "other", "password": "other"}, ALICE),
        ({**encoded(ALICE), "email": "a@example.com"}, ALICE),
        ({"auth": "", "username": ALICE.username, "password": ALICE.password}, ALICE),
        ({"identitytoken": "refresh"}, StoredLogin(IDENTITY_TOKEN, "refresh")),
        (
            {**encoded(StoredLogin("00000000", "")), "identitytoken": "refresh"},
            StoredLogin(IDENTITY_TOKEN, "refresh"),
        ),
        ({}, None),
        ({"auth": None, "email": "a@example.com"}, None),
    ],
)
def test_an_entry_holds_a_login_in_one_of_several_forms(entry: dict[str, Any], login: StoredLogin | None) -> None:
    assert found(config(auths={HOST: entry}), HOST) == login


@pytest.mark.parametrize(
    ("entry", "path", "words"),
    [
        ({"auth": "%%%"}, ".auth", "not username:password in base64"),
        ({"auth": base64.b64encode(b"no-colon").decode()}, ".auth", "not username:password in base64"),
        ({"auth": base64.b64encode(b"alice:").decode()}, ".auth", "not username:password in base64"),
        ({"auth": base64.b64encode(b"\xff:\xff").decode()}, ".auth", "not username:password in base64"),
        ({"auth": "gar\u00e4bage"}, ".auth", "not username:password in base64"),
        ({"auth": base64.b64encode(b"alice:a\nb").decode()}, "", "control character"),
        ({"auth": 7}, ".auth", "is not a string"),
        ({"username": "alice"}, "", "not both"),
        ({"password": "s3cret"}, "", "not both"),
        ({"username": "a:b", "password": "s3cret"}, "", "with a colon"),
        ({"registrytoken": "s3cret"}, ".registrytoken", "is not supported"),
        ("s3cret", "", "is not a JSON object"),
        (None, "", "is not a JSON object"),
    ],
)
def test_a_login_that_can_not_be_used_is_told_without_a_word_of_it(entry: Any, path: str, words: str) -> None:
    problem = found(config(auths={HOST: entry, "other.example.com": encoded(ALICE)}), HOST)
    assert isinstance(problem, Problem)
    assert problem.path == f'auths["{HOST}"]{path}'
    assert words in problem.message
    assert "s3cret" not in str(problem)
    assert found(config(auths={HOST: entry, "other.example.com": encoded(ALICE)}), "other.example.com") == ALICE


@pytest.mark.parametrize(
    ("key", "path", "fits"),
    [
        (HOST, HOST, True),
        (HOST, f"{HOST}/team/app", True),
        ("H.Example.com", f"{HOST}/team/app", True),
        (f"https://{HOST}", f"{HOST}/team/app", True),
        (f"https://{HOST}/v1/", f"{HOST}/team/app", True),
        (f"https://{HOST}/v2/", f"{HOST}/team/app", True),
        (f"HTTP://{HOST}/v2", f"{HOST}/team/app", True),
        (f"https://{HOST}/any/path", f"{HOST}/team/app", True),
        (f"{HOST}/v1/", f"{HOST}/team/app", True),
        (f"{HOST}/", f"{HOST}/team/app", True),
        (f"{HOST}/team", f"{HOST}/team/app", True),
        (f"{HOST}/team/", f"{HOST}/team/app", True),
        (f"{HOST}/team/app", f"{HOST}/team/app", True),
        (f"{HOST}/team", f"{HOST}/teams/app", False),
        (f"{HOST}/team", HOST, False),
        (f"{HOST}:443", f"{HOST}/team/app", False),
        (HOST, f"{HOST}:443/team/app", False),
        ("example.com", f"{HOST}/team/app", False),
        ("https://index.docker.io/v1/", "docker.io/library/nginx", True),
        ("https://index.docker.io/v1/", "registry-1.docker.io/library/nginx", True),
        ("docker.io/team", "index.docker.io/team/app", True),
    ],
)
def test_a_key_is_a_host_a_url_or_a_path(key: str, path: str, fits: bool) -> None:
    assert found(config(auths={key: encoded(ALICE)}), path) == (ALICE if fits else None)


def test_the_longest_key_wins_and_a_host_wins_over_a_url() -> None:
    names = ["https://h.example.com/v1/", HOST, f"{HOST}/team", f"{HOST}/team/app"]
    logins = config(auths={name: encoded(StoredLogin(name.replace(":", "-"), "x")) for name in names})
    told = {path: found(logins, f"{HOST}/{path}").username for path in ("other/app", "team/tool", "team/app")}
    assert told == {"other/app": HOST, "team/tool": f"{HOST}/team", "team/app": f"{HOST}/team/app"}


def test_the_helper_of_a_host_wins_over_the_store_and_that_over_what_is_written() -> None:
    logins = config(
        auths={HOST: encoded(ALICE), "https://b.example.com": {}, "c.example.com": {}, f"{HOST}/team": encoded(ALICE)},
        credHelpers={"c.example.com": "ecr-login", "d.example.com": "gcloud", HOST: ""},
        credsStore="pass",
    )
    assert found(logins, HOST) == ALICE
    assert found(logins, "b.example.com/x") == HelperLogin("pass", "https://b.example.com")
    assert found(logins, "c.example.com/x") == HelperLogin("ecr-login", "c.example.com")
    assert found(logins, "d.example.com/x") == HelperLogin("gcloud", "d.example.com")
    assert found(logins, f"{HOST}/team/app") == ALICE
    # The store may have it, but the file does not say so.
    assert found(logins, "e.example.com/x") is None


def test_helpers_are_asked_for_docker_hub_by_the_name_docker_uses() -> None:
    server = "https://index.docker.io/v1/"
    for logins in (config(credHelpers={"docker.io": "pass"}), config(auths={server: {}}, credsStore="pass")):
        assert found(logins, "docker.io/library/nginx") == HelperLogin("pass", server)


@pytest.mark.parametrize("name", ["../../bin/sh", "a/b", "a b", "-x", 7, ["pass"], "x" * 200])
def test_a_helper_is_never_anything_but_a_name(name: Any) -> None:
    for logins in (config(credHelpers={HOST: name}), config(auths={HOST: {}}, credsStore=name)):
        assert isinstance(found(logins, HOST), Problem)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "nested too deep"),
        ("[]", "not a JSON object"),
        ('{"auths": []}', "auths is not a JSON object"),
        ('{"credHelpers": "pass"}', "credHelpers is not a JSON object"),
    ],
)
def test_an_invalid_file_is_refused_with_a_reason(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_config(text)


@pytest.mark.parametrize("text", ["{}", '{"auths": null}', '{"auths": {}, "psFormat": "x", "HttpHeaders": {}}'])
def test_a_config_without_logins_is_ignored(text: str) -> None:
    assert parse_config(text).logins == {}


def test_the_example_in_the_documentation_is_read_as_it_says() -> None:
    text = (Path(__file__).parents[3] / "docs" / "rules.md").read_text()
    (example,) = re.findall(r"```json\n(.*credHelpers.*)\n```", text)
    logins = parse_config(example)
    assert found(logins, "harbor.example.com/team/app") == StoredLogin("robot$replicator", "secret")
    assert found(logins, "registry.example.com/team/app") == HelperLogin("pass", "registry.example.com")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from([HOST, f"https://{HOST}/v1/", f"{HOST}/team", "", "/", "://"]) | st.text(max_size=20)
FIELDS = st.sampled_from(["auth", "username", "password", "identitytoken", "registrytoken"])
ENTRIES = st.dictionaries(KEYS, st.dictionaries(FIELDS, st.text(max_size=12) | VALUES, max_size=5) | VALUES, max_size=4)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "auths": ENTRIES | VALUES,
            "credHelpers": st.dictionaries(KEYS, VALUES, max_size=3) | VALUES,
            "credsStore": VALUES,
        },
    )
)
def test_no_json_breaks_the_reader_and_what_comes_out_can_be_sent(document: dict[str, Any]) -> None:
    try:
        config = parse_config(json.dumps(document))
    except ValueError:
        return
    for key, login in config.logins.items():
        assert key == key.strip("/") != ""
        if isinstance(login, StoredLogin):
            assert login.username
            assert login.password
            assert ":" not in login.username
            assert not any(ord(character) < 32 for character in login.username + login.password)
            f"{login.username}:{login.password}".encode()
        elif isinstance(login, HelperLogin):
            assert "/" not in login.helper


@given(st.text(max_size=60))
def test_no_text_breaks_the_reader(text: str) -> None:
    with contextlib.suppress(ValueError):
        parse_config(text)


@given(
    username=st.text(
        st.characters(min_codepoint=32, exclude_characters=":\x7f", exclude_categories=["Cs"]), min_size=1
    ),
    password=st.text(st.characters(min_codepoint=32, exclude_characters="\x7f", exclude_categories=["Cs"]), min_size=1),
)
def test_any_login_that_can_be_sent_comes_out_as_it_went_in(username: str, password: str) -> None:
    login = StoredLogin(username, password)
    assert found(config(auths={HOST: encoded(login)}), f"{HOST}/team/app") == login
