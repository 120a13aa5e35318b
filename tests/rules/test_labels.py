"""Harbor's labels in rules: which images they let pass, as far as that can be told without a network."""

from __future__ import annotations

import pytest

from replicator.reference import Reference, Repository
from replicator.rules import CopyRequest, Rules, TagFilter
from replicator.rules.ruleset import conditions_of
from tests.rules.building import ACR, HARBOR, PLAIN, message_of, rules_of

APP = Repository(HARBOR, "team/app")
LABELS = {"v1": {"prod", "signed"}, "v2": {"prod"}, "v3": set(), "v4": {"prod", "broken"}}


def labelled(**tags: object) -> Rules:
    return rules_of({f"{HARBOR}/team/**": {"to": f"{ACR}/mirror/{{flat}}", "tags": tags}})


def listed(rules: Rules) -> list[str]:
    return sorted(str(request.source.tag) for request in rules.requests(APP, LABELS, LABELS))


@pytest.mark.parametrize(
    ("tags", "passing"),
    [
        ({"labels": ["prod"]}, ["v1", "v2", "v4"]),
        ({"labels": "prod"}, ["v1", "v2", "v4"]),
        ({"labels": ["prod", "signed"]}, ["v1"]),
        ({"exclude_labels": ["broken", "signed"]}, ["v2", "v3"]),
        ({"labels": ["prod"], "exclude_labels": ["broken"]}, ["v1", "v2"]),
        ({"labels": ["prod"], "exclude": ["v1"]}, ["v2", "v4"]),
        ({"labels": ["Prod"]}, []),
    ],
)
def test_an_image_must_have_all_labels_and_no_excluded_one(tags: dict[str, object], passing: list[str]) -> None:
    assert listed(labelled(**tags)) == passing


def test_the_latest_count_among_the_images_with_the_labels() -> None:
    assert listed(labelled(labels=["prod"], exclude_labels=["broken"], latest=1)) == ["v2"]


def test_a_tag_whose_labels_are_not_known_never_passes() -> None:
    for tags in ({"labels": ["prod"]}, {"exclude_labels": ["broken"]}):
        assert labelled(**tags).requests(APP, ["v1"]) == []
        assert labelled(**tags).requests(APP, ["v1"], {"v2": ["prod"]}) == []


def test_a_tag_that_is_written_out_needs_its_label_too() -> None:
    rules = rules_of({f"{HARBOR}/team/app:v1,v3,v9": {"to": f"{ACR}/mirror/app", "tags": {"labels": "prod"}}})
    assert listed(rules) == ["v1"]
    assert [source.needs_tags for source in rules.sources()] == [True]
    assert rules.route(APP).labels


def test_an_event_asks_for_a_copy_that_has_to_be_selected_by_its_labels_then() -> None:
    rules = labelled(labels=["prod"], exclude_labels=["broken"])
    (request,) = rules.destinations(Reference(APP, "v1"))
    selection = CopyRequest.from_json(request.to_json()).selection
    assert selection is not None
    assert selection.needs_labels
    assert not selection.needs_all_tags
    assert [tag for tag in LABELS if selection.select([tag], LABELS)] == ["v1", "v2"]


def test_a_listed_copy_is_selected_again_by_its_labels_and_by_nothing_else() -> None:
    (request,) = labelled(labels=["prod"], exclude_labels=["broken"], latest=1, include=["v*"]).requests(
        APP, LABELS, LABELS
    )
    assert request.selection == TagFilter(labels=("prod",), exclude_labels=("broken",))


def test_a_copy_that_another_rule_wants_without_a_label_needs_none() -> None:
    rules = rules_of(
        {
            f"{HARBOR}/team/**": {"to": f"{ACR}/mirror/{{flat}}", "tags": {"labels": ["prod"]}},
            f"{HARBOR}/team/app:v3": f"{ACR}/mirror/{{flat}}",
        }
    )
    (request,) = rules.destinations(Reference(APP, "v3"))
    assert request.selection is None
    requests = {str(each.source.tag): each.selection for each in rules.requests(APP, LABELS, LABELS)}
    assert requests == {"v1": TagFilter(labels=("prod",))} | dict.fromkeys(
        ("v2", "v4"), TagFilter(labels=("prod",))
    ) | {"v3": None}


def test_labels_of_several_rules_are_alternatives() -> None:
    rules = rules_of(
        {
            f"{HARBOR}/team/app": {"to": f"{ACR}/mirror/app", "tags": {"labels": ["signed"]}},
            f"{HARBOR}/team/**": {"to": f"{ACR}/mirror/{{name}}", "tags": {"labels": ["broken"]}},
        }
    )
    (request,) = rules.destinations(Reference(APP, "v1"))
    assert request.selection is not None
    assert request.selection.select(LABELS, LABELS) == ["v4", "v1"]
    assert listed(rules) == ["v1", "v4"]


def test_explain_says_that_the_label_decides() -> None:
    (one,) = labelled(labels=["prod", "signed"], exclude_labels=["broken"], latest=3).explain(Reference(APP, "v1"))
    assert one.matches
    assert one.reason == (
        "the repository and the tag match, if it has the label prod and signed and it does not have the label broken "
        "and the tag is among the latest 3 of the source, which is checked when it is copied"
    )
    assert conditions_of(TagFilter(labels=("a",), others=(TagFilter(latest=2),))) == (
        "it has the label a, or the tag is among the latest 2 of the source"
    )


@pytest.mark.parametrize(
    ("source", "tags", "why"),
    [
        (f"{ACR}/team/app", {"labels": "prod"}, f"only a Harbor has labels, and {ACR} is not a Harbor; remove this"),
        (
            "docker.io/library/nginx",
            {"exclude_labels": "x"},
            "only a Harbor has labels, and registry-1.docker.io is not a Harbor",
        ),
        (f"{HARBOR}/app", {"labels": "prod"}, "each of its repositories is in a project: app is not"),
        (f"{HARBOR}/team/app", {"labels": []}, "is empty; remove it"),
        (f"{HARBOR}/team/app", {"labels": [""]}, "is not the name of a label"),
        (f"{HARBOR}/team/app", {"labels": ["x" * 129]}, "longer than 128 characters"),
        (f"{HARBOR}/team/app", {"label": ["x"]}, "unknown key; did you mean labels?"),
    ],
)
def test_what_can_never_have_a_label_is_a_mistake(source: str, tags: dict[str, object], why: str) -> None:
    auth = {host: {"anonymous": True} for host in (HARBOR, ACR, PLAIN, "docker.io")}
    assert why in message_of({source: {"to": f"{PLAIN}/copy/app", "tags": tags}}, auth=auth)


def test_two_sources_with_labels_may_share_a_destination_and_are_warned_about() -> None:
    """A promotion: at any time, the image with the label is in one of them."""
    tags = {"labels": ["prod"]}
    rules = rules_of(
        {f"{HARBOR}/{project}/app": {"to": f"{ACR}/mirror/app", "tags": tags} for project in ("team", "lib")}
    )
    warning = rules.warnings[0]
    assert "if both tag filters let the same tag pass" in warning.message


def test_rules_with_other_labels_are_other_rules() -> None:
    digests = {
        labelled(**tags).digest for tags in ({}, {"labels": ["a"]}, {"labels": ["b"]}, {"exclude_labels": ["a"]})
    }
    assert len(digests) == 4
