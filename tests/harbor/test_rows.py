"""Rows of Harbor's lists, valid and invalid."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.harbor import Artifact, ArtifactTag, ListedRepository
from replicator.harbor.lists import Accessory, artifact_of, project_of, repository_of
from replicator.reference import Repository, is_digest, is_tag

HOST = "harbor.example.com"
DIGEST = "sha256:" + "a" * 64
APP = Repository(HOST, "team/app")
ROW: dict[str, Any] = {
    "id": 7,
    "repository_name": "team/app",
    "digest": DIGEST,
    "size": 1234,
    "tags": [{"name": "v1", "push_time": "2026-01-02T03:04:05.678Z"}, {"name": "latest"}],
    "accessories": None,
}


def test_a_row_has_repository_digest_and_times() -> None:
    pushed = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)
    expected = Artifact(APP, DIGEST, 1234, (ArtifactTag("v1", pushed), ArtifactTag("latest", None)))
    assert artifact_of(ROW, HOST, "team") == expected
    assert artifact_of(ROW, HOST, "team", APP) == expected
    attached: list[Any] = [{"type": "signature.cosign", "digest": DIGEST}, {"digest": DIGEST}, {"type": "x"}, None]
    children = [{"child_digest": DIGEST}]
    signed = artifact_of(ROW | {"accessories": attached, "references": children}, HOST, "team")
    assert signed == replace(
        expected, accessories=(Accessory(DIGEST, "signature.cosign"), Accessory(DIGEST, "")), is_index=True
    )


def test_the_list_of_one_repository_need_not_name_it() -> None:
    row = {name: value for name, value in ROW.items() if name != "repository_name"}
    found = artifact_of(row, HOST, "team", APP)
    assert found is not None
    assert found.repository == APP
    assert artifact_of(row, HOST, "team") is None


IMAGE = "application/vnd.oci.image.config.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
HELM = "application/vnd.cncf.helm.config.v1+json"
EXAMPLE = "application/vnd.example+json"
UNKNOWN = {"os": "unknown", "architecture": "unknown"}
LINUX: dict[str, Any] = {"platform": {"os": "linux", "architecture": "amd64"}}


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({}, None),
        ({"media_type": IMAGE, "artifact_type": IMAGE}, "image"),
        ({"media_type": IMAGE}, None),
        ({"media_type": IMAGE, "artifact_type": "application/spdx+json"}, None),
        ({"media_type": HELM, "artifact_type": HELM, "type": "CHART"}, "chart"),
        ({"media_type": HELM}, None),
        ({"media_type": "application/vnd.oci.empty.v1+json", "artifact_type": HELM}, "chart"),
        ({"media_type": "application/vnd.wasm.config.v1+json", "artifact_type": IMAGE, "type": "WASM"}, None),
        ({"media_type": "application/vnd.wasm.config.v1+json", "artifact_type": HELM}, None),
        ({"media_type": EXAMPLE, "artifact_type": EXAMPLE, "type": "UNKNOWN"}, EXAMPLE),
        ({"media_type": EXAMPLE, "artifact_type": "application/" + "x" * 200}, f"application/{'x' * 87}…"),
        ({"media_type": INDEX, "type": "IMAGE", "references": [LINUX, {"child_digest": DIGEST}]}, "image"),
        ({"media_type": INDEX, "type": "IMAGE", "references": [{"platform": {"os": "", "architecture": ""}}]}, None),
        ({"media_type": INDEX, "references": [{"platform": UNKNOWN}, {}, 7]}, None),
        ({"media_type": INDEX, "artifact_type": "application/vnd.cnab.bundle.v1", "references": [LINUX]}, None),
        ({"media_type": INDEX, "type": "IMAGE", "references": []}, None),
        ({"media_type": INDEX, "type": "IMAGE", "references": [LINUX, LINUX]}, None),
        ({"media_type": 7, "artifact_type": None, "references": "x"}, None),
        ({"media_type": IMAGE, "references": 7}, None),
    ],
)
def test_a_row_tells_the_kind_of_its_artifact_where_the_manifest_says_the_same(
    change: dict[str, Any], kind: str | None
) -> None:
    found = artifact_of(ROW | change, HOST, "team")
    assert found is not None
    assert found.kind == kind


@pytest.mark.parametrize(
    "change",
    [
        {"repository_name": "other/app"},
        {"repository_name": "teams/app"},
        {"repository_name": "team"},
        {"repository_name": "team/../other/app"},
        {"repository_name": 7},
        {"digest": "sha256:short"},
        {"digest": None},
    ],
)
def test_a_row_of_another_project_or_without_a_digest_is_dropped(change: dict[str, Any]) -> None:
    assert artifact_of(ROW | change, HOST, "team") is None
    assert artifact_of(ROW | change, HOST, "team", APP) is None


@pytest.mark.parametrize("value", ["0001-01-01T00:00:00.000Z", "0001-01-01T00:00:00+05:00", "yesterday", "", 5, None])
def test_a_meaningless_time_is_none(value: Any) -> None:
    found = artifact_of(ROW | {"tags": [{"name": "v1", "push_time": value}]}, HOST, "team")
    assert found is not None
    assert found.tags == (ArtifactTag("v1", None),)


def test_a_meaningless_count_is_dropped() -> None:
    for count in (None, -1, True, "5", 1.5, 2**70):
        assert repository_of({"name": "team/app", "artifact_count": count}, HOST, "team") == ListedRepository(APP, 0)
    assert repository_of({"name": "team/app", "artifact_count": 5}, HOST, "team") == ListedRepository(APP, 5)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["v1", DIGEST, "team/app"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.sampled_from(["name"]), inner, max_size=3)
    ),
    max_leaves=8,
)
TAG_ROW = st.fixed_dictionaries({}, optional={"name": JSON | st.text(), "push_time": JSON | st.datetimes().map(str)})
ROWS = st.fixed_dictionaries(
    {},
    optional={
        "repository_name": JSON | st.sampled_from(["team/app", "team/b/c", "x/y"]),
        "digest": JSON | st.just(DIGEST),
        "size": JSON,
        "tags": JSON | st.lists(TAG_ROW | JSON, max_size=4),
        "accessories": JSON,
        "name": JSON | st.just("team/app"),
        "artifact_count": JSON,
    },
)


@given(ROWS, st.none() | st.just(APP))
def test_any_row_is_read_or_left_out(row: dict[str, Any], asked: Repository | None) -> None:
    found = artifact_of(row, HOST, "team", asked)
    if found is not None:
        assert found.repository.name.startswith("team/")
        assert asked in (None, found.repository)
        assert is_digest(found.digest)
        assert found.size is None or 0 <= found.size < 2**63
        assert all(is_tag(tag.name) for tag in found.tags)
        assert all(tag.pushed is None or tag.pushed.tzinfo is UTC for tag in found.tags)
    listed = repository_of(row, HOST, "team")
    assert listed is None or (listed.repository.name.startswith("team/") and listed.artifact_count >= 0)
    project = project_of(row)
    assert project is None or "/" not in project
