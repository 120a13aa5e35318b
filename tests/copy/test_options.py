"""Copy options: platforms, how options are merged, and how they are queued."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.copy import Outcome, Result
from replicator.copy.options import VERBATIM, Attestations, CopyOptions
from replicator.reference import Platform, is_signature_tag, is_tag

HEX = "0123456789abcdef" * 4
SYSTEMS = st.sampled_from(["linux", "windows", "*"])
ARCHITECTURES = st.sampled_from(["amd64", "arm64", "arm", "s390x", "*"])
VARIANTS = st.sampled_from(["", "v1", "v6", "v7", "v8", "v9"])
PLATFORMS = st.builds(Platform, SYSTEMS, ARCHITECTURES, VARIANTS)
IMAGES = PLATFORMS.filter(lambda platform: "*" not in (platform.os, platform.architecture))
OPTIONS = st.builds(
    CopyOptions,
    st.lists(PLATFORMS, max_size=4).map(tuple),
    st.sampled_from(Attestations),
    st.booleans(),
    refused=st.sampled_from(["skip", "fail"]),
    types=st.lists(st.sampled_from(["image", "chart", "application/vnd.example+json"])).map(tuple),
)


def platform(text: str) -> Platform:
    return Platform.parse(text)


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("linux/amd64", Platform("linux", "amd64")),
        ("linux/arm64/v8", Platform("linux", "arm64", "v8")),
        (" Linux/AMD64 ", Platform("linux", "amd64")),
        ("linux/x86_64", Platform("linux", "amd64")),
        ("linux/x86-64", Platform("linux", "amd64")),
        ("linux/i386", Platform("linux", "386")),
        ("linux/aarch64", Platform("linux", "arm64")),
        ("linux/armhf", Platform("linux", "arm", "v7")),
        ("linux/armel", Platform("linux", "arm", "v6")),
        ("linux/armhf/v6", Platform("linux", "arm", "v6")),
        ("linux/*", Platform("linux", "*")),
        ("*/arm64/v8", Platform("*", "arm64", "v8")),
    ],
)
def test_a_platform_is_parsed_by_any_of_its_names(text: str, means: Platform) -> None:
    assert platform(text) == means


@pytest.mark.parametrize(
    "text",
    ["", "amd64", "linux/", "/amd64", "linux/amd64/v1/x", "linux/amd64/*", "linux/a b", "lin*/amd64", "a" * 10_000],
)
def test_a_text_that_is_not_a_platform_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"write os/architecture, e\.g\. linux/amd64") as caught:
        platform(text)
    assert len(str(caught.value)) < 250


@given(PLATFORMS)
def test_a_platform_survives_a_round_trip_through_text(value: Platform) -> None:
    assert platform(str(value)) == value


@given(st.text() | st.from_regex(r"[a-z0-9*_-]{1,5}/[a-z0-9*_-]{1,6}(/[a-z0-9*]{1,3})?", fullmatch=True))
def test_any_text_is_a_platform_or_refused(text: str) -> None:
    try:
        value = platform(text)
    except ValueError:
        return
    assert platform(str(value)) == value


@pytest.mark.parametrize(
    ("wish", "taken", "left"),
    [
        ("linux/amd64", ["linux/amd64", "linux/amd64/v3", "linux/x86_64"], ["linux/arm64", "windows/amd64"]),
        ("linux/arm64", ["linux/arm64", "linux/arm64/v8", "linux/arm64/v9", "linux/aarch64"], ["linux/arm/v8"]),
        ("linux/arm64/v8", ["linux/arm64", "linux/arm64/v8", "linux/arm64/8"], ["linux/arm64/v9", "linux/arm/v8"]),
        ("linux/arm", ["linux/arm", "linux/arm/v6", "linux/arm/v7"], ["linux/arm64"]),
        ("linux/arm/v7", ["linux/arm", "linux/arm/v7", "linux/arm/7", "linux/armhf"], ["linux/arm/v6", "linux/armel"]),
        ("linux/amd64/v1", ["linux/amd64", "linux/amd64/v1"], ["linux/amd64/v3"]),
        ("linux/*", ["linux/amd64", "linux/arm/v6"], ["windows/amd64"]),
        ("*/arm64/v8", ["linux/arm64", "windows/arm64/v8"], ["linux/amd64", "windows/arm64/v9"]),
        ("*/*", ["linux/amd64", "windows/arm64/v8"], []),
    ],
)
def test_a_pattern_without_a_variant_matches_any_variant(wish: str, taken: list[str], left: list[str]) -> None:
    assert [text for text in [*taken, *left] if platform(wish).matches(platform(text))] == taken


def test_the_spelling_of_an_image_s_platform_does_not_matter() -> None:
    assert platform("linux/arm64/v8").matches(Platform("Linux", "AARCH64", "V8"))
    assert platform("linux/arm/v7").matches(Platform("linux", "armhf"))


@given(IMAGES)
def test_every_platform_matches_itself_and_wider_patterns(value: Platform) -> None:
    wider = [value, Platform(value.os, value.architecture), Platform("*", value.architecture), Platform("*", "*")]
    assert all(wish.matches(value) for wish in wider)


@given(PLATFORMS, IMAGES)
def test_a_pattern_without_a_variant_is_wider_than_one_with_it(wish: Platform, value: Platform) -> None:
    assert not wish.matches(value) or Platform(wish.os, wish.architecture).matches(value)


def test_equal_options_are_equal_values_in_any_order() -> None:
    one, other = platform("linux/amd64"), platform("linux/arm64")
    assert CopyOptions((one, other, one)) == CopyOptions((other, one))
    assert CopyOptions((one, platform("*/*"))) == VERBATIM
    assert CopyOptions((platform("*/*"),)).is_verbatim


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("linux/amd64", "linux/arm64", "linux/amd64 linux/arm64"),
        ("linux/amd64 linux/arm64", "linux/arm64", "linux/amd64 linux/arm64"),
        ("linux/amd64", "", ""),
        ("", "", ""),
    ],
)
def test_merging_unites_platforms(one: str, other: str, both: str) -> None:
    options = [CopyOptions(tuple(map(platform, text.split()))) for text in (one, other, both)]
    assert options[0].merged_with(options[1]) == options[1].merged_with(options[0]) == options[2]


@pytest.mark.parametrize(
    ("weaker", "stronger"),
    [
        (Attestations.STRIP, Attestations.STRIP_REFUSED),
        (Attestations.STRIP_REFUSED, Attestations.KEEP),
        (Attestations.KEEP, Attestations.FAIL),
    ],
)
def test_merging_keeps_the_attestations_that_either_wants(weaker: Attestations, stronger: Attestations) -> None:
    one, other = CopyOptions(attestations=weaker), CopyOptions(attestations=stronger)
    assert one.merged_with(other) == other.merged_with(one) == other


def test_signatures_are_copied_if_one_wants_them() -> None:
    assert VERBATIM.merged_with(CopyOptions(signatures=True)).signatures
    assert not VERBATIM.merged_with(VERBATIM).signatures


@given(OPTIONS, OPTIONS, OPTIONS)
def test_merging_is_associative_commutative_and_idempotent(
    one: CopyOptions, other: CopyOptions, third: CopyOptions
) -> None:
    assert one.merged_with(other).merged_with(third) == one.merged_with(other.merged_with(third))
    assert one.merged_with(other) == other.merged_with(one)
    assert one.merged_with(one) == one


@given(OPTIONS)
def test_options_survive_the_queue(options: CopyOptions) -> None:
    assert CopyOptions.from_json(json.loads(json.dumps(options.to_json()))) == options


def test_defaults_take_no_room_on_the_queue() -> None:
    assert VERBATIM.to_json() == {}
    assert CopyOptions.from_json({}) == VERBATIM


@pytest.mark.parametrize(
    "values", [None, [], {"platforms": 5}, {"platforms": ["amd64"]}, {"platforms": [5]}, {"attestations": "auto"}]
)
def test_invalid_stored_options_are_an_error(values: Any) -> None:
    with pytest.raises((ValueError, TypeError, AttributeError)):
        CopyOptions.from_json(values)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (VERBATIM, "everything, byte for byte"),
        (CopyOptions((platform("linux/arm64/v8"), platform("linux/amd64"))), "only linux/amd64, linux/arm64/v8"),
        (CopyOptions(attestations=Attestations.STRIP), "attestations are left out"),
        (CopyOptions(attestations=Attestations.FAIL), "an image with attestations is not copied"),
        (
            CopyOptions((platform("linux/amd64"),), Attestations.STRIP_REFUSED, signatures=True),
            "only linux/amd64; attestations that the registry refuses are left out; with signatures",
        ),
    ],
)
def test_options_say_in_words_what_is_copied(options: CopyOptions, words: str) -> None:
    assert str(options) == words


@pytest.mark.parametrize(
    ("tag", "is_one"),
    [
        (f"sha256-{HEX}", True),
        (f"sha256-{HEX}.sig", True),
        (f"sha256-{HEX}.att", True),
        (f"sha256-{HEX}.sbom", True),
        (f"sha512-{HEX}", True),
        (f"sha256-{HEX}.sig.sig", False),
        (f"sha256-{HEX}.txt", False),
        (f"sha256-{HEX[1:]}", False),
        (f"sha256-{HEX}\n", False),
        (f"sha256-{HEX.upper()}", False),
        (f"sha1-{HEX}", False),
        (f"x-sha256-{HEX}", False),
        ("latest", False),
    ],
)
def test_signature_tags_are_recognized_by_their_form(tag: str, is_one: bool) -> None:
    assert is_signature_tag(tag) == is_one
    assert is_tag(tag) or not is_one


@pytest.mark.parametrize("warnings", [(), ("a signature was refused", "another too")])
def test_warnings_of_a_copy_survive_the_queue(warnings: tuple[str, ...]) -> None:
    outcome = Outcome(Result.COPIED, "a", "b", warnings=warnings)
    assert Outcome.from_json(json.loads(json.dumps(outcome.to_json()))) == outcome
    assert ("warnings" in outcome.to_json()) == bool(warnings)
