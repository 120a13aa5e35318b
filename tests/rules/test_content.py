"""Options for parts of an image: platforms, attestations and signatures, in rules, as defaults and merged."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from replicator.aliyun.acr import automatic_attestations
from replicator.copy.options import VERBATIM, Attestations, CopyOptions, Overwrite, Public
from replicator.reference import Platform, Reference, Repository
from replicator.rules import CopyRequest, Rules, parse
from tests.rules.building import ACR, DEFAULTS, HARBOR, PLAIN, message_of, problems_of, rules_of, text_of

SHA = "sha256:" + "a" * 64
AMD, ARM = Platform("linux", "amd64"), Platform("linux", "arm64", "v8")


def item(to: str = f"{PLAIN}/x", **keys: Any) -> dict[str, Any]:
    return {"to": to} | keys


def request_of(rules: Rules, pushed: str = "a/b:1") -> CopyRequest:
    (request,) = rules.destinations(Reference.parse(f"{HARBOR}/{pushed}"))
    return request


def options_of(value: Any, key: str = "a/b", pushed: str = "a/b:1", **defaults: Any) -> CopyOptions:
    return request_of(rules_of({f"{HARBOR}/{key}": value}, defaults=DEFAULTS | defaults), pushed).options


@pytest.mark.parametrize(
    ("keys", "options"),
    [
        ({}, VERBATIM),
        ({"platforms": "linux/amd64"}, CopyOptions((AMD,))),
        ({"platforms": ["linux/arm64/v8", "linux/x86_64"]}, CopyOptions((AMD, ARM))),
        ({"platforms": "*/*"}, VERBATIM),
        ({"attestations": "keep"}, VERBATIM),
        ({"attestations": "auto"}, VERBATIM),
        ({"attestations": "strip"}, CopyOptions(attestations=Attestations.STRIP)),
        ({"attestations": "fail"}, CopyOptions(attestations=Attestations.FAIL)),
        ({"signatures": True}, CopyOptions(signatures=True)),
        ({"signatures": False}, CopyOptions(signatures=False)),
        ({"signatures": "auto"}, VERBATIM),
    ],
)
def test_a_destination_and_the_defaults_say_it_with_the_same_keys(keys: dict[str, Any], options: CopyOptions) -> None:
    assert options_of(item(**keys)) == options
    assert options_of(f"{PLAIN}/x", **keys) == options
    assert options_of([item(**keys)]) == options
    assert options_of(item(f"{PLAIN}/x:one", **keys), key="a/b:1") == options


@pytest.mark.parametrize(
    ("keys", "defaults", "options"),
    [
        ({"platforms": "linux/amd64"}, {"platforms": "linux/arm64/v8"}, CopyOptions((AMD,))),
        ({"platforms": "*/*"}, {"platforms": "linux/arm64/v8"}, VERBATIM),
        ({"attestations": "auto"}, {"attestations": "strip"}, VERBATIM),
        ({"signatures": False}, {"signatures": True}, CopyOptions(signatures=False)),
        ({"signatures": "auto"}, {"signatures": True}, VERBATIM),
        (
            {"attestations": "fail"},
            {"platforms": "linux/amd64", "signatures": True},
            CopyOptions((AMD,), Attestations.FAIL, signatures=True),
        ),
    ],
)
def test_a_destination_wins_over_the_defaults_key_by_key(
    keys: dict[str, Any], defaults: dict[str, Any], options: CopyOptions
) -> None:
    assert options_of(item(**keys), **defaults) == options


def test_every_destination_of_an_item_and_every_item_has_its_own() -> None:
    value = [{"to": [f"{PLAIN}/x", f"{ACR}/n/x"], "platforms": "linux/amd64"}, f"{PLAIN}/y"]
    requests = rules_of({f"{HARBOR}/a/b": value}).destinations(Reference.parse(f"{HARBOR}/a/b:1"))
    assert [request.options for request in requests] == [
        CopyOptions((AMD,)),
        CopyOptions((AMD,), Attestations.STRIP_REFUSED),
        VERBATIM,
    ]


@pytest.mark.parametrize(
    ("to", "said", "meant"),
    [
        (f"{ACR}/n/x", "auto", Attestations.STRIP_REFUSED),
        ("crpi-a.cn-beijing.personal.cr.aliyuncs.com/n/x", "auto", Attestations.STRIP_REFUSED),
        (f"{PLAIN}/n/x", "auto", Attestations.KEEP),
        (f"{ACR}/n/x", "keep", Attestations.KEEP),
        (f"{ACR}/n/x", "strip", Attestations.STRIP),
        (f"{ACR}/n/x", "fail", Attestations.FAIL),
    ],
)
def test_auto_leaves_out_what_is_refused_at_acr_and_keeps_all_elsewhere(
    to: str, said: str, meant: Attestations
) -> None:
    auth = {host: {"anonymous": True} for host in (HARBOR, to.partition("/")[0])}
    rules = rules_of({f"{HARBOR}/a/b": item(to, attestations=said)}, auth=auth)
    assert request_of(rules).options.attestations is meant
    if said == "auto":
        assert request_of(rules_of({f"{HARBOR}/a/b": to}, auth=auth)).options.attestations is meant
        assert automatic_attestations(to.partition("/")[0]) is meant


@pytest.mark.parametrize(
    ("keys", "wrong"),
    [
        ({"platform": "linux/amd64"}, ".platform: unknown key; did you mean platforms?"),
        ({"platforms": []}, '.platforms: is empty; remove it, or write "*/*" for all'),
        ({"platforms": ["linux/amd64", "arm64"]}, ".platforms[1]: 'arm64' is not a platform: write os/architecture"),
        ({"platforms": "linux/amd64,linux/arm64"}, ".platforms: 'linux/amd64,linux/arm64' is not a platform"),
        ({"platforms": {"linux": "amd64"}}, ".platforms: must be a string, not a mapping"),
        ({"platforms": None}, ".platforms: must be a string, not nothing"),
        (
            {"platforms": ["linux/amd64", "linux/x86_64"]},
            ".platforms[1]: duplicate platform linux/amd64; remove one",
        ),
        ({"attestations": "stirp"}, ".attestations: 'stirp' is unknown; did you mean strip?"),
        ({"attestations": "strip refused"}, ".attestations: 'strip refused' is unknown; expected one of auto,"),
        ({"attestations": "x"}, "expected one of auto, keep, strip, fail"),
        ({"attestations": False}, ".attestations: must be one of auto, keep, strip, fail, not true or false"),
        ({"attestations": ["keep"]}, ".attestations: must be one of auto, keep, strip, fail, not a list"),
        ({"signatures": "true"}, ".signatures: must be true, false or auto, without quotes"),
        ({"signature": True}, ".signature: unknown key; did you mean signatures?"),
    ],
)
def test_an_invalid_value_is_reported_with_its_path(keys: dict[str, Any], wrong: str) -> None:
    message = message_of({f"{HARBOR}/a/b": item(**keys)})
    assert message.startswith(f'images["{HARBOR}/a/b"]')
    assert wrong in message
    if "unknown key" not in wrong:
        message = message_of({f"{HARBOR}/a/b": f"{PLAIN}/x"}, defaults=DEFAULTS | keys)
        assert message.startswith("defaults.")
        assert wrong in message


def test_all_mistakes_are_reported_at_once() -> None:
    keys = {"platforms": ["x", "y"], "attestations": "no", "signatures": "no", "tags": {"latest": 0}}
    problems = problems_of({f"{HARBOR}/a/b": item("nowhere", **keys)}, defaults=DEFAULTS | {"platforms": "z"})
    assert [problem.path.removeprefix(f'images["{HARBOR}/a/b"]') for problem in problems] == [
        "defaults.platforms",
        ".tags.latest",
        ".platforms[0]",
        ".platforms[1]",
        ".attestations",
        ".signatures",
        ".to",
    ]


@pytest.mark.parametrize(
    ("platforms", "doubt"),
    [
        (["linux/s390"], "[0]: s390 is an unknown architecture; did you mean s390x?"),
        (["linus/amd64"], "[0]: linus is an unknown operating system; did you mean linux?"),
        (["linux/arm64/v8", "linux/arm64"], "[1]: linux/arm64 includes linux/arm64/v8; remove one of them"),
        (["linux/arm", "linux/arm/v6"], "[1]: linux/arm includes linux/arm/v6; remove one of them"),
        (["linux/*", "linux/arm64"], "[1]: linux/* includes linux/arm64; remove one of them"),
    ],
)
def test_a_dubious_platform_is_a_warning(platforms: list[str], doubt: str) -> None:
    (warning,) = rules_of({f"{HARBOR}/a/b": item(platforms=platforms)}).warnings[:-1]
    assert str(warning) == f'images["{HARBOR}/a/b"].platforms{doubt}'


@pytest.mark.parametrize("platforms", [["linux/amd64", "linux/arm64"], ["linux/arm/v6", "linux/arm/v7"], ["*/amd64"]])
def test_sensible_platforms_are_no_warning(platforms: list[str]) -> None:
    assert len(rules_of({f"{HARBOR}/a/b": item(platforms=platforms)}).warnings) == 1


def test_the_command_line_wins_over_default_platforms_and_not_over_those_of_a_rule() -> None:
    images = {f"{HARBOR}/a/b": [item(platforms="linux/amd64"), f"{PLAIN}/y"]}
    text = text_of(images, defaults=DEFAULTS | {"platforms": "linux/s390x", "signatures": True})
    rules = parse(text, "x", environ={}, platforms=(Platform("linux", "*"),))
    requests = rules.destinations(Reference.parse(f"{HARBOR}/a/b:1"))
    assert [request.options for request in requests] == [
        CopyOptions((AMD,), signatures=True),
        CopyOptions((Platform("linux", "*"),), signatures=True),
    ]


@pytest.mark.parametrize("keys", [{"platforms": "linux/amd64"}, {"attestations": "strip"}])
def test_less_than_the_whole_can_not_go_by_the_digest_of_the_whole(keys: dict[str, str]) -> None:
    pinned = f"{HARBOR}/a/b@{SHA}"
    assert "append a tag to the destination" in message_of({pinned: item(**keys)})
    assert options_of(item(f"{PLAIN}/x:1", **keys), f"a/b@{SHA}", f"a/b@{SHA}") != VERBATIM
    assert options_of(f"{PLAIN}/x", f"a/b@{SHA}", f"a/b@{SHA}", **keys) == VERBATIM
    assert options_of(f"{PLAIN}/x:1", f"a/b@{SHA}", f"a/b@{SHA}", **keys) != VERBATIM


def test_what_goes_by_its_digest_keeps_its_bytes_at_acr_too() -> None:
    by_digest = options_of(item(f"{ACR}/n/x", signatures=True), f"a/b@{SHA}", f"a/b@{SHA}")
    assert by_digest == CopyOptions(signatures=True)
    failing = options_of(item(f"{ACR}/n/x", attestations="fail"), f"a/b@{SHA}", f"a/b@{SHA}")
    assert failing == CopyOptions(attestations=Attestations.FAIL)
    assert options_of(f"{ACR}/n/x:1", f"a/b@{SHA}", f"a/b@{SHA}").attestations is Attestations.STRIP_REFUSED


def test_the_same_copy_of_several_rules_has_what_each_of_them_wants() -> None:
    items = [
        item(platforms="linux/amd64", attestations="strip"),
        item(platforms="linux/arm64/v8", tags={"latest": 1}),
        item(platforms="linux/amd64", signatures=True, attestations="fail"),
    ]
    for order in itertools.permutations(items):
        rules = rules_of({f"{HARBOR}/a/b": list(order)})
        request = request_of(rules, "a/b:1")
        assert request.options == CopyOptions((AMD, ARM), Attestations.FAIL, signatures=True)
        assert request.selection is None


def test_a_backfill_wants_the_same_of_a_tag_that_one_rule_has_no_longer_among_its_latest() -> None:
    items = [item(platforms="linux/amd64", tags={"latest": 1}), item(platforms="linux/arm64/v8")]
    rules = rules_of({f"{HARBOR}/a/b": items})
    requests = rules.requests(Repository(HARBOR, "a/b"), ["1", "2"])
    assert {(str(request.source.tag), request.options) for request in requests} == {
        (tag, request_of(rules, f"a/b:{tag}").options) for tag in ("1", "2")
    }


@pytest.mark.parametrize(
    ("value", "defaults", "overwrite"),
    [
        (item(), {}, Overwrite.ALWAYS),
        (item(), {"overwrite": "never"}, Overwrite.NEVER),
        (item(overwrite="ours"), {"overwrite": "never"}, Overwrite.OURS),
        (item(overwrite="always"), {"overwrite": "never"}, Overwrite.ALWAYS),
    ],
)
def test_a_rule_says_what_may_be_replaced_and_the_defaults_where_it_does_not(
    value: dict[str, Any], defaults: dict[str, str], overwrite: Overwrite
) -> None:
    request = request_of(rules_of({f"{HARBOR}/a/b": value}, defaults=DEFAULTS | defaults))
    assert request.overwrite is overwrite
    stored = request.to_json()
    assert ("overwrite" in stored) is (overwrite is not Overwrite.ALWAYS)
    assert CopyRequest.from_json(stored) == request


def test_of_several_rules_for_one_copy_the_one_counts_that_replaces_least() -> None:
    for order in itertools.permutations([item(overwrite="ours"), item(), item(overwrite="never")]):
        assert request_of(rules_of({f"{HARBOR}/a/b": list(order)})).overwrite is Overwrite.NEVER


def test_rules_without_overwrite_have_the_digest_that_they_always_had() -> None:
    plain, default, other = (
        rules_of({f"{HARBOR}/a/b": value}).digest
        for value in (item(), item(overwrite="always"), item(overwrite="ours"))
    )
    assert plain == default != other


def test_a_mistake_in_overwrite_is_told_with_the_word_that_was_meant() -> None:
    assert "did you mean never?" in message_of({f"{HARBOR}/a/b": item(overwrite="neve")})


@pytest.mark.parametrize("word", Public)
def test_a_destination_and_the_defaults_say_what_becomes_of_a_private_image_in_public(word: Public) -> None:
    other = "allow" if word is Public.REFUSE else "refuse"
    assert options_of(item()).public is None
    assert options_of(item(public=word.value)).public is word
    assert options_of(f"{PLAIN}/x", public=word.value).public is word
    assert options_of(item(public=word.value), public=other).public is word
    # Under its digest too, where no part may be left out.
    assert options_of(item(public=word.value), f"a/b@{SHA}", f"a/b@{SHA}").public is word
    assert CopyOptions.from_json(CopyOptions(public=word).to_json()).public is word


def test_of_two_rules_for_one_copy_the_stricter_word_on_public_destinations_counts() -> None:
    options = [CopyOptions(public=word) for word in (Public.REFUSE, None, Public.ALLOW)]
    for (place, one), (other_place, other) in itertools.product(enumerate(options), repeat=2):
        assert one.merged_with(other).public is options[min(place, other_place)].public


def test_rules_allow_public_copies_only_where_all_of_them_do() -> None:
    source, destination = Repository(HARBOR, "a/b"), Repository(PLAIN, "x")
    allowing, silent = item(public="allow"), item(tags={"include": "v*"})
    assert rules_of({f"{HARBOR}/a/b": allowing}).allows_public(source, destination)
    assert not rules_of({f"{HARBOR}/a/b": [allowing, silent]}).allows_public(source, destination)
    assert not rules_of({f"{HARBOR}/a/b": allowing}).allows_public(source, Repository(PLAIN, "y"))
    assert not rules_of({f"{HARBOR}/a/c": allowing}).allows_public(source, destination)


@pytest.mark.parametrize("value", ["yes", True, ["allow"], None])
def test_public_is_allow_or_refuse(value: Any) -> None:
    assert problems_of(text_of({f"{HARBOR}/a/b": item(public=value)}))
