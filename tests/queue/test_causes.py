"""Failures with one cause are grouped, each counts once, and the number of groups is bounded."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import ErrorClass, ErrorText
from replicator.queue import Cause, CauseReader, Causes, DeadLetters, letters_of, read_letters
from replicator.queue.causes import EXAMPLES, GROUPS, VARIOUS, CauseKey
from replicator.queue.dead_letters import DeadLetter
from replicator.queue.job import Lane
from replicator.queue.records import EPOCH, encode

if TYPE_CHECKING:
    from replicator.queue import Queue

HARBOR, ACR = "harbor.example.com", "crpi-8x7k3m9q2w1e5r6t.cn-beijing.personal.cr.aliyuncs.com"
DIGEST = "sha256:" + "0123456789abcdef" * 4


def pushed(name: str, why: str, tag: str = "1.0", do: str = "ask") -> tuple[str, str, str]:
    what = f"{ACR}: PUT /v2/closed/{name}/manifests/{tag}"
    return ErrorText(what, why, do).stored, f"{HARBOR}/lib/{name}:{tag}", f"{ACR}/closed/{name}:{tag}"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("403, the registry says: DENIED", "403, the registry says: DENIED"),
        ("403: no right to closed/{}", "403: no right to closed/{}"),
        (
            "refused: RequestId: 8F3A1C77-0000-1111-2222-0123456789AB",
            "refused: RequestId: 0123ABCD-4444-0AB9",
        ),
        ("12.5 MB of 30 MB sent in 4.2 s", "1 MB of 30.1 MB sent in 39 s"),
        (f"no {DIGEST} there", f"no {DIGEST[::-1][:64].join(['sha256:', ''])[:71]} there"),
        ("silent since 2026-01-01 10:00:00 UTC", "silent since 2026-02-03 11:12:13 UTC"),
        (f"{HARBOR}/lib/{{}}:1.0 owns this tag", f"{HARBOR}/other/thing:2 owns this tag"),
    ],
)
def test_names_sizes_times_and_ids_do_not_tell_causes_apart(one: str, other: str) -> None:
    causes = Causes()
    for name, why in (("app", one), ("web-2", other)):
        causes.add("permanent", *pushed(name, why.format(name)))
    (cause,) = causes.sorted()
    assert (cause.count, cause.host, cause.namespace) == (2, ACR, "closed")
    assert cause.text.what == f"{ACR}: PUT /v2/closed/…/manifests/…"
    assert cause.text.do == "ask"


@pytest.mark.parametrize(
    "other",
    [
        ("permanent", *pushed("app", "500, the registry says: DENIED")),
        ("permanent", *pushed("app", "403, the registry says: quota exceeded")),
        ("credentials", *pushed("app", "403, the registry says: DENIED")),
        ("permanent", pushed("app", "403, the registry says: DENIED")[0], f"{HARBOR}/lib/app:1", f"{ACR}/open/app:1"),
        (
            "permanent",
            f"{HARBOR}: GET /v2/lib/a/manifests/1\n403, the registry says: DENIED",
            *pushed("app", "")[1:],
        ),
    ],
)
def test_class_host_namespace_status_and_words_tell_causes_apart(other: tuple[str, str, str, str]) -> None:
    causes = Causes()
    one = causes.add("permanent", *pushed("app", "403, the registry says: DENIED"))
    assert causes.add(*other).id != one.id


def test_a_failure_at_the_source_is_of_the_source_s_host_and_project() -> None:
    _, source, destination = pushed("app", "")
    cause = Causes().add("permanent", f"{HARBOR}: GET /v2/lib/app/blobs/{DIGEST}\n404", source, destination)
    assert (cause.host, cause.namespace) == (HARBOR, "lib")
    assert cause.sentence == f"1 copy: {HARBOR}/lib: 404"


def test_what_all_failures_say_alike_stays_as_it_was_said() -> None:
    causes = Causes()
    for name in ("a1", "b2"):
        causes.add("permanent", *pushed(name, "403, waited 30 s", do="check quota (300 repositories)"))
    (cause,) = causes.sorted()
    assert cause.text.why == "403, waited 30 s"
    assert cause.text.do == "check quota (300 repositories)"
    assert cause.sentence == f"2 copies, one reason: {ACR}/closed: 403, waited 30 s"


words = st.sampled_from(["denied", "quota", "403", "no", "sha256:abcdef012345", "/v2/x/", "…", "\\1", "a.b/c", "12 MB"])
texts = st.one_of(st.text(max_size=40), st.lists(words, max_size=4).map(" ".join))
failures = st.tuples(st.sampled_from(["transient", "permanent", ""]), texts, texts, texts)


@given(st.lists(failures, max_size=60))
def test_no_failure_is_lost_or_doubled(told: list[tuple[str, str, str, str]]) -> None:
    causes, counted = Causes(), Counter[str]()
    for failure in told:
        counted[causes.add(*failure).id] += 1
    found = causes.sorted()
    assert {cause.id: cause.count for cause in found} == counted
    assert causes.total == sum(counted.values()) == len(told)
    assert all(len(cause.examples) == min(cause.count, EXAMPLES) for cause in found)


@given(st.lists(failures, max_size=30))
def test_the_same_failures_in_the_same_order_have_the_same_causes(told: list[tuple[str, str, str, str]]) -> None:
    first, second = Causes(), Causes()
    assert [first.add(*each).id for each in told] == [second.add(*each).id for each in told]


def test_the_number_of_causes_is_bounded_and_the_rest_counts_to_coarser_ones() -> None:
    causes = Causes()
    for number in range(3 * GROUPS[-1]):
        word = "".join(chr(ord("a") + int(digit)) for digit in str(number))
        causes.add("permanent", f"h{number}.x: {word}\nbecause {word}", "", f"h{number}.x/n/a:1")
    found = causes.sorted()
    assert len(found) == GROUPS[-1] + 1
    assert sum(cause.count for cause in found) == 3 * GROUPS[-1]
    rest = found[0]
    assert rest.id == CauseKey("permanent").id
    assert rest.text.what == VARIOUS
    assert rest.sentence == f"{rest.count} copies, {VARIOUS}"


def letter(number: int, why: str = "403, the registry says: DENIED") -> DeadLetter:
    message, source, destination = pushed(f"app{number}", why)
    return DeadLetter(destination, Lane.EVENTS, {"source": source}, ErrorClass.PERMANENT, message, 1, EPOCH, EPOCH)


async def bury(queue: Queue, prefix: str, *letters: DeadLetter, mark: int | None = None) -> None:
    """Put dead letters into Redis as the end of an attempt does, or with one mark as a move does."""
    async with queue.redis.pipeline(transaction=False) as pipe:
        for each in letters:
            pipe.hset(f"{prefix}:dead", each.id, encode(each).decode())
            pipe.hset(f"{prefix}:dead-jobs", each.id, "")
            number = await queue.redis.incr(f"{prefix}:seq") if mark is None else mark
            pipe.zadd(f"{prefix}:buried", {each.id: number})
        await pipe.execute()


@pytest.mark.parametrize("mark", [None, 0])
async def test_pages_give_each_letter_once_in_the_order_of_death(queue: Queue, prefix: str, mark: int | None) -> None:
    letters = [letter(number) for number in range(23)]
    await bury(queue, prefix, *letters, mark=mark)
    await bury(queue, prefix, letter(99))
    await queue.redis.zadd(f"{prefix}:buried", {"left by an older version": 3})
    found = [each.id async for page in read_letters(queue, size=5) for each in page]
    assert sorted(found) == sorted(each.id for each in (*letters, letter(99)))
    assert found[-1] == letter(99).id


async def test_pages_go_on_behind_letters_that_are_gone(queue: Queue, prefix: str) -> None:
    await queue.redis.zadd(f"{prefix}:buried", {f"gone {number}": number for number in range(1, 9)})
    await queue.redis.set(f"{prefix}:seq", 100)
    await bury(queue, prefix, letter(1))
    assert [len(page) async for page in read_letters(queue, size=3)][-1] == 1


async def test_a_reader_reads_what_is_new_only_and_all_again_when_some_are_gone(
    queue: Queue, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = CauseReader(queue)
    assert await reader.read() == []
    await bury(queue, prefix, letter(1), letter(2, "quota"))
    assert [cause.count for cause in await reader.read()] == [1, 1]
    read: list[DeadLetter] = []
    add = Causes.add_letter

    def noting(causes: Causes, each: DeadLetter) -> Cause:
        read.append(each)
        return add(causes, each)

    monkeypatch.setattr(Causes, "add_letter", noting)
    await bury(queue, prefix, letter(3))
    assert [cause.count for cause in await reader.read()] == [2, 1]
    assert len(read) == 1
    await DeadLetters(queue).drop([letter(1).id])
    await bury(queue, prefix, letter(3))  # anew, with another mark
    assert sum(cause.count for cause in await reader.read()) == 2


async def test_a_reader_with_little_time_goes_on_the_next_time(
    queue: Queue, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.queue.cause_reader.BATCH", 1)
    reader = CauseReader(queue)
    await bury(queue, prefix, letter(1), letter(2), letter(3))

    async def counted() -> list[int]:
        return [cause.count for cause in await reader.read(0)]

    assert [await counted() for _ in range(4)] == [[1], [2], [3], [3]]
    await DeadLetters(queue).drop([letter(1).id])
    # While all are read again, the causes are those known before.
    assert [await counted() for _ in range(4)] == [[3], [3], [2], [2]]


async def test_the_letters_of_a_cause_are_those_that_it_counts(queue: Queue, prefix: str) -> None:
    await bury(queue, prefix, letter(1), letter(2, "quota"), letter(3))
    cause = (await CauseReader(queue).read())[0]
    assert cause.count == 2
    found = [each.id async for page in letters_of(queue, cause.id) for each in page]
    assert found == [letter(1).id, letter(3).id]
