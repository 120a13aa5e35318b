"""Detection of a file's program by its content."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.commands.convert import File, Options, convert_files
from replicator.errors import ConfigError
from replicator.rules import parse
from tests.running import replicator

if TYPE_CHECKING:
    from pathlib import Path

    from replicator.commands.convert import Program

HOST, END = "harbor.example.com", "registry.example.com/mirror"
LOGINS: dict[str, Any] = {HOST: {"username": "a", "password": "b"}}
IMAGES: dict[str, Any] = {f"{HOST}/a/b": "registry.example.com/a/b"}
REGSYNC: dict[str, Any] = {
    "sync": [{"source": f"{HOST}/a/b:1", "target": "registry.example.com/a/b:1", "type": "image"}]
}
SKOPEO: dict[str, Any] = {HOST: {"images": {"a/b": []}}}
OPTIONS = Options(registry="registry.example.com", namespace="mirror")


def text_of(*contents: Any, program: Program | None = None, options: Options = OPTIONS) -> str:
    return convert_files(
        [File(f"{number}", json.dumps(one)) for number, one in enumerate(contents)], options, program
    ).text


def problems_of(*contents: Any, program: Program | None = None, options: Options = OPTIONS) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        text_of(*contents, program=program, options=options)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("contents", "program", "options"),
    [
        ([{"auth": LOGINS, "images": IMAGES}], "image-syncer", OPTIONS),
        ([IMAGES], "image-syncer", OPTIONS),
        ([LOGINS, IMAGES], "image-syncer", OPTIONS),
        ([IMAGES, {HOST: LOGINS[HOST] | {"proxy": "x"}, "registry.example.com": {}}], "image-syncer", OPTIONS),
        ([REGSYNC], "regsync", Options()),
        ([SKOPEO], "skopeo sync", OPTIONS),
        ([{HOST: {"credentials": {"username": "a", "password": "b"}, "images": {"a": None}}}], "skopeo sync", OPTIONS),
    ],
)
def test_a_program_is_detected_by_the_content_of_its_file(contents: list[Any], program: str, options: Options) -> None:
    assert f"a file of {program}." in text_of(*contents, options=options).splitlines()[0]


def test_an_ambiguous_file_needs_its_program_named() -> None:
    both = {**REGSYNC, "images": IMAGES}
    (problem,) = problems_of(both)
    assert "can be a file of regsync or image-syncer; choose one with --from" in problem
    assert "a file of regsync" in text_of(both, program="regsync", options=Options())


@pytest.mark.parametrize("content", [{"version": "1", "services": {}}, {HOST: 1, "other": {}}])
def test_a_file_of_no_known_program_is_refused(content: Any) -> None:
    (problem,) = problems_of(content)
    assert problem.startswith("is not a file of image-syncer (auth, images), regsync (creds, sync), skopeo sync (")


@pytest.mark.parametrize("content", [[], {}, "x", None])
def test_an_empty_file_is_refused(content: Any) -> None:
    assert problems_of(content) == ["must be a mapping with at least one key"]


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ([REGSYNC, IMAGES], ["0: is a complete file of regsync"]),
        (
            [SKOPEO, {"auth": LOGINS, "images": IMAGES}],
            ["0: is a complete file of skopeo", "1: is a complete file of image-syncer"],
        ),
        ([IMAGES, IMAGES], ["1: is a second file with images"]),
        ([LOGINS, IMAGES, {"x": "y"}], ["2: has neither logins by registry nor destinations by source"]),
    ],
)
def test_every_file_that_does_not_fit_is_reported(contents: list[Any], expected: list[str]) -> None:
    problems = problems_of(*contents)
    assert len(problems) == len(expected)
    for problem, beginning in zip(problems, expected, strict=True):
        assert problem.startswith(beginning)


@pytest.mark.parametrize("content", [LOGINS, {"auth": LOGINS}])
def test_logins_alone_become_a_file_of_logins(content: Any) -> None:
    found = convert_files([File("x", json.dumps(content))], OPTIONS)
    assert [line for line in found.text.splitlines() if not line.startswith("#")] == [
        "auth:",
        f"  {HOST}: {{username: a, password: '${{PASSWORD_HARBOR_EXAMPLE_COM}}'}}",
    ]
    assert "has logins only" in str(found.remarks)


def test_images_alone_get_logins_to_set() -> None:
    found = convert_files([File("x", json.dumps(IMAGES))], OPTIONS)
    assert f"{HOST}: {{anonymous: true}}" in found.text
    assert found.variables == ("USERNAME_REGISTRY_EXAMPLE_COM", "PASSWORD_REGISTRY_EXAMPLE_COM")


@pytest.mark.parametrize("program", ["image-syncer", "regsync", "skopeo"])
@pytest.mark.parametrize(
    "content",
    [
        *(
            {"auth": one, "images": one, "sync": one, "creds": one, "defaults": one, HOST: one}
            for one in ("x", [1], [["x"]])
        ),
        {"auth": {HOST: [1]}, "images": {HOST: [1, {}]}, HOST: {"images": 1, "credentials": [], "tls-verify": "x"}},
        {HOST: {"images": {"a": {"b": []}}, "images-by-tag-regex": {"a": []}, "images-by-semver": {"a": {}}}},
        {
            "sync": [{"source": 1, "target": [], "type": "x", "tags": [1], "tagSets": 3, "repos": []}],
            "creds": [{"registry": []}],
        },
        {
            "sync": [
                {
                    "source": "a",
                    "target": "b",
                    "type": "repository",
                    "tags": {"allow": [{}], "deny": 1, "semverRange": {}},
                }
            ]
        },
    ],
)
def test_a_file_of_wrong_types_is_reported_and_nothing_else(content: Any, program: Program) -> None:
    assert problems_of(content, program=program, options=Options() if program == "regsync" else OPTIONS)


SECRET = "not-to-be-seen"
KEYS = st.sampled_from(
    [
        *("auth", "images", "version", "creds", "defaults", "sync", "x-y", HOST, "quay.io", f"{HOST}/a/b", "a/b"),
        *("username", "insecure", "registry", "user", "tls", "hostname", "regcert", "credHelper", "type", "source"),
        *("target", "tags", "tagSets", "allow", "deny", "semverRange", "repos", "platform", "platforms", "schedule"),
        *(
            "mediaTypes",
            "referrers",
            "credentials",
            "tls-verify",
            "cert-dir",
            "images-by-tag-regex",
            "images-by-semver",
        ),
    ]
)
WORDS = st.sampled_from(
    [
        *(
            "",
            "registry",
            "repository",
            "image",
            HOST,
            f"{HOST}/a/b",
            f"{HOST}/a/b:1",
            "quay.io/c/d",
            ".*",
            "v?",
            "^1.2",
        ),
        *(
            "{{",
            '{{env "A"}}',
            "{{ .Sync.Source }}",
            "${A}",
            "linux/amd64",
            "docker.io",
            "*",
            "[",
            "1 || 2",
            "insecure",
        ),
    ]
)
CONTENTS = st.recursive(
    WORDS | st.none() | st.booleans() | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)
ENTRIES = st.fixed_dictionaries(
    {"type": WORDS, "source": WORDS, "target": WORDS}, optional={"tags": CONTENTS, "repos": CONTENTS}
)
SECRETS = st.sampled_from(
    [SECRET, f"{SECRET}${{A}}", f"{{{{{SECRET}}}}}", f'{{{{env "A"}}}}{SECRET}', [SECRET], {"x": SECRET}]
)
LOGIN = st.builds(
    lambda more, login: more | login,
    st.dictionaries(KEYS, CONTENTS, max_size=2),
    st.fixed_dictionaries(
        {"registry": WORDS, "user": WORDS, "username": WORDS},
        optional=dict.fromkeys(("pass", "password", "token", "identitytoken"), SECRETS),
    ),
)
ANY_FILE = st.one_of(
    CONTENTS,
    st.fixed_dictionaries({"sync": st.lists(ENTRIES, max_size=2), "creds": st.lists(LOGIN, max_size=2)}),
    st.builds(lambda images, login: {"images": images, "auth": {HOST: login}}, CONTENTS, LOGIN),
    st.builds(lambda images, login: {HOST: {"images": images, "credentials": login}}, CONTENTS, LOGIN),
    st.builds(lambda images, login: {HOST: {"images": {images: []}, "credentials": login}}, WORDS, LOGIN),
)


@given(ANY_FILE, st.sampled_from(["image-syncer", "regsync", "skopeo", None]))
def test_any_file_is_converted_or_refused_in_words_without_its_secrets(content: Any, program: Program | None) -> None:
    options = OPTIONS if program != "regsync" else Options()
    found, said = None, ""
    try:
        found = convert_files([File("x", json.dumps(content))], options, program)
    except ConfigError as error:
        said = str(error)
    assert SECRET not in said
    if found is None:
        return
    assert SECRET not in found.text + str(found.remarks)
    if "images:" in found.text:
        parse(found.text, "y", environ=dict.fromkeys([*found.variables, "A"], "x"))


async def test_an_unreadable_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"sync: \xe4\n")
    (tmp_path / "large.yaml").write_bytes(b"#" * 2_000_000 + b"\xe4")
    (tmp_path / "twice.yaml").write_text("sync: []\nsync: []\n")
    for name, message in (
        ("latin.yaml", "it is not UTF-8"),
        ("large.yaml", "larger than"),
        ("twice.yaml", "sync: duplicate key"),
        ("none.yaml", "there is no such file"),
    ):
        ended = await replicator("convert", name, cwd=tmp_path)
        assert (ended.code, ended.out) == (2, "")
        assert message in ended.err
