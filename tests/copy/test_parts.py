"""The parts of the copy engine that need no registry."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.copy import Outcome, Result
from replicator.copy.ledger import Ledger
from replicator.registry.errors import Denied, RegistryError, ServerFailed, TooManyRequests
from replicator.tasks import gather2, gather_tolerant


class Work:
    """Coroutines that record whether they finished."""

    def __init__(self) -> None:
        self.finished: list[str] = []
        self.cancelled: list[str] = []

    async def do(self, name: str, seconds: float = 0.0, error: Exception | None = None) -> str:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise
        if error is not None:
            raise error
        self.finished.append(name)
        return name


def transient() -> RegistryError:
    return ServerFailed("500").at("h.example.com", "GET /")


async def test_a_transient_fault_lets_the_others_finish() -> None:
    work = Work()
    with pytest.raises(ServerFailed):
        await gather_tolerant([work.do("a", 0, transient()), work.do("b", 0.05), work.do("c")])
    assert sorted(work.finished) == ["b", "c"]


@pytest.mark.parametrize(
    "error",
    [
        Denied("403").at("h.example.com", "PUT /"),
        TooManyRequests("429", retry_after=600).at("h.example.com", "PUT /"),
        RuntimeError("a mistake of ours"),
    ],
)
async def test_any_other_fault_cancels_the_others(error: Exception) -> None:
    work = Work()
    with pytest.raises(type(error)):
        await gather_tolerant([work.do("a", 0.01, error), work.do("b", 30), work.do("c", 0, transient())])
    assert work.cancelled == ["b"]


async def test_gathering_nothing_succeeds() -> None:
    await gather_tolerant([])


async def test_the_other_of_two_is_cancelled_when_one_fails() -> None:
    work = Work()
    assert await gather2(work.do("a"), work.do("b")) == ("a", "b")
    with pytest.raises(ServerFailed):
        await gather2(work.do("c", 0, transient()), work.do("d", 30))
    assert work.cancelled == ["d"]


async def test_cancelling_cancels_all() -> None:
    work = Work()
    for pending in (gather_tolerant([work.do("a", 30), work.do("b", 30)]), gather2(work.do("c", 30), work.do("d", 30))):
        task = asyncio.ensure_future(pending)
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert sorted(work.cancelled) == ["a", "b", "c", "d"]


def test_the_ledger_knows_what_is_where_and_forgets_it() -> None:
    ledger = Ledger()
    ledger.add("h", "one", "d")
    assert ledger.has("h", "one", "d")
    assert not ledger.has("h", "two", "d")
    assert not ledger.has("other", "one", "d")
    assert ledger.mount_source("h", "two", "d") == "one"
    assert ledger.mount_source("h", "one", "d") is None
    ledger.forget("h", "one", "d")
    ledger.forget("h", "one", "d")
    assert not ledger.has("h", "one", "d")


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 40), st.sampled_from("uvwxyz")), max_size=200))
def test_the_ledger_is_bounded(notes: list[tuple[str, int, str]]) -> None:
    ledger = Ledger(entries=4)
    for registry, repository, digest in notes:
        ledger.add(registry, str(repository), digest)
        assert ledger.has(registry, str(repository), digest)
    assert len(ledger._entries) <= 4
    assert all(0 < len(places) <= 16 for places in ledger._entries.values())


def test_the_ledger_keeps_what_is_used() -> None:
    ledger = Ledger(entries=2)
    ledger.add("h", "one", "a")
    ledger.add("h", "one", "b")
    assert ledger.has("h", "one", "a")
    ledger.add("h", "one", "c")
    assert (ledger.has("h", "one", "a"), ledger.has("h", "one", "b")) == (True, False)


def test_the_source_digest_is_serialized_if_it_is_known() -> None:
    """A backfill tells which image of the source a worker has copied; an older worker does not say so."""
    outcome = Outcome(Result.COPIED, "h.example.com/a:b", "i.example.com/c:d", source_digest="sha256:x")
    assert Outcome.from_json(outcome.to_json()).source_digest == "sha256:x"
    assert "source_digest" not in Outcome(Result.COPIED, "h.example.com/a:b", "i.example.com/c:d").to_json()


def test_an_outcome_survives_json() -> None:
    outcome = Outcome(Result.COPIED, "h.example.com/a:b", "i.example.com/c:d", "sha256:x", 5, 1, 2, 3, 4, 0.5, "note")
    assert Outcome.from_json(json.loads(json.dumps(outcome.to_json()))) == outcome
    with pytest.raises(TypeError):
        Outcome.from_json({"result": "copied"})
    with pytest.raises(ValueError, match="nonsense"):
        Outcome.from_json({"result": "nonsense"})
