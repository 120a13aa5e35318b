"""Types of artifacts in rules: which are copied, by rule, by default and by several rules."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.copy.options import VERBATIM, CopyOptions
from replicator.reference import Reference
from replicator.registry.kinds import KINDS
from replicator.rules import CopyRequest, Rules, parse
from tests.rules.building import AUTH, DEFAULTS, HARBOR, PLAIN, error_in, message_of, rules_of

HELM = "application/vnd.cncf.helm.config.v1+json"
APP = Reference.parse(f"{HARBOR}/a/b:1")
FAILING = CopyOptions(refused="fail")


def requested(images: dict[str, Any], **defaults: Any) -> tuple[Rules, CopyRequest]:
    rules = rules_of({f"{HARBOR}/{key}": value for key, value in images.items()}, defaults=DEFAULTS | defaults)
    (request,) = rules.destinations(APP)
    return rules, request


def item(**keys: Any) -> dict[str, Any]:
    return {"to": f"{PLAIN}/{{name}}", **keys}


@pytest.mark.parametrize(
    ("keys", "defaults", "options"),
    [
        ({}, {}, VERBATIM),
        ({"types": ["image"]}, {}, CopyOptions(types=("image",))),
        ({"types": "chart"}, {}, CopyOptions(types=("chart",))),
        ({"types": ["CHART", HELM.upper()]}, {}, CopyOptions(types=("chart", HELM))),
        ({"types": "all"}, {}, FAILING),
        ({}, {"types": ["image", "chart"]}, CopyOptions(types=("chart", "image"))),
        ({"types": "chart"}, {"types": "image"}, CopyOptions(types=("chart",))),
        ({"types": "all"}, {"types": "image"}, FAILING),
        ({"types": "image"}, {"types": "all"}, CopyOptions(types=("image",))),
        ({"types": ["image"], "platforms": "*/*"}, {}, CopyOptions(types=("image",))),
    ],
)
def test_a_rule_or_the_defaults_name_the_types_that_are_copied(
    keys: dict[str, Any], defaults: dict[str, Any], options: CopyOptions
) -> None:
    _, request = requested({"a/*": item(**keys)}, **defaults)
    assert request.options == options
    assert CopyRequest.from_json(json.loads(json.dumps(request.to_json()))) == request
    _, request = requested({"a/b:1": [item(**keys)]}, **defaults)
    assert request.options == options


@pytest.mark.parametrize(
    ("one", "other", "options"),
    [
        ({"types": "image"}, {"types": "chart"}, CopyOptions(types=("chart", "image"))),
        ({"types": "image"}, {}, VERBATIM),
        ({"types": "image"}, {"types": "all"}, FAILING),
        ({}, {"types": "all"}, FAILING),
    ],
)
def test_a_copy_that_two_rules_ask_for_takes_the_types_of_both(
    one: dict[str, Any], other: dict[str, Any], options: CopyOptions
) -> None:
    for first, second in ((one, other), (other, one)):
        _, request = requested({"a/*": item(**first), "a/b": item(**second)})
        assert request.options == options


def test_explain_says_that_the_type_decides() -> None:
    rules, request = requested({"a/*": item(types=["image", "chart"], tags={"labels": "prod"})})
    (explained,) = rules.explain(APP)
    assert explained.reason == (
        "the repository and the tag match, if it has the label prod and its type is chart or image, which is checked "
        "when it is copied"
    )
    assert str(request.options) == "only artifacts of type chart, image"


def test_a_queued_copy_follows_the_types_of_the_rules_in_force() -> None:
    before, old = requested({"a/*": item()})
    now, _ = requested({"a/*": item(types="chart")})
    assert before.digest != now.digest
    assert "types" not in old.to_json().get("options", {})
    renewed = now.present(CopyRequest.from_json(old.to_json()))
    assert renewed is not None
    assert renewed.options.types == ("chart",)
    again = before.present(renewed)
    assert again is not None
    assert again.options == VERBATIM


def test_a_digest_that_keeps_its_name_is_copied_by_its_type_too() -> None:
    digest = "sha256:" + "a" * 64
    rules = rules_of({f"{HARBOR}/a/b@{digest}": {"to": f"{PLAIN}/x", "types": "image"}})
    (request,) = rules.destinations(Reference.parse(f"{HARBOR}/a/b@{digest}"))
    assert request.options.types == ("image",)


@pytest.mark.parametrize(
    ("types", "path", "message"),
    [
        (["imag"], "types[0]", "'imag' is neither a type nor a media type; did you mean image?"),
        ("containers", "types", f"expected one of {', '.join(KINDS)}, all"),
        ([], "types", "is empty; remove it, or write all for every type"),
        (["image", "all"], "types[1]", "all means every type; remove it or the others"),
        (["image", "IMAGE"], "types[1]", "duplicate type image; remove one"),
        (True, "types", "must be a string, not true or false"),
        (["application/"], "types[0]", "is neither a type nor a media type"),
        ([f"application/{number}" for number in range(65)], "types", "has more than 64 types, the limit"),
    ],
)
def test_a_mistake_is_reported_with_its_place_and_the_known_names(types: object, path: str, message: str) -> None:
    told = message_of({f"{HARBOR}/a/b": item(types=types)})
    assert told.startswith(f'images["{HARBOR}/a/b"].{path}: ')
    assert message in told
    assert message_of({f"{HARBOR}/a/b": item()}, defaults=DEFAULTS | {"types": types}).startswith(f"defaults.{path}: ")


ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["image", "all", "a/*", "**", HELM]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["exclude", "include", "x"]), inner),
    max_leaves=5,
)


@given(ANY, ANY, st.sampled_from(["a/**", "a/b", "**", "a/*:v*"]))
def test_any_value_of_these_keys_is_taken_or_reported_with_its_place(types: Any, left_out: Any, key: str) -> None:
    images = {f"{HARBOR}/{key}": {"to": f"{PLAIN}/{{repository}}", "types": types, "repositories": left_out}}
    text = json.dumps({"auth": AUTH, "defaults": {"types": types}, "images": images})
    error = error_in(text)
    if error is not None:
        assert error.problems
        assert all(problem.path for problem in error.problems)
        return
    rules = parse(text, "rules.json", environ={})
    rules.destinations(APP)
    assert rules.explain(APP)
    assert [source.includes("a/b") for source in rules.sources()]
