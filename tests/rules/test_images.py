"""The ``images`` section: valid values, and messages for invalid ones."""

from __future__ import annotations

from typing import Any

import pytest

from replicator.rules.mapping import parse_source
from tests.rules.building import ACR, HARBOR, PLAIN, goes_to, message_of, problems_in, problems_of, rules_of, text_of

SHA = "sha256:" + "a" * 64
TO = f"{ACR}/ns/x"


@pytest.mark.parametrize(
    ("images", "pushed", "destinations"),
    [
        ({"library/nginx": ""}, "library/nginx:1", {f"{ACR}/mirror/nginx:1"}),
        ({"nginx": ""}, "nginx:1", {f"{ACR}/mirror/nginx:1"}),
        ({"library/*": ""}, "library/nginx:1", {f"{ACR}/mirror/nginx:1"}),
        ({"a/b": TO}, "a/b:anything", {f"{TO}:anything"}),
        ({"a/b:t1,t2": TO}, "a/b:t2", {f"{TO}:t2"}),
        ({"a/b:t1,t2": TO}, "a/b:t3", set()),
        ({"a/b:t*": TO}, "a/b:t3", {f"{TO}:t3"}),
        ({"a/b:/3/": TO}, "a/b:t30", {f"{TO}:t30"}),
        ({"a/b:/^3/": TO}, "a/b:t30", set()),
        ({"a/b:/a,b:c@d/e/": TO}, "a/b:t30", set()),
        ({"a/b:t1,t2": f"{TO}:one,two"}, "a/b:t2", {f"{TO}:two"}),
        ({"a/b:t1,t1": f"{TO}:one,two"}, "a/b:t1", {f"{TO}:one", f"{TO}:two"}),
        ({f"a/b@{SHA}": TO}, f"a/b@{SHA}", {f"{TO}@{SHA}"}),
        ({f"a/b@{SHA}": f"{TO}:v1"}, f"a/b:any@{SHA}", {f"{TO}:v1"}),
        ({f"a/b@{SHA}": f"{TO}:v1"}, "a/b:any", set()),
        ({"a/b": [TO, f"{PLAIN}/x"]}, "a/b:1", {f"{TO}:1", f"{PLAIN}/x:1"}),
        ({"a/b": {"to": [TO, ""]}}, "a/b:1", {f"{TO}:1", f"{ACR}/mirror/b:1"}),
        ({"a/b": [TO, {"to": f"{PLAIN}/x", "tags": {"include": "v*"}}]}, "a/b:1", {f"{TO}:1"}),
        ({"a/b": [TO, {"to": f"{PLAIN}/x", "tags": {"include": "v*"}}]}, "a/b:v1", {f"{TO}:v1", f"{PLAIN}/x:v1"}),
        ({"a/b:v1,v2": {"to": TO, "tags": {"exclude": ["v1"]}}}, "a/b:v1", set()),
        ({"a/b:v1,v2": {"to": TO, "tags": {"exclude": ["v1"]}}}, "a/b:v2", {f"{TO}:v2"}),
        ({"a/**": f"{ACR}/ns/{{flat}}"}, "a/b/c:1", {f"{ACR}/ns/a-b-c:1"}),
        ({"a/**": f"{PLAIN}/ns/{{name}}/x"}, "a/b/c:1", {f"{PLAIN}/ns/b/c/x:1"}),
        ({"a/**": f"{PLAIN}/{{repository}}"}, "a/b/c:1", {f"{PLAIN}/a/b/c:1"}),
        ({"*/b": f"{ACR}/{{project}}/b"}, "a/b:1", {f"{ACR}/a/b:1"}),
        ({"**": f"{ACR}/ns/x-{{flat}}"}, "b:1", {f"{ACR}/ns/x-b:1"}),
        ({"a/*:latest": f"{ACR}/ns/{{name}}"}, "a/b:latest", {f"{ACR}/ns/b:latest"}),
        ({"a/b": f"{ACR}/{{project}}/{{name}}"}, "a/b:1", {f"{ACR}/a/b:1"}),
    ],
)
def test_every_form_of_source_and_destination(images: dict[str, Any], pushed: str, destinations: set[str]) -> None:
    rules = rules_of({f"{HARBOR}/{key}": value for key, value in images.items()})
    assert goes_to(rules, f"{HARBOR}/{pushed}") == destinations


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("harbor/team/nginx", "'harbor' is not a registry host"),
        ("Nginx", "'nginx' is not a registry host"),
        ("https://h.example.com/a", "remove http:// or https://"),
        ("*.example.com/a", "the registry can't have wildcards"),
        (HARBOR, "no repository; append /** to the host"),
        (f"{HARBOR}/", "no repository; append /** to the host (** after its slash)"),
        (f"{HARBOR}/a/", "ends with a slash: remove it, or append **"),
        (f"{HARBOR}/Nginx", "'Nginx' is not a repository name"),
        (f"{HARBOR}/a//b", "is not a repository name"),
        (f"{HARBOR}/a/[bc]*", "is not a repository pattern"),
        (f"{HARBOR}/a:", "no tag after the colon"),
        (f"{HARBOR}/a:1,,2", "'' is not a tag"),
        (f"{HARBOR}/a:1, 2", "' 2' is not a tag"),
        (f"{HARBOR}/a:/(/", "is not a regular expression"),
        (f"{HARBOR}/a:/(", "'/(' is not a tag"),
        (f"{HARBOR}/a@sha256:abc", "'sha256:abc' is not a digest"),
        (f"{HARBOR}/a:v1,v2@{SHA}", "a tag or a digest, not both"),
        (f"{HARBOR}/a/*@{SHA}", "a digest needs a single repository"),
        (f"{HARBOR}/a@{SHA},{SHA}", "a source has at most one digest"),
        (f"{HARBOR}/a:/a/,/b/", "a source has at most one expression; write several as tags: {include: [/a/, /b/]}"),
        (f"me:secret@{HARBOR}/a", "'…@harbor.example.com' is not a registry host"),
    ],
)
def test_an_invalid_source_is_reported(key: str, wrong: str) -> None:
    message = message_of({key: f"{PLAIN}/{{flat}}"})
    assert message.startswith("images")
    assert wrong in message


def test_a_source_with_several_mistakes_tells_each() -> None:
    found: list[str] = []
    assert parse_source("host/A:b c", found.append) is None
    assert len(found) == 3


@pytest.mark.parametrize(
    ("key", "value", "wrong"),
    [
        ("a/b", None, 'no destination; write "" for the default one'),
        ("a/b", [], "no destination"),
        ("a/b", {"to": []}, ".to: no destination"),
        ("a/b", {"tags": {}}, '"to" is missing'),
        ("a/b", 5, "must begin with a registry host"),
        ("a/b", True, "must be a string, not true or false"),
        ("a/b", [[TO]], "[0]: must be a string, not a list"),
        ("a/b", {"to": TO, "tag": {}}, ".tag: unknown key; did you mean tags?"),
        ("a/b", {"to": TO, "tags": ["v*"]}, ".tags: must be a mapping (key: value), not a list"),
        ("a/b", {"to": TO, "tags": {"latest": "5"}}, ".tags.latest: must be a positive integer, without quotes"),
        ("a/b", {"to": TO, "tags": {"latest": 0}}, ".tags.latest: must be a positive integer"),
        ("a/b", {"to": TO, "tags": {"latest": 1.5}}, ".tags.latest: must be a positive integer"),
        ("a/b", {"to": TO, "tags": {"latest": True}}, ".tags.latest: must be a positive integer"),
        (
            "a/b",
            {"to": TO, "tags": {"semver": "stable"}},
            ".tags.semver: 'stable' is not a version range: write e.g. ^1.4",
        ),
        (
            "a/b",
            {"to": TO, "tags": {"semver": "^1.4, <2"}},
            ".tags.semver: '^1.4, <2' is not a version range: here a space means and",
        ),
        ("a/b", {"to": TO, "tags": {"include": []}}, ".tags.include: is empty; remove it"),
        ("a/b", {"to": TO, "tags": {"include": ["v*", "a b"]}}, ".tags.include[1]: 'a b' is not a tag"),
        ("a/b", {"to": TO, "tags": {"exclude": "/(/"}}, ".tags.exclude: '/(/' is not a regular expression"),
        (f"a/b@{SHA}", {"to": TO, "tags": {}}, ".tags: a digest has no tags"),
        ("a/b", "ns/x/y", "must begin with a registry host, e.g. registry.cn-beijing"),
        ("a/b", "{project}.example.com/x", "must begin with a registry host"),
        ("a/b", f"https://{TO}", "a destination is written without http:// or https://"),
        ("a/b", ACR, "has no repository"),
        ("a/b", f"{ACR}/", "has no repository"),
        ("a/b", "docker.io/x", "one of Docker's own images, and nobody can push there"),
        ("a/b", f"{TO}@{SHA}", "a destination can only have the digest of its source"),
        (f"a/b@{SHA}", f"{TO}@{SHA.replace('a', 'b')}", "a destination can only have the digest of its source"),
        ("a/b", f"{PLAIN}/X", "'X' is not a repository's name"),
        ("a/b", f"{PLAIN}/Team/{{flat}}", "'Team/{flat}' is not a repository's name: lower-case letters"),
        ("a/b", f"{PLAIN}/x/", "is not a repository's name"),
        ("a/b", f"{PLAIN}/x/{{nam}}", "{nam} is not a placeholder; expected one of {project} {repository}"),
        ("a/b", f"{PLAIN}/x/{{name", "is not a repository's name"),
        ("a/b", f"{TO}:v1", "tags here need as many tags, without wildcards, after the source"),
        ("a/b:v*", f"{TO}:v1", "tags here need as many tags, without wildcards"),
        ("a/b:/v/", f"{TO}:v1", "tags here need as many tags, without wildcards"),
        ("a/b:1,2", f"{TO}:v1", "1 tag(s) here for 2 of the source"),
        ("a/b:1", f"{TO}:a b", "'a b' is not a tag"),
        ("a/b:1", f"{TO}:", "'' is not a tag"),
        (f"a/b@{SHA}", f"{TO}:v1,v2", "a digest gets one tag"),
        ("a/b", f"{HARBOR}/a/b", "copied onto itself"),
        ("a/b:1,2", f"{HARBOR}/a/b:3,2", "copied onto itself"),
        (f"a/b@{SHA}", f"{HARBOR}/a/b", "copied onto itself"),
        ("b", f"{PLAIN}/{{project}}/x", "b is not in a project, and {project} needs one"),
        ("b*", f"{PLAIN}/{{project}}/{{name}}", "{project} needs a repository in a project"),
    ],
)
def test_an_invalid_destination_is_reported(key: str, value: Any, wrong: str) -> None:
    message = message_of({f"{HARBOR}/{key}": value})
    assert message.startswith(f'images["{HARBOR}/{key}"]')
    assert wrong in message


@pytest.mark.parametrize(
    ("key", "to", "wrong"),
    [
        ("a/b", f"{ACR}/x", "namespace/name, not 1 segment; put a namespace in front"),
        ("a/b", f"{ACR}/x/y/z", "not 3 segments; use {flat} to make one segment"),
        ("team/app/api", "", f'not 3 segments; instead of "" write {ACR}/mirror/{{flat}}'),
        ("a/b/c", f"{ACR}/ns/{{name}}", "ACR can't hold ns/b/c"),
        ("a/b/*", f"{ACR}/ns/{{name}}", "ACR can't hold the resulting name"),
        ("a/**", f"{ACR}/ns/x/{{flat}}", "ACR can't hold the resulting name"),
        ("a/**", f"{ACR}/{{flat}}", "not 1 segment; put a namespace in front"),
        ("a/b/**", "", "not many segments"),
    ],
)
def test_a_name_that_acr_can_never_hold_is_reported_with_advice(key: str, to: str, wrong: str) -> None:
    assert wrong in message_of({f"{HARBOR}/{key}": to})


@pytest.mark.parametrize(
    "host", ["crpi-x.cn-beijing.personal.cr.aliyuncs.com", "x-registry.cn-beijing.cr.aliyuncs.com:443"]
)
def test_every_edition_of_acr_is_known_by_its_host(host: str) -> None:
    auth = {HARBOR: {"anonymous": True}, host: {"anonymous": True}}
    assert "ACR can't hold" in message_of({f"{HARBOR}/a/b": f"{host}/a/b/c"}, auth=auth)


def test_other_registries_hold_any_name() -> None:
    assert goes_to(rules_of({f"{HARBOR}/a/b": f"{PLAIN}/a/b/c/d"}), f"{HARBOR}/a/b:1")


def test_what_acr_can_hold_only_in_part_is_a_warning_and_an_explained_refusal() -> None:
    rules = rules_of({f"{HARBOR}/team/**": ""})
    (warning,) = [warning for warning in rules.warnings if warning.path.startswith("images")]
    assert "some matching repositories can't be copied to ACR" in warning.message
    assert f"{ACR}/mirror/{{flat}}" in warning.message
    assert goes_to(rules, f"{HARBOR}/team/api:1") == {f"{ACR}/mirror/api:1"}
    assert goes_to(rules, f"{HARBOR}/team/app/api:1") == set()


@pytest.mark.parametrize(
    ("defaults", "missing"),
    [
        (None, "set defaults.registry and defaults.namespace, or pass --registry and --namespace"),
        ({"registry": ACR}, "set defaults.namespace, or pass --namespace"),
        ({"namespace": "n"}, "set defaults.registry, or pass --registry"),
    ],
)
def test_an_empty_destination_needs_defaults(defaults: dict[str, str] | None, missing: str) -> None:
    assert missing in message_of({f"{HARBOR}/a/b": ""}, defaults=defaults or {})


@pytest.mark.parametrize(
    ("defaults", "wrong"),
    [
        ({"registry": "https://x.example.com", "namespace": "n"}, "defaults.registry: 'https://x.example.com' is no"),
        ({"registry": ACR, "namespace": "N"}, "defaults.namespace: 'N' is not a namespace"),
        ({"registry": ACR, "namespace": "${NOT_SET}"}, "defaults.namespace: the environment variable NOT_SET"),
        ({"registry": ACR, "namespace": "n", "project": "x"}, "defaults.project: unknown key"),
        ({"registry": ACR, "namespace": ["n"]}, "defaults.namespace: must be a string"),
        ({"registry": ACR, "namespace": "n/m"}, "the default namespace must be one segment"),
        ([], "defaults: must be a mapping"),
    ],
)
def test_invalid_defaults_are_reported_once(defaults: Any, wrong: str) -> None:
    problems = problems_of({f"{HARBOR}/a/b": ""}, defaults=defaults)
    assert wrong in str(problems[0])


def test_no_tag_that_can_pass_is_a_warning() -> None:
    rules = rules_of({f"{HARBOR}/a/b:1,2": {"to": TO, "tags": {"semver": ">3"}}})
    assert any("none of the tags 1, 2 passes" in warning.message for warning in rules.warnings)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("[]", "must be a mapping (key: value), not a list"),
        ("rules", "must be a mapping (key: value), not a string"),
        ("{}", "images: is missing"),
        ("images: {}", "images: is empty"),
        ("images: [a]", "images: must be a mapping"),
        ('{"images": null}', "images: must be a mapping (key: value), not nothing"),
        (text_of({f"{HARBOR}/a/b": ""}, image={}), "image: unknown key; did you mean images?"),
        (text_of({f"{HARBOR}/a/b": ""}, auth=[]), "auth: must be a mapping"),
    ],
)
def test_a_text_that_is_no_rules_file_is_refused(text: str, wrong: str) -> None:
    assert wrong in "\n".join(map(str, problems_in(text)))


def test_all_mistakes_of_a_file_are_reported_at_once() -> None:
    problems = problems_in(
        """
        auth:
          harbor.example.com: {username: u, pasword: p}
          registry.cn-beijing.aliyuncs.com: {username: u, password: "${NOT_SET}"}
        images:
          harbor.example.com/a/b: ""
          harbor.example.com/a/b: x
          nohost/x/y: registry.cn-beijing.aliyuncs.com/a/b/c
          other.example.com/a/*:
            to: registry.cn-beijing.aliyuncs.com/a/b
            tags: {semver: "^one", latest: none, includ: x}
        """
    )
    text = "\n".join(map(str, problems))
    for wrong in [
        "duplicate key (line 7, column 11)",
        "pasword: unknown key",
        "username without a password",
        "NOT_SET is not set",
        '"" needs a default registry',
        "'nohost' is not a registry host",
        "all matching repositories would go to one destination",
        "'^one' is not a version range",
        "latest: must be a positive integer",
        "includ: unknown key; did you mean include?",
        'auth["other.example.com"]: is missing',
    ]:
        assert wrong in text, wrong
