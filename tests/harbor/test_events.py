from __future__ import annotations

import json
import string
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.harbor.events import PUSH, SCANNED, MalformedEvent, Push, parse_event
from replicator.reference import is_digest, is_repository_name, is_tag

DIGEST = "sha256:" + "a" * 64


def default(**changes: Any) -> dict[str, Any]:
    """An event in Harbor's Default format, as documented."""
    resource = {"digest": DIGEST, "tag": "v1.2.3", "resource_url": "harbor.example.com/team/app/api:v1.2.3"}
    repository = {
        "date_created": 1767220000,
        "name": "app/api",
        "namespace": "team",
        "repo_full_name": "team/app/api",
        "repo_type": "private",
    }
    return {
        "type": "PUSH_ARTIFACT",
        "occur_at": 1767225600,
        "operator": "robot$team+ci",
        "event_data": {"resources": [{**resource, **changes}], "repository": repository},
    }


def cloud(**changes: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": "4b2f89a6-548d-4c12-9993-a1f5790b97d2",
        "source": "/projects/7/webhook/policies/3",
        "type": "harbor.artifact.pushed",
        "datacontenttype": "application/json",
        "time": "2026-01-01T00:00:00Z",
        "data": default(**changes)["event_data"],
        "operator": "robot$team+ci",
        "requestid": "2eedfab8-61d3-4f3c-8ec3-8f82d1ec4c84",
    }


def dumped(content: Any) -> bytes:
    return json.dumps(content).encode()


def test_both_formats_say_the_same() -> None:
    expected = (Push("team/app/api", "v1.2.3", DIGEST, "harbor.example.com"),)
    by_default, by_cloud = parse_event(dumped(default())), parse_event(dumped(cloud()))
    assert by_default.pushes == by_cloud.pushes == expected
    assert by_default.type == by_cloud.type == PUSH
    assert by_default.occurred == by_cloud.occurred == datetime(2026, 1, 1, tzinfo=UTC)
    assert by_default.id is None
    assert by_cloud.id == "4b2f89a6-548d-4c12-9993-a1f5790b97d2"
    assert (by_default.project, by_cloud.project) == (None, 7)
    for source in ("/projects/x/", "projects/7/", "/projects/7", "/projects/" + "9" * 400 + "/", 7, None):
        assert parse_event(dumped({**cloud(), "source": source})).project is None


@pytest.mark.parametrize(("form", "kind"), [(default, SCANNED), (cloud, "harbor.scan.completed")])
def test_the_end_of_a_scan_names_what_was_scanned_and_is_never_malformed(form: Any, kind: str) -> None:
    def parsed(**changes: Any) -> Any:
        return parse_event(dumped({**form(**changes), "type": kind}))

    overview = {"application/vnd.security.vulnerability.report; version=1.1": {"scan_status": "Success"}}
    event = parsed(scan_overview=overview)
    assert (event.type, event.pushes) == (SCANNED, ())
    assert event.scanned == (Push("team/app/api", "v1.2.3", DIGEST, "harbor.example.com"),)
    # A part of an index.
    assert [(scan.tag, scan.digest) for scan in parsed(tag="").scanned] == [(None, DIGEST)]
    assert parsed(tag="", digest="").scanned == ()
    assert parse_event(dumped({"type": SCANNED})).scanned == ()


@pytest.mark.parametrize("form", [default, cloud])
def test_a_push_by_digest_has_no_tag(form: Any) -> None:
    (push,) = parse_event(dumped(form(tag=DIGEST))).pushes
    assert push.tag is None
    assert push.digest == DIGEST


@pytest.mark.parametrize("missing", ["digest", "resource_url"])
def test_optional_fields_may_be_missing(missing: str) -> None:
    event = default()
    del event["event_data"]["resources"][0][missing]
    del event["event_data"]["repository"]["date_created"]
    (push,) = parse_event(dumped(event)).pushes
    assert push.tag == "v1.2.3"


def test_the_full_name_is_put_together_where_it_is_missing() -> None:
    event = default()
    del event["event_data"]["repository"]["repo_full_name"]
    assert parse_event(dumped(event)).pushes[0].repository == "team/app/api"


def test_an_empty_tag_is_none() -> None:
    assert parse_event(dumped(default(tag=""))).pushes[0].tag is None


def test_a_list_of_resources_is_taken() -> None:
    event = default()
    event["event_data"]["resources"] *= 3
    assert len(parse_event(dumped(event)).pushes) == 3


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("DELETE_ARTIFACT", "DELETE_ARTIFACT"),
        ("PULL_ARTIFACT", "PULL_ARTIFACT"),
        ("QUOTA_EXCEED", "QUOTA_EXCEED"),
        ("SCANNING_COMPLETED", "SCANNING_COMPLETED"),
        ("REPLICATION", "REPLICATION"),
        ("TAG_RETENTION", "TAG_RETENTION"),
        ("SOMETHING_NEW", "SOMETHING_NEW"),
    ],
)
def test_other_events_have_their_type_and_no_push(name: str, kind: str) -> None:
    event = parse_event(dumped({"type": name, "event_data": {"anything": [None]}}))
    assert (event.type, event.pushes) == (kind, ())


def test_other_cloud_events_have_the_same_names() -> None:
    assert parse_event(dumped({**cloud(), "type": "harbor.artifact.deleted"})).type == "DELETE_ARTIFACT"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b"{}", "no type"),
        (b'{"specversion": "1.0"}', "no type"),
        (b'{"type": "PUSH_ARTIFACT"}', "no event_data"),
        (dumped({**cloud(), "data": None}), "no data"),
        (dumped(default(tag="no tag at all")), "tag is not a tag"),
        (dumped(default(tag=7)), "tag is not a tag"),
        (dumped(default(digest="md5:1")), "digest is not a digest"),
        (dumped(default(tag="", digest="")), "neither tag nor digest"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_body_that_is_no_event_is_refused_with_a_reason(body: bytes, says: str) -> None:
    with pytest.raises(MalformedEvent, match=says):
        parse_event(body)


@pytest.mark.parametrize("name", ["../../etc/passwd", "team//api", "Team/API", "", None, "a" * 300, "team/api\n"])
def test_a_name_that_no_repository_has_is_refused(name: Any) -> None:
    event = default()
    event["event_data"]["repository"] = {"repo_full_name": name}
    with pytest.raises(MalformedEvent, match="repo_full_name"):
        parse_event(dumped(event))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
KEYS = ("type", "event_data", "data", "specversion", "repository", "resources", "repo_full_name", "tag", "digest")


def checked(body: bytes) -> None:
    """Any body gives an event with valid parts, or the one documented error."""
    try:
        event = parse_event(body)
    except MalformedEvent:
        return
    assert event.type.isprintable()
    for push in event.pushes:
        assert is_repository_name(push.repository)
        assert push.tag is None or is_tag(push.tag)
        assert push.digest is None or is_digest(push.digest)
        assert push.tag or push.digest


@given(st.binary(max_size=200) | JSON.map(dumped))
def test_any_body_gives_an_event_or_the_documented_error(body: bytes) -> None:
    checked(body)


@given(st.data())
def test_any_damage_to_an_event_gives_an_event_or_the_documented_error(data: st.DataObject) -> None:
    event: Any = data.draw(st.sampled_from([default(), cloud()]))
    for _ in range(data.draw(st.integers(1, 3))):
        place = event
        while isinstance(place, dict | list) and place:
            key = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else list(range(len(place)))))
            if data.draw(st.booleans()) or not isinstance(place[key], dict | list):
                place[key] = data.draw(JSON)
                break
            place = place[key]
    checked(dumped(event))


@given(st.text(string.printable, max_size=60))
def test_nothing_unprintable_comes_out_of_a_type(text: str) -> None:
    if text:
        assert parse_event(dumped({"type": text})).type.isprintable()
