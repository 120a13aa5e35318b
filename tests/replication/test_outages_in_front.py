"""Outages of what stands in front of a registry: none of their answers is the last word about a copy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from replicator.copy import SourceNotFound
from replicator.errors import ErrorClass, ReplicatorError
from tests.replication.test_job import Job, handling, request, rules_of, run
from tests.standins.faults import Answer, CutUpload, Fault, Redirect
from tests.standins.images import image, push
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from tests.standins.acr import AcrStandIn
    from tests.standins.faults import Action
    from tests.standins.harbor import HarborStandIn

PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in &amp; wait</title></head><body>check the permissions</body></html>"
REGISTRY, TOKENS, LOGIN_PAGE = "^/v2/", "^/(service/token|auth)$", "^/login$"


def page(status: int) -> Answer:
    return Answer(status, body=PAGE, headers={"Content-Type": "text/html"})


TITLE = "not the registry's answer: a page of HTML (title 'Sign in & wait'), as firewalls and proxies send"


@pytest.mark.parametrize(
    ("action", "path", "words"),
    [
        (Answer(404, body=b"404 page not found\n"), REGISTRY, "text ('404 page not found')"),
        (page(404), REGISTRY, TITLE),
        (page(403), REGISTRY, TITLE),
        (page(401), REGISTRY, TITLE),
        (page(200), REGISTRY, TITLE),
        (Redirect(location="/login", status=302), REGISTRY, TITLE),
        (page(401), TOKENS, TITLE),
        (page(200), TOKENS, TITLE),
    ],
    ids=["404 text", "404", "403", "401", "200", "login page", "401 at the tokens", "200 at the tokens"],
)
async def test_an_outage_in_front_of_the_source_is_waited_out(
    harbor: HarborStandIn, acr: AcrStandIn, action: Action, path: str, words: str
) -> None:
    await push(harbor.host, "team/app", "v1", image(1), HARBOR_ROBOT)
    rules = rules_of(harbor, acr)
    work = request(rules, harbor, "v1").to_json()
    harbor.faults.add(Fault(action, path=path, times=None))
    harbor.faults.add(Fault(page(200), path=LOGIN_PAGE, times=None))
    async with handling(rules) as handler:
        with pytest.raises(ReplicatorError) as caught:
            await run(handler, Job(work, tries=9, seconds=90_000))
        harbor.faults.faults.clear()
        outcome = await run(handler, Job(work, tries=2))
    assert outcome["result"] == "copied"
    if words == TITLE or path == TOKENS:
        assert caught.value.error_class is ErrorClass.TRANSIENT
    assert words in str(caught.value)
    assert "permission" not in str(caught.value)


@pytest.mark.parametrize(
    ("action", "path"),
    [
        *[(page(status), REGISTRY) for status in (200, 400, 401, 403, 404, 405, 413)],
        (page(401), TOKENS),
        (page(403), TOKENS),
    ],
    ids=lambda value: str(getattr(value, "status", value)),
)
@pytest.mark.parametrize("after", [0, 4], ids=["at the start", "in the middle"])
async def test_an_outage_in_front_of_the_destination_is_waited_out(
    harbor: HarborStandIn, acr: AcrStandIn, action: Action, path: str, after: int
) -> None:
    await push(harbor.host, "team/app", "v1", image(1), HARBOR_ROBOT)
    rules = rules_of(harbor, acr)
    work = request(rules, harbor, "v1").to_json()
    for faults in (acr.faults, acr.token_faults):
        faults.add(Fault(action, path=path, times=None, after=after if path == REGISTRY else 0))
    async with handling(rules) as handler:
        with pytest.raises(ReplicatorError) as caught:
            await run(handler, Job(work))
        for faults in (acr.faults, acr.token_faults):
            faults.faults.clear()
        outcome = await run(handler, Job(work, tries=2))
    assert outcome["result"] == "copied"
    assert (caught.value.error_class, TITLE in str(caught.value)) == (ErrorClass.TRANSIENT, True)
    assert "check in this order" not in str(caught.value)


@pytest.mark.parametrize("status", [403, 404, 413])
async def test_a_body_that_meets_such_an_answer_is_sent_once_in_an_attempt(
    harbor: HarborStandIn, acr: AcrStandIn, status: int
) -> None:
    await push(harbor.host, "team/app", "v1", image(1, (300_000, 500)), HARBOR_ROBOT)
    rules = rules_of(harbor, acr)
    fault = acr.faults.add(Fault(CutUpload(100_000, page(status)), "PUT", "/blobs/uploads/", times=None))
    async with handling(rules) as handler:
        with pytest.raises(ReplicatorError, match="not the registry's answer") as caught:
            await run(handler, Job(request(rules, harbor, "v1").to_json()))
    assert caught.value.costly
    digests = [entry.query.rpartition("digest=")[2] for entry in acr.faults.log.select("PUT", "/blobs/uploads/")]
    assert fault.hits == len(digests) == len(set(digests))


@pytest.mark.parametrize(
    ("answer", "seconds", "gone"),
    [
        (Answer(404, "MANIFEST_UNKNOWN"), 120, True),
        (Answer(404, "NOT_FOUND", "artifact team/app:v1 not found"), 120, True),
        (Answer(404, "NOT_FOUND", "repository team/app not found"), 120, True),
        (Answer(404, "NOT_FOUND", "project team not found"), 90_000, False),
        (Answer(404, "NOT_FOUND", "path not found"), 90_000, False),
        (Answer(404, "NAME_UNKNOWN"), 3599, False),
        (Answer(404, "NAME_UNKNOWN"), 3600, True),
        (Answer(404), 90_000, False),
    ],
    ids=["manifest", "artifact", "repository", "project", "path", "name", "name for an hour", "no words"],
)
async def test_a_source_is_gone_only_by_the_registry_s_own_word(
    harbor: HarborStandIn, acr: AcrStandIn, answer: Answer, seconds: float, gone: bool
) -> None:
    await push(harbor.host, "team/app", "v1", image(1), HARBOR_ROBOT)
    rules = rules_of(harbor, acr)
    work = Job(request(rules, harbor, "v1").to_json(), tries=9, seconds=seconds)
    harbor.faults.add(Fault(answer, path="/manifests/", times=None))
    async with handling(rules) as handler:
        if gone:
            assert (await run(handler, work))["result"] == "source gone"
            # Its word is worth nothing while it is broken as a whole.
            harbor.faults.add(Fault(Answer(404, "NAME_UNKNOWN"), path="^/v2/$", times=None))
        with pytest.raises(SourceNotFound) as caught:
            await run(handler, work)
    assert caught.value.error_class is ErrorClass.NOT_YET


async def test_a_refusal_in_a_registry_s_own_words_ends_the_copy_at_once(
    harbor: HarborStandIn, acr: AcrStandIn
) -> None:
    await push(harbor.host, "team/app", "v1", image(1), HARBOR_ROBOT)
    rules = rules_of(harbor, acr)
    acr.faults.add(Fault(Answer(403, "DENIED"), "POST", times=None))
    async with handling(rules) as handler:
        with pytest.raises(ReplicatorError) as caught:
            await run(handler, Job(request(rules, harbor, "v1").to_json()))
    assert (caught.value.error_class, caught.value.costly) == (ErrorClass.PERMANENT, False)
