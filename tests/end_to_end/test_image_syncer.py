"""All forms of image-syncer's files and command line, and the state of the destination afterwards."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.end_to_end.image_syncer import SEED_COMMAND, site
from tests.standins.distribution import storage_of
from tests.standins.images import Image, Index, blobs_of, fetch_raw, image, multi_arch, push, verify_tree
from tests.standins.logins import ACR_USER, HARBOR_ADMIN

if TYPE_CHECKING:
    from pathlib import Path

    from tests.running import Ended

IMAGES: dict[str, Image | Index] = {
    "1.0": image(1, (500,)),
    "1.1": image(2, (500,), docker=True),
    "2.1-rc": multi_arch(3, size=500),
    "latest": multi_arch(4, docker=True, size=500),
}
"""What is in every repository of the source."""
ALL = {tag: tag for tag in IMAGES}
PICKED = IMAGES["2.1-rc"].digest


@dataclass(frozen=True)
class Form:
    """A row of ``images``.

    Attributes:
        source: behind the source's host.
        destination: as it is written; ``NAMESPACE`` is another one for each kind of files.
        expected: the tags at each repository there, with the tag of the source whose image they name.
        digests: what is there by digest, without a tag.
    """

    source: str
    destination: str | list[str]
    expected: dict[str, dict[str, str]]
    digests: tuple[str, ...] = ()


FORMS = {
    "every tag to the default place": Form("library/nginx", "", {"nginx": ALL}),
    "one tag to the default place": Form("library/one:1.1", "", {"one": {"1.1": "1.1"}}),
    "tags to the default place": Form("library/few:1.0,latest", "", {"few": {"1.0": "1.0", "latest": "latest"}}),
    "every tag": Form("library/every", "ACR/${TEAM}/each", {"each": ALL}),
    "every tag of a nested repository": Form("team/app/api", "ACR/NAMESPACE/app-api", {"app-api": ALL}),
    "tags": Form("library/tags:1.0,2.1-rc", "ACR/NAMESPACE/tags", {"tags": {"1.0": "1.0", "2.1-rc": "2.1-rc"}}),
    "a digest": Form(f"library/digest@{PICKED}", f"ACR/NAMESPACE/digest@{PICKED}", {"digest": {}}, (PICKED,)),
    "a digest under a tag": Form(
        f"library/pinned@{PICKED}", "ACR/NAMESPACE/pinned:stable", {"pinned": {"stable": "2.1-rc"}}
    ),
    "an expression is found anywhere": Form(
        "library/found:/1/", "ACR/NAMESPACE/found", {"found": {tag: tag for tag in ("1.0", "1.1", "2.1-rc")}}
    ),
    "an anchored expression": Form(
        r"library/anchored:/^1\.\d$/", "ACR/NAMESPACE/anchored", {"anchored": {"1.0": "1.0", "1.1": "1.1"}}
    ),
    "pairs of tags": Form(
        "library/pairs:1.0,1.1", "ACR/NAMESPACE/pairs:old,new", {"pairs": {"old": "1.0", "new": "1.1"}}
    ),
    "pairs that change places": Form(
        "library/crossed:1.0,1.1", "ACR/NAMESPACE/crossed:1.1,1.0", {"crossed": {"1.1": "1.0", "1.0": "1.1"}}
    ),
    "a list of one": Form("library/single:latest", [""], {"single": {"latest": "latest"}}),
    "a list of every form": Form(
        "library/several:1.0,1.1",
        ["", "ACR/NAMESPACE/more", "ACR/NAMESPACE/renamed:a,b"],
        {
            "several": {"1.0": "1.0", "1.1": "1.1"},
            "more": {"1.0": "1.0", "1.1": "1.1"},
            "renamed": {"a": "1.0", "b": "1.1"},
        },
    ),
}


@dataclass(frozen=True)
class Kind:
    """How the rules are written down, and how a command line names them.

    Attributes:
        files: the files, each with the section that it is; with none it is all.
        options: that stand in for the seed's ``--config``.
        listed: the form of ``--output-success-images``, which is YAML where nothing is said.
        forms: those that are in the rules.
    """

    files: dict[str, str]
    options: str
    listed: str = ""
    forms: tuple[str, ...] = ("one tag to the default place", "a digest under a tag", "a list of every form")


KINDS = {
    "json": Kind({"harbor-to-acr.json": ""}, "--config=./harbor-to-acr.json", forms=tuple(FORMS)),
    "yaml": Kind({"rules.yaml": ""}, "--config=./rules.yaml", "yaml"),
    "two-json": Kind({"auth.json": "auth", "images.json": "images"}, "--auth=./auth.json --images images.json", "json"),
    "two-yaml": Kind(
        {"auth.yaml": "auth", "images.yaml": "images"}, "--auth auth.yaml --images=images.yaml --records=r"
    ),
}


@dataclass(frozen=True)
class Done:
    """What a backfill of all forms came to.

    Attributes:
        ended: its end.
        held: all that the destination holds, of all kinds: ``repository:tag``, or ``repository@digest`` where that
            was asked for, with the digest.
        log: what it wrote to its log.
        listed: the images that it lists as being in place.
        harbor: the source's host.
        acr: the destination's.
        leaks: requests with credentials that were not for their receiver.
    """

    ended: Ended
    held: dict[str, str]
    log: str
    listed: dict[str, list[str]]
    harbor: str
    acr: str
    leaks: list[Any]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Done]:
    """All forms by each kind of files; one backfill a kind."""
    return asyncio.run(_done(tmp_path_factory.mktemp("forms")))


async def _done(directory: Path) -> dict[str, Done]:
    async with site(directory, namespaces=KINDS) as here:
        names = {form.source.partition("@")[0].partition(":")[0] for form in FORMS.values()}
        await asyncio.gather(
            *(push(here.behind_harbor, name, tag, root) for name in names for tag, root in IMAGES.items())
        )
        ended = {}
        for name, kind in KINDS.items():
            text = json.dumps({f"HARBOR/{FORMS[form].source}": FORMS[form].destination for form in kind.forms})
            rules = {"auth": here.auth(), "images": json.loads(text.replace("NAMESPACE", name))}
            for file, section in kind.files.items():
                here.write(f"{name}/{file}", rules[section] if section else rules)
            command = SEED_COMMAND.replace("--config=./harbor-to-acr.json", kind.options).replace("image-syncer", name)
            output = f"--output-images-format={kind.listed}" if kind.listed else ""
            ended[name] = await here.backfill(f"{command} --output-success-images=good {output}", name, TEAM=name)
        held = await here.held()
        storage = storage_of(here.behind_acr)
        assert storage is not None
        if picked := storage.digest("json/digest", PICKED):
            held[f"json/digest@{PICKED}"] = picked
        return {
            name: Done(
                ended[name],
                held,
                (directory / name / "log").read_text(),
                (json.loads if kind.listed == "json" else yaml.safe_load)((directory / name / "good").read_text()),
                here.harbor.host,
                here.acr.host,
                [*here.harbor.leaks, *here.acr.leaks],
            )
            for name, kind in KINDS.items()
        }


@pytest.mark.parametrize(("kind", "form"), [(name, form) for name, kind in KINDS.items() for form in kind.forms])
def test_every_form_brings_these_tags_equal_to_the_byte_and_no_others(
    done: dict[str, Done], kind: str, form: str
) -> None:
    run, row = done[kind], FORMS[form]
    for repository, tags in row.expected.items():
        found = {
            reference.removeprefix(f"{kind}/{repository}:"): digest
            for reference, digest in run.held.items()
            if reference.startswith(f"{kind}/{repository}:")
        }
        assert found == {tag: IMAGES[source].digest for tag, source in tags.items()}, run.ended.said
        for digest in row.digests:
            assert run.held[f"{kind}/{repository}@{digest}"] == digest


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_files_ends_well_and_brings_nothing_else(done: dict[str, Done], kind: str) -> None:
    run = done[kind]
    assert run.ended.code == 0, run.ended.said
    assert "Warning" not in run.ended.out
    assert ("--records" in run.log) is (kind == "two-yaml")
    repositories = {name for form in KINDS[kind].forms for name in FORMS[form].expected}
    others = KINDS.keys() - {kind}
    own = [reference for reference in run.held if reference.partition("/")[0] not in others]
    found = {reference.rpartition("/")[2].partition(":")[0].partition("@")[0] for reference in own}
    assert found == repositories
    assert run.leaks == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_files_leaves_a_log_and_a_list_of_what_is_in_place(done: dict[str, Done], kind: str) -> None:
    run = done[kind]
    wanted: dict[str, set[str]] = {}
    for form in map(FORMS.__getitem__, KINDS[kind].forms):
        source = f"{run.harbor}/{form.source.partition('@')[0].partition(':')[0]}"
        for repository, tags in form.expected.items():
            there = f"{run.acr}/{kind}/{repository}"
            if "@" in form.source:
                # Such a list can be given back as ``images``, where a destination has no digest.
                wanted[f"{source}@{PICKED}"] = {f"{there}:{tag}" for tag in tags} or {there}
            for tag, named in tags.items() if "@" not in form.source else ():
                wanted.setdefault(f"{source}:{named}", set()).add(f"{there}:{tag}")
    assert {name: set(places) for name, places in run.listed.items()} == wanted
    assert run.log.count('"event": "copy done"') == sum(map(len, wanted.values()))
    assert HARBOR_ADMIN[1] not in run.log + run.ended.said
    assert ACR_USER[1] not in run.log + run.ended.said


PLATFORMS: dict[str, tuple[str, set[str], set[str]]] = {
    "os and arch": ("--os=linux --arch=amd64", {"amd64"}, {"single", "multi"}),
    "arch alone": ("--arch arm64", {"arm64"}, {"multi"}),
    "lists": ("--os linux,windows --arch=amd64,arm64", {"amd64", "arm64"}, {"single", "multi"}),
    "nothing fits": ("--os=windows", set(), set()),
}
"""Options, with the architectures that are left of an image for two, and the tags that are there."""


async def test_os_and_arch_leave_the_images_for_these_and_other_tags_their_bytes(tmp_path: Path) -> None:
    roots: dict[str, Image | Index] = {"single": image(1), "multi": multi_arch(2)}
    names = [name.replace(" ", "-") for name in PLATFORMS]
    async with site(tmp_path, namespaces=names) as here:
        for tag, root in roots.items():
            await push(here.behind_harbor, "library/app", tag, root)
        here.write("harbor-to-acr.json", {"auth": here.auth(), "images": {"HARBOR/library/app": ""}})
        for name, (options, architectures, tags) in zip(names, PLATFORMS.values(), strict=True):
            command = SEED_COMMAND.replace("image-syncer", name).replace("./log", f"./{name}.log")
            ended = await here.backfill(f"{command} {options}")
            assert ended.code == 0, ended.said
            held = {key.partition(":")[2]: value for key, value in (await here.held()).items() if f"{name}/" in key}
            assert set(held) == tags, name
            if "single" in tags:
                await verify_tree(here.behind_acr, f"{name}/app", "single", roots["single"])
            if "multi" in tags:
                content, _ = await fetch_raw(here.behind_acr, f"{name}/app", "multi")
                left = {child["platform"]["architecture"] for child in json.loads(content)["manifests"]}
                assert left == architectures, name
                assert (held["multi"] == roots["multi"].digest) is (len(architectures) == 2), name


async def test_forced_it_writes_what_is_there_again_and_sends_no_blob_twice(tmp_path: Path) -> None:
    root = image(1)
    async with site(tmp_path) as here:
        await push(here.behind_harbor, "library/nginx", "1.27", root)
        here.write("harbor-to-acr.json", {"auth": here.auth(), "images": {"HARBOR/library/nginx": ""}})
        for options, written in ("", 1), ("", 1), ("--force", 2):
            ended = await here.backfill(f"{SEED_COMMAND} {options}")
            assert ended.code == 0, ended.said
            assert here.acr.faults.log.count("PUT", "/nginx/manifests/1.27", 201) == written
        assert here.acr.faults.log.count("PUT", "/blobs/", 201) == len(blobs_of(root))
