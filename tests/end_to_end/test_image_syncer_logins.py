"""The logins in image-syncer's files: which one applies, and the scheme that a registry is asked by."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.end_to_end.image_syncer import SEED_COMMAND, Login, logins, site
from tests.standins.images import image, push, verify_tree
from tests.standins.logins import ACR_USER, HARBOR_ADMIN

if TYPE_CHECKING:
    from pathlib import Path

    from tests.running import Ended

ADMIN, PUSHER = Login(*HARBOR_ADMIN), Login(*ACR_USER)
ROBOT = Login("robot$team+ci", "pa$$word$HOME}")
DEEP = Login("deep", "password-of-deep")
WHOLE = Login("whole", "password-of-whole")
CACHE = Login("cache", "password-${of}-cache")
WRONG = Login("nobody", "wrong")

AUTH = {
    "HARBOR": ADMIN,
    "HARBOR/team": ROBOT,
    "HARBOR/team/app": DEEP,
    "HARBOR/team/app/whole": WHOLE,
    # Of a registry's keys any that fits would do, were it not for the longest.
    "HARBOR/library": WRONG,
    "HARBOR/library/good": ADMIN,
    "ACR": Login("${PUSHER_NAME}", "${PUSHER_PASSWORD}"),
    "ACR/cache": Login(CACHE.username, "${CACHE_PASSWORD}"),
}


@dataclass(frozen=True)
class Case:
    """A copy, with who is to read and who to write."""

    source: str
    destination: str
    reads: Login
    writes: Login


CASES = {
    "a registry": Case("teams/plain", "image-syncer/a", ADMIN, PUSHER),
    "a namespace": Case("team/plain", "image-syncer/b", ROBOT, PUSHER),
    "a longer path": Case("team/app/api", "image-syncer/c", DEEP, PUSHER),
    "a whole repository": Case("team/app/whole", "image-syncer/d", WHOLE, PUSHER),
    "no part of a segment": Case("team/application", "image-syncer/e", ROBOT, PUSHER),
    "no part of a last segment": Case("team/app/whole-not", "image-syncer/f", DEEP, PUSHER),
    "the longest, whatever the others are": Case("library/good", "image-syncer/g", ADMIN, PUSHER),
    "a namespace of the destination": Case("teams/cached", "cache/h", ADMIN, CACHE),
}


@dataclass(frozen=True)
class Done:
    """A backfill of all cases: its end and log, who read and wrote, and credentials gone astray."""

    ended: Ended
    log: str
    reads: dict[str, set[Login]]
    writes: dict[str, set[Login]]
    leaks: list[object]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return asyncio.run(_done(tmp_path_factory.mktemp("logins")))


async def _done(directory: Path) -> Done:
    harbor_users = {login.username: login.password for login in (ADMIN, ROBOT, DEEP, WHOLE)}
    acr_users = {login.username: login.password for login in (PUSHER, CACHE)}
    async with site(directory, harbor_users=harbor_users, acr_users=acr_users) as here:
        for number, case in enumerate(CASES.values()):
            await push(here.behind_harbor, case.source, "v1", image(number, (500,)))
        auth = {
            key: {"username": login.username, "password": login.password, "insecure": True}
            for key, login in AUTH.items()
        }
        images = {f"HARBOR/{case.source}": f"ACR/{case.destination}" for case in CASES.values()}
        here.write("harbor-to-acr.json", {"auth": auth, "images": images})
        ended = await here.backfill(
            SEED_COMMAND, PUSHER_NAME=PUSHER.username, PUSHER_PASSWORD=PUSHER.password, CACHE_PASSWORD=CACHE.password
        )
        if ended.code == 0:
            for number, case in enumerate(CASES.values()):
                await verify_tree(here.behind_acr, case.destination, "v1", image(number, (500,)))
        return Done(
            ended,
            (directory / "log").read_text(),
            logins(here.harbor.faults, "pull"),
            logins(here.acr.token_faults, "push"),
            [*here.harbor.leaks, *here.acr.leaks],
        )


@pytest.mark.parametrize("name", CASES)
def test_the_longest_key_that_fits_says_who_we_are(done: Done, name: str) -> None:
    case = CASES[name]
    assert done.reads[case.source] == {case.reads}, done.ended.said
    assert done.writes[case.destination] == {case.writes}, done.ended.said


def test_every_login_goes_to_its_registry_and_no_password_is_shown(done: Done) -> None:
    assert done.ended.code == 0, done.ended.said
    assert done.leaks == []
    shown = done.log + done.ended.said
    for login in (*AUTH.values(), PUSHER, CACHE):
        assert login.password not in shown


@dataclass(frozen=True)
class Way:
    """How a destination is spoken to: whether it has TLS, ``insecure`` there, and what comes of it."""

    tls: bool
    insecure: bool | None
    code: int
    said: str = ""


WAYS = {
    "an unknown certificate, insecure": Way(tls=True, insecure=True, code=0),
    "an unknown certificate": Way(tls=True, insecure=None, code=1, said="certificate"),
    "an unknown certificate, not insecure": Way(tls=True, insecure=False, code=1, said="certificate"),
    "plain HTTP, insecure": Way(tls=False, insecure=True, code=0),
    "plain HTTP": Way(tls=False, insecure=None, code=1, said="insecure"),
}


@dataclass(frozen=True)
class Went:
    """How it went one way: the end, and how many requests and manifests arrived."""

    ended: Ended
    requests: int
    manifests: int


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Went]:
    """Each way, gone by a backfill of its own."""
    return asyncio.run(_ways(tmp_path_factory.mktemp("ways")))


async def _ways(directory: Path) -> dict[str, Went]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)
    found = {}
    for speaks_tls in (True, False):
        names = {name: f"way-{number}" for number, name in enumerate(WAYS) if WAYS[name].tls is speaks_tls}
        async with site(directory, namespaces=names.values(), tls=tls if speaks_tls else None) as here:
            await push(here.behind_harbor, "library/nginx", "v1", image(1, (500,)))
            for name, namespace in names.items():
                auth = here.auth()
                del auth["ACR"]["insecure"]
                if WAYS[name].insecure is not None:
                    auth["ACR"]["insecure"] = WAYS[name].insecure
                here.write(f"{namespace}/harbor-to-acr.json", {"auth": auth, "images": {"HARBOR/library/nginx": ""}})
                logs = here.acr.faults.log, here.acr.token_faults.log
                before = sum(map(len, logs))
                ended = await here.backfill(SEED_COMMAND.replace("image-syncer", namespace), namespace)
                manifests = here.acr.faults.log.count("PUT", f"/{namespace}/nginx/manifests/v1", 201)
                found[name] = Went(ended, sum(map(len, logs)) - before, manifests)
    return found


@pytest.mark.parametrize("name", WAYS)
def test_insecure_allows_an_unknown_certificate_and_plain_http_and_without_it_nothing_goes_out(
    ways: dict[str, Went], name: str
) -> None:
    way, went = WAYS[name], ways[name]
    assert went.ended.code == way.code, went.ended.said
    assert way.said in went.ended.out
    assert went.manifests == (0 if way.code else 1)
    if way.code:
        assert went.requests == 0
