"""Conversion of regsync's files."""

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

HOST, END, HUB = "registry:5000", "registry.example.com", "registry-1.docker.io"
SECRET = "not-to-be-seen"
# The example in regclient's documentation.
EXAMPLE = """
version: 1
x-filters: &semver
  allow: ['v?\\d+\\.\\d+']
creds:
  - registry: registry:5000
    tls: disabled
  - registry: docker.io
    user: "{{env \\"HUB_USER\\"}}"
    pass: "{{file \\"/home/appuser/.docker/hub_token\\"}}"
defaults:
  ratelimit: {min: 100, retry: 15m}
  parallel: 2
  interval: 60m
  backup: "bkup-{{.Ref.Tag}}"
sync:
  - source: busybox:latest
    target: registry:5000/library/busybox:latest
    type: image
  - source: alpine
    target: registry:5000/library/alpine
    type: repository
    tags:
      allow:
      - "latest"
      - "3"
      - "3.\\\\d+"
  - source: ghcr.io/regclient/regctl:latest
    target: registry:5000/regclient/regctl:stable
    type: image
  - source: ghcr.io/regclient/regsync
    target: registry:5000/regclient/regsync
    type: repository
    tags: *semver
"""


def converted(content: Any, options: Options | None = None) -> Converted:
    text = content if isinstance(content, str) else json.dumps(content)
    return convert_files([File("regsync.yml", text)], options or Options())


def rules_of(found: Converted) -> Rules:
    return parse(found.text, "x", environ=dict.fromkeys([*found.variables, "HUB_USER"], "secret"))


def ends(rules: Rules, reference: str) -> list[str]:
    return [str(request.destination) for request in rules.destinations(Reference.parse(reference))]


def entry(**fields: Any) -> dict[str, Any]:
    return {"type": "repository", "source": f"{HOST}/a/b", "target": f"{END}/c/d"} | fields


def told(found: Converted) -> dict[str, str]:
    return {remark.path: remark.message for remark in found.remarks}


def refused(content: Any, options: Options | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        converted(content, options)
    return [str(problem) for problem in caught.value.problems]


def test_the_example_of_its_documentation_goes_where_regsync_brings_it() -> None:
    found = converted(EXAMPLE)
    rules = rules_of(found)
    assert ends(rules, f"{HUB}/library/busybox:latest") == [f"{HOST}/library/busybox:latest"]
    assert ends(rules, f"{HUB}/library/busybox:1") == []
    assert ends(rules, f"{HUB}/library/alpine:3.20") == [f"{HOST}/library/alpine:3.20"]
    assert ends(rules, f"{HUB}/library/alpine:3.20.1") == ends(rules, f"{HUB}/library/alpine:13") == []
    assert ends(rules, "ghcr.io/regclient/regctl:latest") == [f"{HOST}/regclient/regctl:stable"]
    assert ends(rules, "ghcr.io/regclient/regsync:v0.8") == [f"{HOST}/regclient/regsync:v0.8"]
    assert ends(rules, "ghcr.io/regclient/regsync:v0.8.1") == []
    hub = rules.credentials(Reference.parse(f"{HUB}/library/alpine:3").repository)
    end = rules.credentials(Reference.parse(f"{HOST}/library/alpine:3").repository)
    assert hub is not None
    assert end is not None
    assert hub.username == "secret"
    assert (end.username, end.endpoint, end.insecure) == (None, f"http://{HOST}", True)
    assert set(told(found)) == {
        *("defaults.ratelimit", "defaults.parallel", "defaults.interval", "defaults.backup"),
        *("creds[0]", "creds[1].pass", "ghcr.io"),
    }
    assert "REPLICATOR_RECONCILE=60m" in told(found)["defaults.interval"]
    assert found.variables == ("PASSWORD_DOCKER_IO",)
    for path, message in told(found).items():
        assert f"# {path}: {message}" in found.text


PATTERNS = st.lists(
    st.sampled_from(["a", "b", "1", r"\.", "-", ".", "[ab]", "|", r"\d", ".*"]), min_size=1, max_size=4
).map("".join)
SETS = st.fixed_dictionaries(
    {}, optional={name: st.lists(PATTERNS, min_size=1, max_size=2) for name in ("allow", "deny")}
)
TAGS = st.text("ab1.-", min_size=1, max_size=6).filter(lambda tag: tag[0] not in ".-")


def lets_pass(one: dict[str, list[str]], tag: str) -> bool:
    """How regsync matches: each expression between ^ and $, as text."""
    allow, deny = one.get("allow", []), one.get("deny", [])
    found = {name: any(re.search(f"^{text}$", tag) for text in texts) for name, texts in one.items()}
    return (not allow or found["allow"]) and not (deny and found["deny"])


@given(SETS, st.lists(SETS, max_size=2), st.lists(TAGS, min_size=1, max_size=20))
def test_tags_that_are_allowed_and_not_denied_are_the_same(
    own: dict[str, list[str]], sets: list[dict[str, list[str]]], tags: list[str]
) -> None:
    rules = rules_of(converted({"sync": [entry(tags=own, tagSets=sets)]}))
    each = [*sets, *([own] if own else [])]
    for tag in tags:
        expected = [f"{END}/c/d:{tag}"] if not each or any(lets_pass(one, tag) for one in each) else []
        assert ends(rules, f"{HOST}/a/b:{tag}") == expected, tag


def test_ranges_of_versions_hold_together_with_the_rest() -> None:
    tags = {"semverRange": [">=1.2 <2", "^3"], "allow": ["1.*", "v?3.*"], "deny": [r".*\.9"]}
    found = converted({"sync": [entry(tags=tags), entry(source=f"{HOST}/e/f", tags={"semverRange": ["~1.2"]})]})
    rules = rules_of(found)
    passed = [
        tag
        for tag in ("1.1", "1.2", "1.9", "1.10.1", "2.0", "3.1", "v3.2", "4", "x")
        if ends(rules, f"{HOST}/a/b:{tag}")
    ]
    assert passed == ["1.2", "1.10.1", "3.1", "v3.2"]
    assert ends(rules, f"{HOST}/e/f:1.2.7")
    assert not ends(rules, f"{HOST}/e/f:1.3")
    assert "1.2.0-alpine" in told(found)["sync[0].tags.semverRange"]


def test_a_whole_registry_goes_under_the_names_that_it_has() -> None:
    repos = {"allow": ["team/.*", r"lib\.x/[^/]+", "base"]}
    rules = rules_of(
        converted({"sync": [{"type": "registry", "source": HOST, "target": f"{END}/mirror", "repos": repos}]})
    )
    assert ends(rules, f"{HOST}/team/app/api:1") == [f"{END}/mirror/team/app/api:1"]
    assert ends(rules, f"{HOST}/lib.x/y:1") == [f"{END}/mirror/lib.x/y:1"]
    assert ends(rules, f"{HOST}/base:1") == [f"{END}/mirror/base:1"]
    assert ends(rules, f"{HOST}/lib.x/y/z:1") == ends(rules, f"{HOST}/other:1") == []
    rules = rules_of(converted({"sync": [{"type": "registry", "source": HOST, "target": END}]}))
    assert ends(rules, f"{HOST}/any/thing:1") == [f"{END}/any/thing:1"]


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"tags": {"deny": [r"(a)\1"]}}, "sync[1].tags.deny[0]"),
        ({"tags": {"semverRange": [">=1.0-rc1"]}}, "sync[1].tags.semverRange[0]"),
        ({"tagSets": [{"allow": ["a(?!b)"]}]}, "sync[1].tagSets[0].allow[0]"),
        ({"platforms": ["linux/amd64", "local"]}, "sync[1].platforms"),
        ({"type": "registry", "source": HOST, "target": END, "repos": {"deny": ["x"]}}, "sync[1].repos.deny"),
        ({"type": "registry", "source": HOST, "target": END, "repos": {"allow": ["(a|b)"]}}, "sync[1].repos.allow[0]"),
    ],
)
def test_a_rule_without_an_equivalent_is_left_out_with_a_remark(fields: dict[str, Any], path: str) -> None:
    whole = entry(source=f"{HOST}/whole", target=f"{END}/whole")
    found = converted({"sync": [whole, entry(**fields)]})
    assert "has no equivalent" in told(found)[path]
    assert "left out" in told(found)["sync[1]"]
    assert f"sync[1]: {told(found)['sync[1]']}" in found.text
    rules = rules_of(found)
    assert ends(rules, f"{HOST}/a/b:1") == []
    assert ends(rules, f"{HOST}/whole:1")


def test_content_options_are_converted() -> None:
    entries = [
        entry(platform="linux/amd64", digestTags=True),
        entry(source=f"{HOST}/e/f", target=f"{END}/e/f", platforms=["linux/amd64", "linux/arm64"], referrers=False),
        entry(source=f"{HOST}/g/h", target=f"{END}/g/h", mediaTypes=["application/vnd.oci.image.index.v1+json", "x/y"]),
    ]
    found = converted({"defaults": {"referrers": True}, "sync": entries})
    rules = rules_of(found)
    options = [
        str(rules.destinations(Reference.parse(f"{HOST}/{name}:1"))[0].options) for name in ("a/b", "e/f", "g/h")
    ]
    assert options == [
        "only linux/amd64; with signatures",
        "only linux/amd64, linux/arm64",
        "with signatures",
    ]
    assert {"sync[0].platform", "sync[1].platforms", "sync[2].mediaTypes", "defaults.referrers"} <= set(told(found))


@pytest.mark.parametrize(
    "field",
    [
        *("backup", "ratelimit", "referrerFilters", "referrerSource", "referrerTarget", "referrerSlow"),
        *("fastCheck", "forceRecursive", "includeExternal", "hooks", "schedule", "interval", "parallels"),
    ],
)
@pytest.mark.parametrize("at_default", [True, False])
def test_everything_without_an_equivalent_is_reported_with_its_path(field: str, at_default: bool) -> None:
    said = {field: "17 3 * * *"}
    content = {"defaults": said, "sync": [entry()]} if at_default else {"sync": [entry(**said)]}
    found = converted(content)
    place = f"{'defaults' if at_default else 'sync[0]'}.{field}"
    assert place in told(found)
    assert f"# {place}: " in found.text
    if field == "schedule":
        assert "REPLICATOR_RECONCILE='17 3 * * *'" in told(found)[place]


CREDS = {"registry": HOST, "user": "a", "pass": SECRET}


@pytest.mark.parametrize(
    ("fields", "username", "password"),
    [
        ({}, "a", "${PASSWORD_REGISTRY_5000}"),
        ({"user": '{{ env "A" }}', "pass": '{{env "B"}}'}, "${A}", "${B}"),
        ({"user": '{{ env "A" }}-x', "pass": '{{env "B"}}not-to-be-seen'}, "${A}-x", "${PASSWORD_REGISTRY_5000}"),
        ({"user": "robot$a", "pass": "{{env `B`}}"}, "robot$a", "${B}"),
        ({"pass": '{{ printf "not-to-be-seen" }}'}, "a", "${PASSWORD_REGISTRY_5000}"),
        ({"user": "a${A}", "pass": "not-to-be-seen${B}"}, "${USERNAME_REGISTRY_5000}", "${PASSWORD_REGISTRY_5000}"),
        (
            {"user": "", "pass": "", "credHelper": "docker-credential-x"},
            "${USERNAME_REGISTRY_5000}",
            "${PASSWORD_REGISTRY_5000}",
        ),
        ({"user": "", "pass": "", "token": SECRET}, "${USERNAME_REGISTRY_5000}", "${PASSWORD_REGISTRY_5000}"),
    ],
)
def test_a_login_is_taken_over_without_its_secret(fields: dict[str, str], username: str, password: str) -> None:
    found = converted({"creds": [CREDS | fields], "sync": [entry()]})
    assert SECRET not in found.text + str(found.remarks)
    environ = dict.fromkeys([*found.variables, "A", "B"], "x")
    parse(found.text, "x", environ=environ)
    read = parse(found.text, "x", environ={name: f"<{name}>" for name in environ})
    access = read.credentials(Reference.parse(f"{HOST}/a/b:1").repository)
    assert access is not None
    values = [re.sub(r"<(\w+)>", r"${\1}", text or "") for text in (access.username, access.password)]
    assert values == [username, password]


def test_how_a_registry_is_reached_is_taken_over(tmp_path: Path) -> None:
    creds = [
        {"registry": HOST, "hostname": "inner:5000", "tls": "insecure", "regcert": "-----BEGIN", "reqPerSec": 3},
        {"registry": '{{env "END"}}', "user": "a", "pass": SECRET, "regcert": '{{file "/none"}}', "mirrors": ["x"]},
    ]
    found = converted({"creds": creds, "sync": [entry()]}, Options(keep_secrets=True, environ={"END": END}))
    rules = rules_of(found)
    source, end = (rules.credentials(Reference.parse(f"{name}:1").repository) for name in (f"{HOST}/a/b", f"{END}/c/d"))
    assert source is not None
    assert end is not None
    assert (source.endpoint, source.insecure, end.password) == ("inner:5000", True, SECRET)
    assert {"creds[0].regcert", "creds[0].reqPerSec", "creds[1].regcert", "creds[1].mirrors"} <= set(told(found))


def test_names_with_templates_are_written_out() -> None:
    content = {"sync": [entry(source='{{env "FROM"}}/a/b', target=f"{END}/{{{{ .Sync.Source }}}}")]}
    found = converted(content, Options(environ={"FROM": "quay.io"}))
    assert ends(rules_of(found), "quay.io/a/b:1") == [f"{END}/quay.io/a/b:1"]
    assert {"sync[0].source", "sync[0].target"} <= set(told(found))
    assert "FROM is not set; set it for the conversion" in refused(content)[0]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"version": "2", "sync": [entry()]}, "version: must be 1"),
        ({"sync": [entry(type="repo")]}, "sync[0].type: 'repo' is unknown; expected one of registry, repository"),
        ({"sync": [{"type": "image", "source": "a"}]}, 'sync[0]: "target" is missing'),
        (
            {"sync": [entry(source="ocidir://x")]},
            "sync[0].source: has no equivalent: 'ocidir://x' is not in a registry",
        ),
        ({"sync": [entry(source=f"{HOST}/a/b:1")]}, "sync[0].source: must be a repository"),
        (
            {"sync": [entry(target="{{ index . 1 }}")]},
            "sync[0].target: has no equivalent: the template '{{ index . 1 }}'",
        ),
        ({"sync": [entry(), entry(source=f"{HOST}/e/f")]}, "sync[1]: collision"),
        ({"sync": [entry()], "creds": [{"user": "a"}]}, 'creds[0]: "registry" is missing'),
        ({"sync": [entry()], "creds": [{"registry": HOST, "tls": "off"}]}, "creds[0].tls: is unknown; expected one of"),
        ({"sync": [entry()], "creds": [CREDS, CREDS]}, "creds[1].registry: duplicate registry"),
        ({"sync": []}, "images: is empty"),
    ],
)
def test_a_mistake_is_reported_at_its_path_in_the_source(content: Any, problem: str) -> None:
    assert any(text.startswith(problem) for text in refused(content)), refused(content)


def test_every_mistake_is_reported_at_once() -> None:
    assert len(refused({"version": 3, "sync": [entry(source="A"), entry(target="B", type="x")]})) == 4


async def test_the_command_reports_what_it_left_out_and_takes_no_destination(tmp_path: Path) -> None:
    (tmp_path / "regsync.yml").write_text(EXAMPLE)
    ended = await replicator("convert", "regsync.yml", "--output=rules.yaml", cwd=tmp_path)
    assert (ended.code, ended.out) == (0, "")
    assert "regsync.yml: defaults.backup: has no equivalent" in ended.err
    assert "Set these variables to the logins of regsync.yml: PASSWORD_DOCKER_IO" in ended.err
    text = (tmp_path / "rules.yaml").read_text()
    assert text == converted(EXAMPLE).text
    ended = await replicator("convert", "regsync.yml", f"--to={END}", cwd=tmp_path)
    assert ended.code == 2
    assert "--to: can't be used: a file of regsync contains every target" in ended.err
