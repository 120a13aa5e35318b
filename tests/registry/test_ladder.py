"""The ladder of a refused login: who waits, how often the login is sent, and what is final."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from replicator.errors import ErrorClass
from replicator.harbor import HarborApi
from replicator.reference import Repository
from replicator.registry import Access, Registries, Request, Timing
from replicator.registry.errors import LoginOnHold, LoginRefused, Unauthorized
from replicator.registry.ladder import (
    PAUSES,
    REFUSALS,
    WINDOW,
    LocalLogins,
    LoginPatience,
    LoginRecord,
    _read,
    fingerprint,
)
from tests.standins.faults import Answer, Fault
from tests.standins.images import image, push
from tests.standins.logins import HARBOR_ADMIN, HARBOR_ROBOT, basic

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.standins.harbor import HarborStandIn

WRONG = (HARBOR_ROBOT[0], "wrong")
ONCE = Timing(attempts=1)


class Clock:
    """The time of the records, moved by the test only."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


class House:
    """A Harbor with one image in a private project, and registries with a clock of their own."""

    def __init__(self, harbor: HarborStandIn) -> None:
        self.harbor = harbor
        self.clock = Clock()
        self.store = LocalLogins(self.clock)

    @asynccontextmanager
    async def opened(
        self, login: tuple[str, str] = HARBOR_ROBOT, *, patient: bool = True, timing: Timing = ONCE
    ) -> AsyncIterator[Registries]:
        access = Access(*login, endpoint=self.harbor.url)
        patience = LoginPatience(self.store, patient=patient)
        async with Registries(lambda _: access, patience=patience, timing=timing) as registries:
            yield registries

    async def ask(self, registries: Registries, name: str = "team/app") -> None:
        """Ask for the image once."""
        assert await registries.source(Repository(self.harbor.host, name)).head_manifest("v1") is not None

    async def hold(self, registries: Registries, name: str = "team/app") -> LoginOnHold:
        """Ask for it, and return how its login is held back."""
        with pytest.raises(LoginOnHold) as caught:
            await self.ask(registries, name)
        assert caught.value.error_class is ErrorClass.TRANSIENT
        return caught.value

    @property
    def refused(self) -> int:
        """How often a login was sent and refused."""
        return len(self.harbor.projects.refused)


@pytest.fixture
async def house(harbor: HarborStandIn, harbor_upstream: str) -> House:
    for name in ("team/app", "team/other"):
        await push(harbor_upstream, name, "v1", image(1))
    return House(harbor)


async def test_a_good_login_outlives_a_database_that_is_away_and_is_sent_once_a_step(house: House) -> None:
    async with house.opened() as registries:
        await house.ask(registries)
        house.harbor.projects.database_away = True
        # With the token of before: Harbor answers 401 to it, so it is dropped.
        found = await house.hold(registries)
        assert "the login was refused" in str(found)
        assert found.retry_after == pytest.approx(PAUSES[0])
        at = datetime.fromtimestamp(house.clock.now + PAUSES[0], UTC)
        assert found.do == f"it is sent again at {at:%H:%M:%S} UTC, refused 1 of 5 times"
        assert house.refused == 1
        for name in ("team/app", "team/other"):
            await house.hold(registries, name)
        assert house.refused == 1
        house.clock.now += PAUSES[0]
        found = await house.hold(registries, "team/other")
        assert house.refused == 2
        assert found.retry_after == pytest.approx(PAUSES[1])
        house.harbor.projects.database_away = False
        house.clock.now += PAUSES[1]
        await house.ask(registries)
        await house.ask(registries, "team/other")
        assert house.refused == 2


async def test_a_good_token_that_harbor_can_not_look_up_is_no_permission_that_is_missing(house: House) -> None:
    """The token endpoint still answers from a cache; the registry can't find the project."""
    async with house.opened() as registries:
        await house.ask(registries)
        house.harbor.tokens.revoke_all()
        away = Answer(401, "UNAUTHORIZED", "failed to connect", {"WWW-Authenticate": ""})
        house.harbor.faults.add(Fault(away, path="/v2/", times=3))
        house.harbor.faults.add(Fault(Answer(401), path="/service/token", query="^service=[^&]*$"))
        found = await house.hold(registries)
        assert found.why.startswith("the login was refused")
        house.clock.now += PAUSES[0]
        await house.ask(registries)


async def test_a_user_whose_name_a_wrong_password_has_locked_waits_for_the_end_of_the_lock(house: House) -> None:
    house.harbor.projects.lock_seconds = 3600.0
    async with house.opened(HARBOR_ADMIN) as registries:
        async with aiohttp.ClientSession() as session:
            wrong = basic((HARBOR_ADMIN[0], "wrong"))
            async with session.get(
                f"{house.harbor.url}/service/token?service=harbor-registry", headers=wrong
            ) as answer:
                assert answer.status == 401
        await house.hold(registries)
        house.harbor.projects.locked.clear()
        house.clock.now += PAUSES[0]
        await house.ask(registries)


async def test_a_login_that_never_worked_fails_at_once_where_nobody_waits_and_is_not_sent_for_every_image(
    house: House,
) -> None:
    async with house.opened(WRONG, patient=False, timing=Timing()) as registries:
        for name in ("team/app", "team/other", "team/app"):
            with pytest.raises(LoginRefused, match="the login was refused"):
                await house.ask(registries, name)
    assert house.refused == 1


async def test_a_login_that_worked_is_sent_again_where_nobody_waits_too(house: House) -> None:
    async with house.opened(patient=False, timing=Timing()) as registries:
        await house.ask(registries)
        house.harbor.projects.database_away = True
        house.clock.now -= PAUSES[0] - 0.2

        async def heal() -> None:
            while not any(_read(text).refusals for text in house.store._texts.values()):
                await asyncio.sleep(0.01)
            house.harbor.projects.database_away = False
            house.clock.now += PAUSES[0]

        healing = asyncio.create_task(heal())
        await house.ask(registries)
        await healing
    assert house.refused == 1


async def test_at_the_end_of_the_ladder_the_refusal_is_final_in_the_registrys_words(house: House) -> None:
    async with house.opened(WRONG) as registries:
        for pause in PAUSES:
            await house.hold(registries)
            house.clock.now += pause
        for _ in range(3):
            with pytest.raises(LoginRefused, match="the login was refused: 401") as caught:
                await house.ask(registries)
            assert caught.value.error_class is ErrorClass.CREDENTIALS
        assert "it is not sent again before" in str(caught.value)
        assert house.refused == REFUSALS
        house.clock.now += WINDOW
        with pytest.raises(LoginRefused):
            await house.ask(registries)
        assert house.refused == REFUSALS + 1


async def test_a_wrong_password_is_seldom_sent_for_public_projects_which_need_none(
    house: House, harbor_upstream: str
) -> None:
    """Harbor serves them to it as to nobody; but a directory counts each request with it, and locks the account."""
    house.harbor.projects.lock_seconds = 0.0
    house.harbor.add_project("open", public=True)
    names = [f"open/app{number}" for number in range(8)]
    for name in names:
        await push(harbor_upstream, name, "v1", image(1))
    async with house.opened((HARBOR_ADMIN[0], "wrong")) as registries:
        api = HarborApi(house.harbor.host, registries.transport(Repository(house.harbor.host, "open/x")))
        for name in names:
            await house.ask(registries, name)
            assert len([each async for each in api.repositories("open")]) == len(names)
        assert house.refused == 1
        # It may be good by now, so it is sent where it is needed; and again after a while.
        await house.hold(registries)
        assert house.refused == 2
        house.clock.now += WINDOW
    async with house.opened((HARBOR_ADMIN[0], "wrong"), patient=False) as registries:
        with pytest.raises(LoginRefused):
            await house.ask(registries)


async def test_a_good_login_that_was_left_out_of_a_public_project_is_sent_for_a_private_one(
    house: House, harbor_upstream: str
) -> None:
    house.harbor.add_project("open", public=True)
    await push(harbor_upstream, "open/app", "v1", image(1))
    house.harbor.projects.locked[HARBOR_ADMIN[0]] = time.monotonic() + 3600
    async with house.opened(HARBOR_ADMIN) as registries:
        await house.ask(registries, "open/app")
        house.harbor.projects.locked.clear()
        api = HarborApi(house.harbor.host, registries.transport(Repository(house.harbor.host, "team/x")))

        async def repositories() -> None:
            assert len([each async for each in api.repositories("team")]) == 2

        # At once: all of them find out that the login is needed.
        names = ("team/app", "team/other")
        await asyncio.gather(*(house.ask(registries, name) for name in names), *(repositories() for _ in range(3)))
    assert house.refused == 1


async def test_a_login_that_works_no_more_is_noticed_where_all_that_is_asked_is_public(house: House) -> None:
    """As by a sweep at rest: each of its requests would count at a directory."""
    house.harbor.add_project("open", public=True)
    async with house.opened(HARBOR_ADMIN) as registries:
        await house.ask(registries)
        house.clock.now += 1
        del house.harbor.projects.accounts[HARBOR_ADMIN[0]]
        house.harbor.projects.lock_seconds = 0.0
        api = HarborApi(house.harbor.host, registries.transport(Repository(house.harbor.host, "open/x")))
        with pytest.raises(LoginOnHold):
            await api.system()
        before = house.refused
        for _ in range(5):
            with pytest.raises(LoginOnHold):
                await anext(api.repositories("open"))
        assert house.refused == before == 2


async def test_a_registry_that_refuses_what_only_a_harbor_has_holds_up_no_login(house: House) -> None:
    house.harbor.faults.add(Fault(Answer(401), path="/api/v2.0/ping", times=None))
    async with house.opened() as registries:
        assert not await HarborApi(
            house.harbor.host, registries.transport(Repository(house.harbor.host, "x"))
        ).is_harbor()
        assert "Authorization" not in house.harbor.faults.log.select("GET", "/ping")[0].headers
        await house.ask(registries)


async def test_a_project_that_is_not_there_is_final_at_once_and_holds_up_nobody(house: House) -> None:
    async with house.opened() as registries:
        for _ in range(2):
            with pytest.raises(Unauthorized) as caught:
                await house.ask(registries, "nowhere/app")
            assert not isinstance(caught.value, LoginRefused)
            assert caught.value.error_class is ErrorClass.CREDENTIALS
        await house.ask(registries)
    assert house.refused == 0


async def test_a_rest_api_is_not_asked_while_the_login_is_on_hold(house: House) -> None:
    async with house.opened() as registries:
        await house.ask(registries)
        house.harbor.projects.database_away = True
        house.harbor.tokens.revoke_all()
        await house.hold(registries)
        house.harbor.faults.log.clear()
        transport = registries.transport(Repository(house.harbor.host, "team/app"))

        async def repositories() -> None:
            url = await transport.url("/api/v2.0/projects/team/repositories")
            await transport.call(Request("GET", url, basic=True), expect={200})

        with pytest.raises(LoginOnHold):
            await repositories()
        assert len(house.harbor.faults.log) == 0
        house.harbor.projects.database_away = False
        house.clock.now += PAUSES[0]
        await repositories()
        assert house.refused == 1


def test_a_login_is_refused_at_most_five_times_in_any_half_an_hour() -> None:
    rng = random.Random(16)
    for patient, worked in ((True, 0.0), (True, 1.0), (False, 1.0), (False, 0.0)):
        record, now, sent = LoginRecord(worked=worked), 1000.0, list[float]()
        while now < 20_000.0:
            if record.due(sparing=True) <= now:
                sent.append(now)
                record = record.refused(now, "401", patient=patient, step=True)
            now += rng.uniform(0.5, 30.0)
        assert all(later - first >= WINDOW for first, later in zip(sent, sent[REFUSALS:], strict=False))
        assert record.ended
        assert len(sent) >= REFUSALS


def test_refusals_that_were_under_way_together_leave_one_step() -> None:
    record = LoginRecord(worked=1.0)
    for _ in range(REFUSALS + 1):
        record = record.refused(1000.0, "401", patient=True, step=False)
    assert not record.ended
    assert record.due(sparing=True) == 1000.0 + PAUSES[-1]
    assert record.refused(1300.0, "401", patient=True, step=True).ended


def test_a_fingerprint_tells_logins_apart_and_fits_thousands_of_passwords() -> None:
    marks = {fingerprint("h", Access("u", password)) for password in ("a", "b", "c")}
    assert len({*marks, fingerprint("h", Access("v", "a")), fingerprint("i", Access("u", "a"))}) == 5
    assert all(len(mark.removeprefix("h ")) == 3 for mark in marks)
    assert fingerprint("h", Access()) == "h -"


def test_threads_that_need_a_fingerprint_at_once_compute_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    computed = []
    scrypt = hashlib.scrypt

    def counted(*args: Any, **options: Any) -> bytes:
        computed.append(args)
        return scrypt(*args, **options)

    monkeypatch.setattr(hashlib, "scrypt", counted)
    with ThreadPoolExecutor(4) as threads:
        marks = set(threads.map(lambda _: fingerprint("once", Access("u", "p")), range(4)))
    assert (len(marks), len(computed)) == (1, 1)
