"""``replicator wait``: when it ends, with which exit code, and what it says."""

from __future__ import annotations

import json
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import SecretStr

from replicator.commands import wait as command
from replicator.commands.wait import Awaited, Verdict, wait_for
from replicator.copy import Copier, SourceNotFound
from replicator.errors import ConfigError, ErrorClass, ErrorText
from replicator.reference import Reference
from replicator.registry.errors import NotFound
from replicator.replication.transfer import CopyFailed
from replicator.rules import parse
from replicator.server.api.client import NeverAnswered, NoAnswerYet, open_client
from replicator.server.api.models import Failure, Image, ImageAtDestination, State, to_json
from replicator.settings import Settings
from tests.server.api.conftest import ACR, HARBOR, ONE, OTHER, RULES, Registries

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SOURCE = Reference.parse(f"{HARBOR}/lib/app:1.0")
FIRST, SECOND = f"{ACR}/mirror/app:1.0", f"{ACR}/second/app:1.0"
TOKEN = "read-token-of-the-tests"
OLD, NEW = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_FIRST_PAUSE", 0.002)
    monkeypatch.setattr(command, "_LONGEST_PAUSE", 0.002)


def image(*states: State, at: datetime = OLD) -> Image:
    failure = Failure(error_class="permanent", what="denied", why="closed", do="open it", at=at, attempts=1)
    images = [
        ImageAtDestination(
            destination=destination, rule="r", state=state, failure=failure if state is State.REFUSED else None
        )
        for destination, state in zip((FIRST, SECOND), states, strict=False)
    ]
    return Image(
        source=str(SOURCE), state=states[0] if states else State.NO_RULE, images=images, reason="none names it"
    )


class Script:
    """Answers in turn; the last one is repeated."""

    def __init__(self, *answers: Image | Exception) -> None:
        self._answers = list(answers)
        self.fresh: list[bool] = []

    async def __call__(self, _: Reference, fresh: bool) -> Image:
        self.fresh.append(fresh)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


async def waited(script: Script, seconds: float = 30.0) -> tuple[int, Awaited]:
    awaited = Awaited(SOURCE)
    code = await command._wait([awaited], script, time.monotonic() + seconds)
    return code, awaited


async def test_the_first_and_the_last_question_are_for_what_the_registries_say_now() -> None:
    # Memory says that it is in place, and does not know yet of the push that made it another image.
    script = Script(image(State.MISSING), image(State.IN_PLACE), image(State.RUNNING), image(State.IN_PLACE))
    code, awaited = await waited(script)
    assert (code, awaited.verdict) == (0, Verdict.IN_PLACE)
    assert script.fresh == [True, False, True, False, True]


async def test_every_destination_is_awaited_but_not_what_a_rule_leaves_out() -> None:
    script = Script(image(State.IN_PLACE, State.QUEUED), image(State.IN_PLACE, State.SKIPPED))
    assert (await waited(script))[0] == 0
    assert len(script.fresh) == 3


@pytest.mark.parametrize(
    ("answers", "code", "verdict", "questions"),
    [
        ([image()], 4, Verdict.NO_RULE, 1),
        ([image(State.SKIPPED, State.SKIPPED)], 4, Verdict.NO_RULE, 1),
        ([image(State.QUEUED), image(State.REFUSED)], 1, Verdict.REFUSED, 2),
        # Of an older push: another failure, or none any more, is the answer.
        ([image(State.REFUSED), image(State.REFUSED), image(State.REFUSED, at=NEW)], 1, Verdict.REFUSED, 3),
        ([image(State.REFUSED), image(State.QUEUED), image(State.IN_PLACE)], 0, Verdict.IN_PLACE, 4),
        ([NeverAnswered(ErrorText("login refused"))], 1, Verdict.REFUSED, 1),
        ([NoAnswerYet(ErrorText("away")), image(State.IN_PLACE)], 0, Verdict.IN_PLACE, 2),
    ],
)
async def test_it_ends_when_nothing_can_change_and_not_before(
    answers: list[Any], code: int, verdict: Verdict, questions: int
) -> None:
    script = Script(*answers)
    ended, awaited = await waited(script)
    assert (ended, awaited.verdict, len(script.fresh)) == (code, verdict, questions)


@pytest.mark.parametrize("answer", [image(State.NO_SOURCE), image(State.MISSING), NoAnswerYet(ErrorText("away"), 9.0)])
async def test_what_may_still_come_is_awaited_until_the_time_is_over(answer: Image | Exception) -> None:
    script = Script(answer)
    code, awaited = await waited(script, seconds=0.05)
    assert (code, awaited.verdict) == (3, Verdict.TIMED_OUT)
    assert (script.fresh[0], script.fresh[-1]) == (True, True)


async def test_at_the_end_of_the_time_an_older_failure_is_the_answer() -> None:
    assert (await waited(Script(image(State.REFUSED)), seconds=0))[0] == 1


async def test_the_first_image_that_will_not_arrive_ends_the_call_for_all() -> None:
    images = [Awaited(Reference.parse(f"{HARBOR}/lib/app:{tag}")) for tag in range(6)]

    async def ask(source: Reference, _: bool) -> Image:
        return image() if source.tag == "5" else image(State.QUEUED)

    assert await command._wait(images, ask, time.monotonic() + 30) == 4
    assert [each.verdict for each in images] == [Verdict.NOT_AWAITED] * 5 + [Verdict.NO_RULE]


@asynccontextmanager
async def serve(*answers: web.Response) -> AsyncIterator[tuple[Settings, list[web.Request]]]:
    """A ``serve`` that gives these answers in turn."""
    asked: list[web.Request] = []
    left = list(answers)

    async def handle(request: web.Request) -> web.StreamResponse:
        asked.append(request)
        return left.pop(0)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    async with TestServer(app) as server:
        yield settings(str(server.make_url("/under"))), asked


def settings(url: str, **more: Any) -> Settings:
    token = {"api_tokens": SecretStr(f"read:{TOKEN} operate:another-token-of-the-tests")}
    return Settings(_env_file=None, _secrets_dir=None, api_url=url, **(token | more))


def told(found: Image) -> web.Response:
    return web.json_response(to_json(found))


def problem(status: int, what: str = "no", **headers: str) -> web.Response:
    body = json.dumps({"status": status, "what": what, "why": "because", "do": "something"})
    return web.Response(status=status, text=body, content_type="application/problem+json", headers=headers)


async def test_a_question_goes_to_the_api_with_the_token_and_only_there() -> None:
    async with serve(told(image(State.IN_PLACE)), told(image(State.QUEUED))) as (known, asked):
        async with open_client(known, FIRST) as ask:
            assert (await ask(SOURCE, True)).images[0].destination == FIRST
            await ask(SOURCE, False)
        first, second = asked
        assert first.path == f"/under/api/v1/images/{SOURCE}"
        assert dict(first.query) == {"fresh": "true", "destination": FIRST}
        assert dict(second.query) == {"destination": FIRST}
        assert first.headers["Authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize(
    "trouble",
    [
        problem(503, "the queue is unavailable"),
        problem(429, "too many", **{"Retry-After": "7"}),
        web.Response(status=502, text="<html>Bad Gateway</html>", content_type="text/html"),
        web.Response(status=404, text="default backend - 404"),
        web.Response(text='{"state": "of a newer version"}', content_type="application/json"),
    ],
    ids=["503", "429", "502 of a proxy", "404 of a proxy", "not understood"],
)
async def test_a_serve_that_starts_again_is_asked_again(trouble: web.Response) -> None:
    async with serve(trouble, told(image(State.IN_PLACE))) as (known, _), open_client(known, None) as ask:
        with pytest.raises(NoAnswerYet) as raised:
            await ask(SOURCE, True)
        assert raised.value.retry_after == (7.0 if trouble.status == 429 else None)
        assert (await ask(SOURCE, True)).state is State.IN_PLACE


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (problem(401), "REPLICATOR_API_TOKEN must be one of"),
        (problem(404, "the API is off"), "the API is off"),
        (problem(400, "not a reference"), "not a reference"),
        (web.Response(status=302, headers={"Location": "https://login.example"}), "redirect"),
    ],
)
async def test_what_only_a_person_can_change_is_not_waited_for(answer: web.Response, words: str) -> None:
    async with serve(answer) as (known, _), open_client(known, None) as ask:
        with pytest.raises(ConfigError, match=words) as raised:
            await ask(SOURCE, True)
    assert TOKEN not in str(raised.value)


async def test_a_serve_that_is_not_there_is_awaited_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    async with serve() as (known, _):
        pass
    code = await wait_for([Awaited(SOURCE)], known, None, None, seconds=0.02, as_json=True)
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert (code, found["result"], found["images"][0]["image"]) == (3, "timed_out", None)
    assert "does not answer" in found["images"][0]["trouble"]["what"]
    assert printed.err.count("does not answer") == 1, "it is said once"


async def test_without_a_token_it_says_what_to_set() -> None:
    with pytest.raises(ConfigError, match="REPLICATOR_API_TOKEN: is not set"):
        await wait_for([Awaited(SOURCE)], settings("http://h:1", api_tokens=None), None, None, seconds=0)


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch) -> Registries:
    """Both registries, where no `serve` is asked."""
    made = Registries()

    async def compare(_: Copier, *arguments: Any, **more: Any) -> Any:
        return await made.compare(*arguments, **more)

    monkeypatch.setattr(Copier, "compare", compare)
    return made


async def straight(seconds: float = 0.0) -> int:
    rules = parse(json.dumps(RULES), "rules.json", environ={})
    known = Settings(_env_file=None, _secrets_dir=None)
    return await wait_for([Awaited(SOURCE)], known, rules, FIRST, seconds=seconds)


async def test_without_a_serve_the_registries_are_asked_until_both_name_the_same(
    registries: Registries, capsys: pytest.CaptureFixture[str]
) -> None:
    registries.destination = OTHER
    assert await straight() == 3
    registries.destination = ONE
    assert await straight() == 0
    assert registries.asked == [FIRST, FIRST]
    assert capsys.readouterr().out == f"{SOURCE} is at {FIRST} ({ONE[:19]})\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CopyFailed(ErrorText("login refused", do="correct it"), ErrorClass.CREDENTIALS), 1),
        (CopyFailed("no answer", ErrorClass.TRANSIENT), 3),
        (SourceNotFound(SOURCE, NotFound(HARBOR, "no such tag")), 3),
    ],
)
async def test_a_registry_that_is_away_is_awaited_and_a_refused_login_is_not(
    registries: Registries, error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    registries.error = error
    assert await straight(seconds=0.01) == code
    assert code != 1 or "login refused" in capsys.readouterr().err
