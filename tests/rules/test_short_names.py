"""Names as image-syncer and Docker take them: without a host, with variables, with a digest on both sides."""

from __future__ import annotations

import json
from typing import Any

import pytest

from replicator.errors import ConfigError
from replicator.reference import Reference, Repository, full_name
from replicator.rules import Narrowing, Rules, parse
from replicator.timetable import parse_request_rates
from tests.rules.building import ACR, DEFAULTS, HARBOR, goes_to, problems_in

LOGIN = {"username": "u", "password": "p"}
SHA = "sha256:" + "a" * 64
HUB = "registry-1.docker.io"
VARIABLES = {"REG": ACR, "SRC": HARBOR, "NS": "ns", "TAGS": "v1,v2", "ALL": f"{HARBOR}/t/a:v1"}
TO = f"{ACR}/ns/xx"


def text_of(images: dict[str, Any], auth: dict[str, Any] | None = None) -> str:
    auth = auth or {HARBOR: LOGIN, ACR: LOGIN, "docker.io": LOGIN}
    return json.dumps({"auth": auth, "defaults": DEFAULTS, "images": images})


def rules_of(images: dict[str, Any], auth: dict[str, Any] | None = None) -> Rules:
    return parse(text_of(images, auth), "rules.json", environ=VARIABLES)


@pytest.mark.parametrize(
    ("images", "asked", "end"),
    [
        ({f"{HARBOR}/t/a": "${REG}/${NS}/a"}, f"{HARBOR}/t/a:1", f"{ACR}/ns/a:1"),
        ({f"{HARBOR}/t/a": f"{ACR}/${{NS}}/a"}, f"{HARBOR}/t/a:1", f"{ACR}/ns/a:1"),
        ({"$SRC/t/a": "$REG/$NS/a"}, f"{HARBOR}/t/a:1", f"{ACR}/ns/a:1"),
        ({"${ALL}": TO}, f"{HARBOR}/t/a:v1", f"{TO}:v1"),
        ({f"{HARBOR}/t/a:${{TAGS}}": f"{TO}:b,c"}, f"{HARBOR}/t/a:v2", f"{TO}:c"),
        ({f"{HARBOR}/t/a": {"to": "${REG}/ns/{flat}"}}, f"{HARBOR}/t/a:1", f"{ACR}/ns/t-a:1"),
        ({f"{HARBOR}/t/a:/^v1$/": TO}, f"{HARBOR}/t/a:v1", f"{TO}:v1"),
        ({f"{HARBOR}/t/a": [TO, TO]}, f"{HARBOR}/t/a:1", f"{TO}:1"),
        ({f"{HARBOR}/t/a@{SHA}": f"{TO}@{SHA}"}, f"{HARBOR}/t/a@{SHA}", f"{TO}@{SHA}"),
        ({f"{HARBOR}/t/a@{SHA}": f"{TO}:v1@{SHA}"}, f"{HARBOR}/t/a@{SHA}", f"{TO}:v1"),
        ({f"{HARBOR}/t/a:v1@{SHA}": TO}, f"{HARBOR}/t/a@{SHA}", f"{TO}@{SHA}"),
        ({"mongo": TO}, f"{HUB}/library/mongo:1", f"{TO}:1"),
        ({"mongo:4,5": ""}, f"{HUB}/library/mongo:5", f"{ACR}/mirror/mongo:5"),
        ({"mongo:/4/": TO}, f"{HUB}/library/mongo:3.4", f"{TO}:3.4"),
        ({f"mongo@{SHA}": TO}, f"{HUB}/library/mongo@{SHA}", f"{TO}@{SHA}"),
        ({"bitnami/redis:7": TO}, f"{HUB}/bitnami/redis:7", f"{TO}:7"),
        ({"docker.io/nginx": TO}, f"{HUB}/library/nginx:1", f"{TO}:1"),
        ({"index.docker.io/library/nginx": TO}, f"{HUB}/library/nginx:1", f"{TO}:1"),
        ({f"{HARBOR}/t/a": "docker.io/me/a"}, f"{HARBOR}/t/a:1", f"{HUB}/me/a:1"),
    ],
)
def test_every_form_of_image_syncer_is_taken(images: dict[str, Any], asked: str, end: str) -> None:
    assert goes_to(rules_of(images), asked) == {end}


@pytest.mark.parametrize(
    ("images", "warning"),
    [
        ({"mongo:4": TO}, f"without a host this is {HUB}/library/mongo of Docker Hub; write the host"),
        ({f"{HARBOR}/t/a": "me/a"}, f"without a host this is {HUB}/me/a of Docker Hub; write the host"),
        ({f"{HARBOR}/t/a:v1@{SHA}": TO}, "the digest is used, and the tag before it is ignored"),
    ],
)
def test_a_name_that_may_mean_something_else_is_a_warning(images: dict[str, Any], warning: str) -> None:
    assert warning in str(rules_of(images).warnings)


def test_a_variable_that_is_not_set_is_a_mistake_in_every_name() -> None:
    problems = problems_in(text_of({"${A}/t/a": "${B}/t/a:${C}"}, {HARBOR: LOGIN, "${D}": LOGIN}))
    assert [problem.message.split()[3] for problem in problems] == ["D", "A", "B", "C"]


@pytest.mark.parametrize("key", [f"{HARBOR}/", f"{HARBOR}/t/", "${SRC}", "${SRC}/t"])
def test_a_key_of_logins_may_end_in_a_slash_or_be_a_variable(key: str) -> None:
    access = rules_of({f"{HARBOR}/t/a": TO}, {key: LOGIN, ACR: LOGIN}).credentials(Repository(HARBOR, "t/a"))
    assert access is not None
    assert access.username == "u"


@pytest.mark.parametrize("key", ["docker.io", "index.docker.io", HUB, "docker.io/library/"])
def test_docker_hub_is_one_registry_under_each_of_its_names(key: str) -> None:
    rules = rules_of({"mongo:4": TO}, {key: LOGIN, ACR: LOGIN})
    assert rules.credentials(Repository(HUB, "library/mongo")) is not None


@pytest.mark.parametrize("only", ["mongo", "docker.io/mongo", f"{HUB}/library/*"])
def test_a_part_of_the_rules_may_be_named_as_they_name_it(only: str) -> None:
    (source,) = Narrowing(rules_of({"mongo:4": TO, f"{HARBOR}/t/a": TO.replace("x", "y")}), [only]).sources()
    assert source.registry == HUB


def test_a_limit_of_docker_hub_is_one_under_each_of_its_names() -> None:
    limits = parse_request_rates("docker.io=2")
    assert limits.of(HUB) == limits.of("index.docker.io") != limits.of(HARBOR)


@pytest.mark.parametrize("names", [["docker.io", HUB], [HUB, "index.docker.io"], ["index.docker.io", HUB, "docker.io"]])
def test_a_file_may_have_several_names_of_docker_hub(names: list[str]) -> None:
    auth = {name: LOGIN if name == HUB else {"username": "other", "password": "p"} for name in names}
    rules = rules_of({"docker.io/bitnami/redis": TO}, auth | {ACR: LOGIN})
    access = rules.credentials(Repository(HUB, "bitnami/redis"))
    assert access is not None
    assert access.username == LOGIN["username"], "the one that worked as it is written"
    assert sum("are one registry, and the entry of" in str(warning) for warning in rules.warnings) == len(names) - 1


def test_the_same_name_of_a_registry_is_a_duplicate_in_any_letters() -> None:
    (problem,) = problems_in(text_of({"mongo": TO}, {"docker.io": LOGIN, "Docker.io": LOGIN, ACR: LOGIN}))
    assert str(problem).startswith(f'auth["Docker.io"]: duplicate key: {HUB} is in the file already')


def test_a_short_name_whose_registry_has_no_login_says_which_that_is() -> None:
    (problem,) = problems_in(text_of({"mongo:4": TO}, {ACR: LOGIN}))
    assert problem.path == f'auth["{HUB}"]'
    assert "names without a host are Docker Hub's" in problem.message


@pytest.mark.parametrize("text", ["$(ACR_PASSWORD)", "%ACR_PASSWORD%", "{{ password }}", "<your-password>"])
def test_a_variable_of_another_program_is_warned_of_and_not_shown(text: str) -> None:
    auth = {HARBOR: {"username": "u", "password": text}, ACR: LOGIN}
    rules = parse(text_of({f"{HARBOR}/t/a": TO}, auth), "rules.json", environ={"ACR_PASSWORD": "p"})
    (warning,) = rules.warnings
    assert "write a variable as ${NAME}" in warning.message
    assert text not in str(warning)


def test_addresses_of_browsers_are_no_hosts() -> None:
    with pytest.raises(ConfigError) as refused:
        parse(
            text_of({f"{HARBOR}/t/a": f"https://{TO}"}, {f"https://{HARBOR}": LOGIN, ACR: LOGIN}), "r.json", environ={}
        )
    assert "is not a registry host: remove http:// or https://" in str(refused.value)
    assert "a destination is written without http:// or https://" in str(refused.value)


@pytest.mark.parametrize(
    ("username", "password", "environ", "expected"),
    [
        ("$USER", "$PASS", {"USER": "me", "PASS": "$USER"}, ("me", "$USER")),
        ("$user", "$pass", {"user": "me", "pass": "it"}, ("me", "it")),
        ("$USER", "$PASS", {}, ("$USER", "$PASS")),
        ("robot$x", "a$x", {"x": "1", "robot": "2"}, ("robot$x", "a$x")),
        ("$1x", "$", {"1x": "1", "": "2"}, ("$1x", "$")),
        ("$x-y", "$x$x", {"x": "1"}, ("$x-y", "$x$x")),
    ],
)
def test_a_whole_value_of_dollar_and_name_is_a_variable_if_it_is_set(
    username: str, password: str, environ: dict[str, str], expected: tuple[str, str]
) -> None:
    auth = {HARBOR: {"username": username, "password": password}, ACR: LOGIN}
    rules = parse(text_of({f"{HARBOR}/t/a": TO}, auth), "rules.json", environ=environ)
    access = rules.credentials(Repository(HARBOR, "t/a"))
    assert access is not None
    assert (access.username, access.password) == expected
    is_variable = username[1:].isalpha()
    assert [warning.message[:21] for warning in rules.warnings] == ["looks like a variable"] * (2 * is_variable)


@pytest.mark.parametrize(
    ("environ", "end"),
    [
        ({"DEFAULT_REGISTRY": ACR, "DEFAULT_NAMESPACE": "ns"}, f"{ACR}/ns/a:1"),
        ({"DEFAULT_REGISTRY": "not a host", "DEFAULT_NAMESPACE": "ns"}, None),
        ({"DEFAULT_REGISTRY": ACR}, None),
    ],
)
def test_the_variables_of_the_first_image_syncer_give_the_default_destination(
    environ: dict[str, str], end: str | None
) -> None:
    text = json.dumps({"auth": {HARBOR: LOGIN, ACR: LOGIN}, "images": {f"{HARBOR}/t/a": ""}})
    if end is None:
        assert "needs a default registry and namespace" in str(problems_in(text, environ=environ))
        return
    assert goes_to(parse(text, "rules.json", environ=environ), f"{HARBOR}/t/a:1") == {end}
    named = parse(text, "rules.json", environ=environ, registry=ACR, namespace="other")
    assert goes_to(named, f"{HARBOR}/t/a:1") == {f"{ACR}/other/a:1"}


@pytest.mark.parametrize(
    "name",
    [
        *("harbor.example.com/a", "localhost/a", "host:5000/a", "harbor/team/a", "https://docker.io/nginx", "Mongo"),
        *("docker.io/", "docker.io", "me:secret@host.example.com/a", "me:secret/a", "", "/a", "a//b"),
    ],
)
def test_a_name_that_is_not_short_stays_as_it_is(name: str) -> None:
    assert full_name(name) == name


def test_a_reference_stays_one_with_its_host() -> None:
    for name in ("mongo:4", f"bitnami/redis@{SHA}", "docker.io/mongo:4", f"docker.io/a/b:1@{SHA}"):
        assert Reference.parse(full_name(name)).registry == HUB
