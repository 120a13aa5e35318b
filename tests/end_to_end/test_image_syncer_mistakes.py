"""Mistakes that image-syncer hides, or waits hours for, are reported at once."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from replicator.errors import ErrorText
from tests.end_to_end.image_syncer import SEED_COMMAND, Site, site
from tests.standins.faults import Answer, Fault
from tests.standins.images import Image, Index, image, multi_arch, push
from tests.standins.logins import ACR_USER, HARBOR_ADMIN

if TYPE_CHECKING:
    from pathlib import Path

    from tests.running import Ended

LOGIN = f'{{"username": "{HARBOR_ADMIN[0]}", "password": "{HARBOR_ADMIN[1]}", "insecure": true}}'
ACR_LOGIN = f'{{"username": "{ACR_USER[0]}", "password": "{ACR_USER[1]}", "insecure": true}}'
BOTH = f'"HARBOR": {LOGIN}, "ACR": {ACR_LOGIN}'
ROOTS: dict[str, Image | Index] = {"1.0": image(1, (500,)), "1.1": multi_arch(2, size=500)}
NGINX = '"HARBOR/library/nginx": ""'


@dataclass(frozen=True)
class Mistake:
    """A file, as it is written, and what is said of it.

    Attributes:
        auth: within the braces of that section.
        images: the same.
        said: all of it is said.
        more: further sections.
        without: an option that the command line lacks.
    """

    auth: str
    images: str
    said: tuple[str, ...]
    more: str = ""
    without: str = ""

    @property
    def text(self) -> str:
        return f'{{"auth": {{{self.auth}}}, "images": {{{self.images}}}{self.more}}}'


MISTAKES = {
    "no login for the source": Mistake(f'"ACR": {ACR_LOGIN}', NGINX, ('auth["HARBOR"]: is missing',)),
    "no login for the destination": Mistake(f'"HARBOR": {LOGIN}', NGINX, ('auth["ACR"]: is missing',)),
    "a misspelt key of a login": Mistake(
        f'"HARBOR": {LOGIN.replace("password", "pasword")}, "ACR": {ACR_LOGIN}', NGINX, ("pasword: unknown key",)
    ),
    "a misspelt section": Mistake(BOTH, NGINX, ("image: unknown key; did you mean images?",), ', "image": {}'),
    "a source twice": Mistake(BOTH, f'{NGINX}, "HARBOR/library/nginx": "ACR/cache/nginx"', ("duplicate key",)),
    "a login twice": Mistake(f'{BOTH}, "HARBOR": {LOGIN}', NGINX, ("duplicate key",)),
    "a variable that is not set": Mistake(
        f'"HARBOR": {LOGIN.replace(HARBOR_ADMIN[1], "${NOBODY_SET_IT}")}, "ACR": {ACR_LOGIN}',
        NGINX,
        ("the environment variable NOBODY_SET_IT is not set",),
    ),
    "fewer tags than at the source": Mistake(
        BOTH, '"HARBOR/library/nginx:1,2": "ACR/cache/nginx:1"', ("1 tag(s) here for 2 of the source",)
    ),
    "an expression that is none": Mistake(
        BOTH, '"HARBOR/library/nginx:/(/": "ACR/cache/nginx"', ("is not a regular expression",)
    ),
    "no default registry": Mistake(BOTH, NGINX, ("--registry",), without="--registry=ACR"),
}


@dataclass(frozen=True)
class Told:
    """How the mistakes ended, where the hosts were, and how many requests came in all."""

    ended: dict[str, Ended]
    hosts: Site
    requests: int
    states: list[Path]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    return asyncio.run(_told(tmp_path_factory.mktemp("mistakes")))


async def _told(directory: Path) -> Told:
    async with site(directory) as here:
        two_at_once = asyncio.Semaphore(2)

        async def run(number: int, mistake: Mistake) -> Ended:
            here.write(f"{number}/harbor-to-acr.json", mistake.text)
            options = [option for option in SEED_COMMAND.split() if option != mistake.without]
            async with two_at_once:
                return await here.backfill(" ".join(options), str(number))

        ended = await asyncio.gather(*(run(number, mistake) for number, mistake in enumerate(MISTAKES.values())))
        logs = here.harbor.faults.log, here.acr.faults.log, here.acr.token_faults.log
        states = [path for path in directory.rglob("state") if path.is_dir()]
        return Told(dict(zip(MISTAKES, ended, strict=True)), here, sum(map(len, logs)), states)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_the_file_is_an_error_at_the_start(told: Told, name: str) -> None:
    ended = told.ended[name]
    assert ended.code == 2, ended.said
    for words in MISTAKES[name].said:
        assert told.hosts.named(words) in ended.err
    for password in (HARBOR_ADMIN[1], ACR_USER[1]):
        assert password not in ended.said


def test_with_a_mistake_in_the_file_nobody_is_asked_anything_and_no_queue_is_made(told: Told) -> None:
    assert told.requests == 0
    assert told.states == []


DENIED = Answer(403, "DENIED", "requested access to the resource is denied")
INVALID = Answer(400, "MANIFEST_INVALID", "manifest invalid")


@dataclass(frozen=True)
class Trouble:
    """What goes wrong with one of the rules of a run.

    Attributes:
        source: behind the source's host; ``1.0`` and ``1.1`` are in the repositories that are there.
        destination: where to.
        failed: the sources that fail.
        said: of them, by a part of the text.
        copied: the tags that are at the destination all the same.
        answer: what the destination says to the tag ``1.1`` there.
        asked: how often it is asked.
    """

    source: str
    destination: str
    failed: set[str]
    said: str
    copied: set[str]
    answer: Answer | None = None
    asked: int = 0


TROUBLES = {
    "a tag that is not there": Trouble(
        "library/a:1.0,9", "image-syncer/a", {"library/a:9"}, "not found", {"image-syncer/a:1.0"}
    ),
    "a repository that is not there": Trouble(
        "library/absent", "image-syncer/b", {"library/absent"}, "can't be listed", set()
    ),
    "a tag that is refused": Trouble(
        "library/c", "image-syncer/c", {"library/c:1.1"}, DENIED.message, {"image-syncer/c:1.0"}, DENIED, 1
    ),
    "a manifest that is not taken": Trouble(
        "library/d", "image-syncer/d", {"library/d:1.1"}, INVALID.message, {"image-syncer/d:1.0"}, INVALID, 1
    ),
    "a namespace that is not there": Trouble("library/e:1.0", "nowhere/e", {"library/e:1.0"}, "denied", set()),
    "nothing": Trouble("library/f", "image-syncer/f", set(), "", {"image-syncer/f:1.0", "image-syncer/f:1.1"}),
}


@dataclass(frozen=True)
class Went:
    """A run of all troubles: its end, its rows by source, what is at the destination, and how often it was asked."""

    ended: Ended
    rows: dict[str, dict[str, Any]]
    held: dict[str, str]
    asked: dict[str, int]


@pytest.fixture(scope="module")
def went(tmp_path_factory: pytest.TempPathFactory) -> Went:
    return asyncio.run(_went(tmp_path_factory.mktemp("troubles")))


async def _went(directory: Path) -> Went:
    async with site(directory) as here:
        for name in "acdef":
            for tag, root in ROOTS.items():
                await push(here.behind_harbor, f"library/{name}", tag, root)
        faults = {
            name: here.acr.faults.add(Fault(trouble.answer, "PUT", f"/{trouble.destination}/manifests/1.1", times=None))
            for name, trouble in TROUBLES.items()
            if trouble.answer is not None
        }
        images = {f"HARBOR/{trouble.source}": f"ACR/{trouble.destination}" for trouble in TROUBLES.values()}
        here.write("harbor-to-acr.json", {"auth": here.auth(), "images": images})
        # With the ten retries of the seed, of which none is waited for.
        ended = await here.backfill(f"{SEED_COMMAND} --report=r.json")
        rows = {row["source"].partition("/")[2]: row for row in json.loads((directory / "r.json").read_text())}
        return Went(ended, rows, await here.held(), {name: fault.hits for name, fault in faults.items()})


@pytest.mark.parametrize("name", TROUBLES)
def test_a_failure_is_told_and_hides_nothing_and_what_cannot_succeed_is_not_tried_again(went: Went, name: str) -> None:
    trouble = TROUBLES[name]
    repository = trouble.source.partition(":")[0]
    rows = {source: row for source, row in went.rows.items() if source.partition(":")[0] == repository}
    failed = {source for source, row in rows.items() if row["outcome"] in ("failed", "not listed")}
    assert failed == trouble.failed, went.ended.said
    for source in trouble.failed:
        assert trouble.said in rows[source]["error"]
        parts = ErrorText(*(rows[source][name] for name in ("what", "why", "do")))
        assert all(line in went.ended.out for line in parts.lines)
    assert {held for held in went.held if held.startswith(f"{trouble.destination}:")} == trouble.copied
    assert went.asked.get(name, 0) == trouble.asked
    for held in trouble.copied:
        assert went.held[held] == ROOTS[held.partition(":")[2]].digest


def test_failures_are_counted_and_end_with_another_exit_code(went: Went) -> None:
    assert went.ended.code == 1, went.ended.said
    failed = sum(len(trouble.failed) for trouble in TROUBLES.values())
    assert f"{failed - 1}  failed" in went.ended.out
    assert "Not listed: 1 source" in went.ended.out
    assert f"{sum(len(trouble.copied) for trouble in TROUBLES.values())}  copied" in went.ended.out
    assert "Traceback" not in went.ended.said


async def test_a_rule_that_matches_nothing_is_told_and_no_failure(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        await push(here.behind_harbor, "library/nginx", "1.0", ROOTS["1.0"])
        images = {"HARBOR/library/nginx": "", "HARBOR/library/nginx:/^9/": "ACR/cache/nginx"}
        here.write("harbor-to-acr.json", {"auth": here.auth(), "images": images})
        ended = await here.backfill(SEED_COMMAND)
        assert ended.code == 0, ended.said
        assert here.named("HARBOR/library/nginx:/^9/ matches nothing") in ended.out
        assert set(await here.held()) == {"image-syncer/nginx:1.0"}


async def test_a_wrong_password_is_told_and_not_tried_again(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        await push(here.behind_harbor, "library/nginx", "1.0", ROOTS["1.0"])
        auth = here.auth()
        auth["ACR"]["password"] = "wrong"
        here.write("harbor-to-acr.json", {"auth": auth, "images": {"HARBOR/library/nginx": ""}})
        ended = await here.backfill(SEED_COMMAND)
        assert ended.code == 1, ended.said
        assert "the login was refused" in ended.out
        assert here.acr.token_faults.log.count("GET", "/auth", 401) == 1
