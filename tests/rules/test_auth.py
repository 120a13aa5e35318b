"""The ``auth`` section: the keys of an entry, the entry that wins, and no secret in any message."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from yarl import URL

from replicator.aliyun import TemporaryLogins
from replicator.env_file import Variables
from replicator.errors import ConfigError, Problem
from replicator.reference import Repository
from replicator.registry import Access
from replicator.rules import Rules, parse
from replicator.rules.node import Node, expand_variables
from tests.rules.building import ACR, AUTH, HARBOR, problems_of, rules_of

if TYPE_CHECKING:
    from pathlib import Path

IMAGES = {f"{HARBOR}/library/nginx": ""}


def entry(**fields: Any) -> dict[str, Any]:
    return {"auth": AUTH | {HARBOR: fields}}


def problem_with(**fields: Any) -> str:
    (problem,) = problems_of(IMAGES, **entry(**fields))
    return str(problem)


def access_with(environ: dict[str, str] | None = None, **fields: Any) -> Access:
    text = json.dumps({"images": IMAGES, "defaults": {"registry": ACR, "namespace": "n"}} | entry(**fields))
    rules = parse(text, "rules.json", environ=environ or {})
    access = rules.credentials(Repository(HARBOR, "library/nginx"))
    assert access is not None
    return access


def test_a_login_is_used_literally() -> None:
    access = access_with(username="robot$team+ci", password="p$ss$$word$1{x}$HOME")
    assert access == Access("robot$team+ci", "p$ss$$word$1{x}$HOME")


def test_braced_variables_are_expanded_once_and_nothing_else() -> None:
    environ = {"NAME": "robot$x", "SECRET": "a${NAME}b$c"}
    assert access_with(environ, username="${NAME}+ci", password="<${SECRET}>$NAME") == Access(
        "robot$x+ci", "<a${NAME}b$c>$NAME"
    )


def test_a_password_of_digits_needs_no_quotes() -> None:
    text = f"auth: {{{HARBOR}: {{username: 1e3, password: 0123}}, {ACR}: {{anonymous: true}}}}\n"
    rules = parse(f"{text}images: {{{HARBOR}/a/b: {ACR}/a/b}}", "x", environ={})
    assert rules.credentials(Repository(HARBOR, "a/b")) == Access("1e3", "0123")


def test_quiet_pulls_are_off_unless_they_are_asked_for() -> None:
    assert access_with(anonymous=True).manifest_agent is None
    assert access_with(anonymous=True, quiet_pulls=False).manifest_agent is None
    for login in ({"anonymous": True}, {"username": "u", "password": "p"}):
        assert access_with(**login, quiet_pulls=True).manifest_agent == "harbor-registry-client"


def test_quiet_pulls_at_a_registry_that_is_no_harbor_are_a_mistake() -> None:
    auth = {HARBOR: {"anonymous": True}, ACR: {"anonymous": True, "quiet_pulls": True}}
    (problem,) = problems_of(IMAGES, auth=auth)
    assert problem.path.endswith("quiet_pulls")
    assert "at a Harbor only" in problem.message


def test_how_a_registry_is_reached_is_part_of_its_access() -> None:
    access = access_with(anonymous=True, insecure=True, endpoint="http://10.0.0.1:8080")
    assert access == Access(insecure=True, endpoint="http://10.0.0.1:8080")


@pytest.mark.parametrize("proxy", ["http://u:${P}@proxy.corp:3128", "u:${P}@proxy.corp:3128"])
def test_a_registry_has_a_proxy_of_its_own_with_a_variable_for_its_password(proxy: str) -> None:
    access = access_with({"P": "s3cret"}, anonymous=True, proxy=proxy)
    assert access.proxies is not None
    found = access.proxies.find(URL(f"https://{HARBOR}"))
    assert str(found) == "proxy.corp:3128"
    assert found is not None
    assert found.url_with_login == "http://u:s3cret@proxy.corp:3128"
    assert "s3cret" not in repr(access)


@pytest.mark.parametrize("proxy", ["off", False])
def test_a_registry_is_reached_directly_where_its_proxy_is_off(proxy: str | bool) -> None:
    access = access_with(anonymous=True, proxy=proxy)
    assert access.proxies is not None
    assert access.proxies.find(URL(f"https://{HARBOR}")) is None


@pytest.mark.parametrize(
    ("proxy", "says"),
    [
        ("", "is empty; remove it"),
        (True, "must be a string"),
        ("socks5://u:s3cret@p:1", "SOCKS is not supported"),
        ("http://u:s3cret#@p:1", "must be http://"),
        ("${NOT_SET}", "NOT_SET is not set"),
    ],
)
def test_a_proxy_that_is_none_is_told_without_its_password(proxy: str | bool, says: str) -> None:
    problem = problem_with(anonymous=True, proxy=proxy)
    assert ".proxy" in problem
    assert says in problem
    assert "s3cret" not in problem


def test_the_openapi_takes_the_proxy_of_its_registry_else_that_of_the_environment() -> None:
    def taken(environ: dict[str, str], **fields: Any) -> str:
        auth = AUTH | {ACR: {"aliyun": {"access_key_id": "k", "access_key_secret": "s"}, **fields}}
        text = json.dumps({"auth": auth, "images": {f"{HARBOR}/a/b": f"{ACR}/a/b"}})
        access = parse(text, "x", environ=environ).credentials(Repository(ACR, "a/b"))
        assert access is not None
        assert isinstance(access.logins, TemporaryLogins)
        return str(access.logins.account.proxies.find(URL("https://cr.cn-beijing.aliyuncs.com")))

    assert taken({}) == "None"
    assert taken({"HTTPS_PROXY": "env:1"}) == "env:1"
    assert taken({"HTTPS_PROXY": "env:1", "NO_PROXY": ".aliyuncs.com"}) == "None"
    assert taken({"HTTPS_PROXY": "env:1"}, proxy="own:1") == "own:1"
    assert taken({"HTTPS_PROXY": "env:1"}, proxy="off") == "None"


@pytest.mark.parametrize(
    "endpoint", ["10.0.0.1", "10.0.0.1:80", "harbor", "harbor:8080", "http://harbor", "https://harbor/", "[::1]:80"]
)
def test_an_endpoint_is_a_host_perhaps_with_scheme_and_port(endpoint: str) -> None:
    assert access_with(anonymous=True, endpoint=endpoint).endpoint == endpoint


@pytest.mark.parametrize(
    "endpoint",
    ["ftp://h:1", "http://", "http://u:p@h:1", "http://h:1/v2", "h:1/v2", "h:99999", "h h", "http://h?x", "h#x", "*"],
)
def test_an_endpoint_that_is_more_or_less_than_that_is_refused(endpoint: str) -> None:
    assert "].endpoint: must be host, host:port" in problem_with(anonymous=True, endpoint=endpoint)


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({}, "no login; set username and password, or anonymous: true"),
        ({"insecure": True}, "no login"),
        ({"username": "", "password": ""}, "no login"),
        ({"anonymous": False}, "no login"),
        ({"username": "u"}, "a username without a password"),
        ({"password": "hunter2"}, "a password without a username"),
        ({"username": "u", "password": ""}, "].password: is empty"),
        ({"username": "", "password": "hunter2"}, "].username: is empty"),
        ({"username": "u:v", "password": "hunter2"}, "].username: a username can't contain a colon"),
        ({"username": "u", "password": "hunter2\n"}, "].password: contains a line break"),
        ({"username": "u", "password": "hunter2", "anonymous": True}, "are exclusive"),
        ({"username": "u", "password": True}, "].password: must be a string, not true or false; quote it"),
        ({"username": "u", "password": None}, "].password: must be a string, not nothing"),
        ({"username": "u", "password": ["hunter2"]}, "].password: must be a string, not a list"),
        ({"username": "u", "password": "hunter2${NOT_SET}"}, "].password: the environment variable NOT_SET is not set"),
        ({"username": "u", "password": "hunter2${}"}, "].password: ${…} must contain"),
        ({"username": "u", "password": "${hunter2!}"}, "].password: ${…} must contain"),
        (
            {"username": "u", "password": "hunter2", "insecure": "true"},
            "].insecure: must be true or false, without quotes",
        ),
        ({"username": "u", "password": "hunter2", "insecur": True}, "].insecur: unknown key; did you mean insecure?"),
        ({"username": "u", "password": "hunter2", "ca_file": ""}, "].ca_file: is empty"),
        ({"username": "u", "password": "hunter2", "ca_file": "no/such.pem"}, "No such file"),
        ({"username": "u", "password": "hunter2", "ca_file": "\0"}, "control character"),
    ],
)
def test_an_invalid_entry_is_reported_without_its_secret(fields: dict[str, Any], wrong: str) -> None:
    problem = problem_with(**fields)
    assert problem.startswith(f'auth["{HARBOR}"]')
    assert wrong in problem
    assert "hunter2" not in problem


def test_an_empty_variable_is_as_bad_as_none() -> None:
    with pytest.raises(ConfigError, match="variable SECRET is empty"):
        access_with({"SECRET": ""}, username="u", password="${SECRET}")


def test_the_password_is_in_no_representation() -> None:
    rules = rules_of(IMAGES, **entry(username="u", password="hunter2"))
    access = rules.credentials(Repository(HARBOR, "library/nginx"))
    assert access is not None
    assert access.password == "hunter2"
    assert "hunter2" not in f"{rules!r}{access!r}{rules.warnings}{rules.explain}{vars(rules)}"


def test_a_variable_without_braces_is_a_warning() -> None:
    warning = rules_of(IMAGES, **entry(username="u", password="$HARBOR_PASSWORD")).warnings[0]
    assert warning.path == f'auth["{HARBOR}"].password'
    assert "HARBOR_PASSWORD" not in warning.message


def test_a_ca_file_is_found_beside_the_rules_and_must_hold_certificates(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    (tmp_path / "empty.pem").write_text("")
    assert access_with(anonymous=True, ca_file=str(tmp_path / "ca.pem")).ca_file == tmp_path / "ca.pem"
    assert "contains no PEM certificates" in problem_with(anonymous=True, ca_file=str(tmp_path / "empty.pem"))
    assert "Is a directory" in problem_with(anonymous=True, ca_file=str(tmp_path))


def keyed(*keys: str) -> Rules:
    auth = {key: {"username": key, "password": "x"} for key in keys} | {ACR: {"anonymous": True}}
    return rules_of({f"{HARBOR}/team/app/api": f"{ACR}/a/b"}, auth=auth)


@pytest.mark.parametrize(
    ("repository", "key"),
    [
        ("team/app/api", f"{HARBOR}/team/app"),
        ("team/app", f"{HARBOR}/team/app"),
        ("team/apple", f"{HARBOR}/team"),
        ("team/x", f"{HARBOR}/team"),
        ("team", f"{HARBOR}/team"),
        ("teams/x", HARBOR),
    ],
)
def test_the_longest_key_wins_that_ends_at_a_slash(repository: str, key: str) -> None:
    keys = [HARBOR, f"{HARBOR}/team", f"{HARBOR}/team/app"]
    for order in (keys, keys[::-1]):
        access = keyed(*order).credentials(Repository(HARBOR, repository))
        assert access is not None
        assert access.username == key


def test_no_key_is_no_access() -> None:
    rules = keyed(f"{HARBOR}/team")
    assert rules.credentials(Repository(HARBOR, "other/x")) is None
    assert rules.credentials(Repository("other.example.com", "team/app/api")) is None
    assert rules.credentials(Repository(ACR, "x/y")) == Access()


def test_a_host_is_the_same_in_capitals() -> None:
    rules = keyed("Harbor.Example.COM/team")
    assert rules.credentials(Repository("HARBOR.example.com", "team/app/api")) is not None


@pytest.mark.parametrize(
    ("images", "keys", "missing"),
    [
        ({f"{HARBOR}/a/b": f"{ACR}/a/b"}, [], {HARBOR, ACR}),
        ({f"{HARBOR}/a/b": f"{ACR}/a/b"}, [HARBOR], {ACR}),
        ({f"{HARBOR}/a/b": f"{ACR}/a/b"}, [f"{HARBOR}/a", f"{ACR}/a/b"], set()),
        ({f"{HARBOR}/a/b": f"{ACR}/a/b"}, [f"{HARBOR}/a/b", f"{ACR}/c"], {ACR}),
        ({f"{HARBOR}/a/*": f"{ACR}/a/{{name}}"}, [f"{HARBOR}/a", f"{ACR}/a"], set()),
        ({f"{HARBOR}/a*/x": f"{ACR}/{{project}}/x"}, [f"{HARBOR}/a", f"{ACR}/a"], {HARBOR, ACR}),
        ({f"{HARBOR}/a/*": f"{ACR}/a/{{name}}"}, [f"{HARBOR}/a/b", ACR], {HARBOR}),
    ],
)
def test_every_registry_that_a_rule_names_needs_an_entry(
    images: dict[str, str], keys: list[str], missing: set[str]
) -> None:
    auth = {key: {"anonymous": True} for key in keys}
    if not missing:
        assert rules_of(images, auth=auth).hosts == {HARBOR, ACR}
        return
    problems = problems_of(images, auth=auth)
    assert {problem.path for problem in problems} == {f'auth["{host}"]' for host in missing}
    assert all("anonymous: true" in problem.message for problem in problems)


def test_a_broken_entry_is_not_reported_as_missing_too() -> None:
    (problem,) = problems_of(IMAGES, **entry(username="u", password="${NOT_SET}"))
    assert "not set" in problem.message


@pytest.mark.parametrize(
    "key",
    [
        "harbor",
        "https://harbor.example.com",
        "*.example.com",
        "h.example.com/A",
        "h.example.com/a/*",
        "h.example.com//",
        "",
    ],
)
def test_a_key_that_is_no_registry_or_path_is_refused(key: str) -> None:
    (problem,) = problems_of(IMAGES, auth=AUTH | {key: {"anonymous": True}})
    assert "is not a " in problem.message


def test_the_same_key_in_capitals_is_a_duplicate() -> None:
    (problem,) = problems_of(IMAGES, auth=AUTH | {HARBOR.upper(): {"anonymous": True}})
    assert "duplicate key" in problem.message


def test_an_entry_that_no_rule_needs_is_a_warning() -> None:
    warning = rules_of(IMAGES, auth=AUTH | {"spare.example.com/x": {"anonymous": True}}).warnings[-1]
    assert str(warning) == 'auth["spare.example.com/x"]: no rule names this registry'


def test_a_missing_variable_is_told_with_the_place_where_it_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, beside = tmp_path / "here", tmp_path / "rules"
    here.mkdir()
    beside.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("REPLICATOR_SECRETS_DIR", str(tmp_path / "none"))

    def told(**values: str) -> str:
        environ = Variables(values)
        environ.beside = beside
        problems: list[Problem] = []
        expand_variables(Node(None, "p", problems), "${SOME_PASSWORD}", environ)
        return problems[0].message.removeprefix("the environment variable SOME_PASSWORD is ")

    nowhere = f"not set; .env is read in the working directory, here {here}"
    assert told() == nowhere
    (beside / ".env").write_text("SOME_PASSWORD=x\n")
    assert told() == f"{nowhere}; there is one in {beside}: run this there"
    (here / ".env").write_text("SOME_PASSWORD=\n")
    assert told() == f"not set, nor is it in {here}/.env"
    assert told(SOME_PASSWORD="") == f"empty: set it in {here}/.env"
    monkeypatch.setenv("SOME_PASSWORD", "")
    assert told(SOME_PASSWORD="") == "empty in the environment, which goes before .env"
    monkeypatch.delenv("SOME_PASSWORD")
    (here / ".env").unlink()
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    monkeypatch.setenv("REPLICATOR_SECRETS_DIR", str(secrets))
    assert told() == f"not set, nor is there a file of this name in {secrets}"
    assert told(SOME_PASSWORD="") == f"empty: fill in the file {secrets}/SOME_PASSWORD"
