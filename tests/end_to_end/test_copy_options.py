"""``replicator copy`` with a selection or with signatures: its output and exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.conftest import PUBLIC_NAME
from tests.running import Ended, replicator
from tests.standins.images import attestation, cosign_tag, fetch_raw, image, index, push, referrer, verify_tree
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from tests.end_to_end.conftest import House
    from tests.standins.images import Image, Index

AMD64, ARM64 = image(1), image(2, architecture="arm64")
KEPT, REFUSED = attestation(AMD64, 1), attestation(ARM64, 2, empty_config=True)
BUILT = index([AMD64, ARM64, KEPT, REFUSED])
LESS = "1 of 2 images left out, as only linux/amd64 is wanted"


async def copy(house: House, *arguments: str, to: str = ":v1", host: str | None = None) -> Ended:
    name = "ALIYUN" if host == PUBLIC_NAME else "ACR"
    rules = house.rules({"HARBOR/library/app": f"{name}/cache/app"})
    source, destination = f"{house.harbor.host}/library/app:v1", f"{host or house.acr.host}/cache/app{to}"
    ended = await replicator("copy", source, destination, "--config", rules, *arguments, cwd=house.directory)
    assert "Traceback" not in ended.said
    return ended


async def pushed(house: House, name: str, root: Image | Index) -> None:
    await push(house.harbor.host, "library/app", name, root, HARBOR_ROBOT)


@pytest.mark.parametrize(
    ("arguments", "expected", "note"),
    [
        (["--platform", "linux/amd64"], index([AMD64, KEPT]), LESS),
        (
            ["--platform=linux/amd64", "--platform=linux/arm64", "--attestations=strip"],
            index([AMD64, ARM64]),
            "2 attestations left out",
        ),
        (["--platform=linux/x86_64", "--attestations", "strip"], index([AMD64]), f"{LESS}; 1 attestation left out"),
        (["--attestations", "strip"], index([AMD64, ARM64]), "2 attestations left out"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
async def test_less_of_an_image_is_copied_and_what_was_left_out_is_told(
    house: House, arguments: list[str], expected: Index, note: str
) -> None:
    await pushed(house, "v1", BUILT)
    ended = await copy(house, *arguments)
    assert ended.code == 0, ended.said
    assert ended.out.startswith("copied ")
    assert ended.out.endswith(f"; {note}\n")
    assert expected.digest in ended.out
    await verify_tree(house.behind_acr, "cache/app", "v1", expected)
    again = await copy(house, *arguments)
    assert (again.code, again.out) == (
        0,
        f"up to date: {house.acr.host}/cache/app:v1 is {expected.digest}; {note}\n",
    )


async def test_an_image_for_another_platform_is_skipped_with_the_reason(house: House) -> None:
    await pushed(house, "v1", ARM64)
    ended = await copy(house, "--platform", "linux/amd64")
    reason = "its platform is linux/arm64, not linux/amd64"
    assert (ended.code, ended.out) == (1, f"skipped: {house.harbor.host}/library/app:v1: {reason}\n")
    assert house.acr.faults.log.count("PUT") == house.acr.faults.log.count("POST") == 0


async def test_what_acr_refuses_is_left_out_unless_it_is_to_be_kept(house: House) -> None:
    await pushed(house, "v1", BUILT)
    kept = await copy(house, "--attestations", "keep", host=PUBLIC_NAME)
    assert kept.code == 1
    assert "unknown manifest class" in kept.err
    assert "attestations: strip in the rule" in kept.err
    failed = await copy(house, "--attestations", "fail", host=PUBLIC_NAME)
    assert failed.code == 1
    assert "the image has attestations" in failed.err
    ended = await copy(house, host=PUBLIC_NAME)
    assert ended.code == 0, ended.said
    assert ended.out.endswith("; 1 attestation left out, which the registry refuses\n")
    await verify_tree(house.behind_acr, "cache/app", "v1", index([AMD64, ARM64, KEPT]))


async def test_signatures_are_copied_and_counted_and_refusals_are_warnings(house: House) -> None:
    root, signature = index([AMD64, ARM64]), image(50)
    listed, refused = referrer(root, 1, as_image=True), referrer(root, 2)
    for name, one in (("v1", root), (cosign_tag(root), signature), (listed.digest, listed), (refused.digest, refused)):
        await pushed(house, name, one)
    without = await copy(house)
    assert without.code == 0
    assert "signatures" not in without.out
    ended = await copy(house, "--signatures")
    assert ended.code == 0, ended.said
    sentence, *warnings = ended.out.splitlines()
    assert sentence == f"up to date: {house.acr.host}/cache/app:v1 is {root.digest}; signatures: 2"
    (warning,) = warnings
    assert warning.startswith(f"Warning: not copied: {refused.digest}")
    assert "unknown manifest class" in warning
    await verify_tree(house.behind_acr, "cache/app", cosign_tag(root), signature)
    await verify_tree(house.behind_acr, "cache/app", listed.digest, listed)


async def test_signatures_of_an_index_that_is_written_anew_are_told_not_to_hold(house: House) -> None:
    root = index([AMD64, ARM64])
    of_child = image(51)
    for name, one in (("v1", root), (cosign_tag(root), image(50)), (cosign_tag(AMD64), of_child)):
        await pushed(house, name, one)
    ended = await copy(house, "--signatures", "--platform", "linux/amd64")
    assert ended.code == 0, ended.said
    sentence, warning = ended.out.splitlines()
    assert sentence.endswith(f"; signatures: 1; {LESS}")
    assert warning.startswith(f"Warning: the signatures of {root.digest} are not copied, because they are not valid")
    await verify_tree(house.behind_acr, "cache/app", cosign_tag(AMD64), of_child)
    with pytest.raises(LookupError):
        await fetch_raw(house.behind_acr, "cache/app", cosign_tag(root))


@pytest.mark.parametrize(
    ("arguments", "to", "says"),
    [
        (
            ["--platform", "amd64"],
            ":v1",
            "--platform: 'amd64' is not a platform: write os/architecture, e.g. linux/amd64",
        ),
        (["--platform", ""], ":v1", "--platform: '' is not a platform: write os/architecture"),
        (["--platform", "linux/amd64,linux/arm64"], ":v1", "write os/architecture"),
        (["--platform", "linux/arm64/v8/x"], ":v1", "write os/architecture"),
        (["--attestations", "auto"], ":v1", "'keep', 'strip', 'fail'"),
        (["--attestations", ""], ":v1", "'keep', 'strip', 'fail'"),
        (["--signatures=yes"], ":v1", "--signatures"),
        (["--platform", "linux/amd64"], f"@{BUILT.digest}", "--platform: changes the image's digest"),
        (["--attestations", "strip"], f"@{BUILT.digest}", "--attestations: changes the image's digest"),
    ],
)
async def test_a_wrong_word_is_told_with_what_to_write_instead_and_nothing_is_asked(
    house: House, arguments: list[str], to: str, says: str
) -> None:
    ended = await copy(house, *arguments, to=to)
    assert ended.code == 2, ended.said
    assert says in ended.said
    assert len(house.harbor.faults.log) == len(house.acr.faults.log) == 0
