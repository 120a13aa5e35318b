"""Numbered pages of a list that changes while it is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from replicator.harbor import lists
from replicator.harbor.lists import ROWS_A_PAGE, ListPage, each_page

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Container


class Broken(Exception):
    pass


class ChangingList:
    """A list sorted by id that changes before it answers some requests.

    Args:
        size: rows at the start, with the ids 1, 2, ….
        changes: applied to the ids before the answer, by the number of the request, from 1.
        tells_total: whether pages have the total number of rows.
        hidden: ids that are left out of every page and of the total.
    """

    def __init__(
        self,
        size: int,
        changes: dict[int, Callable[[list[int]], None]] | None = None,
        *,
        tells_total: bool = True,
        hidden: Container[int] = (),
    ) -> None:
        self.ids = list(range(1, size + 1))
        self.asked: list[int] = []
        self._changes = changes or {}
        self._tells_total = tells_total
        self._hidden = hidden

    async def fetch(self, number: int) -> ListPage:
        self.asked.append(number)
        change = self._changes.get(len(self.asked))
        if change is not None:
            change(self.ids)
        rows = self._shown(self.ids[(number - 1) * ROWS_A_PAGE : number * ROWS_A_PAGE])
        return ListPage([{"id": each} for each in rows], len(self._shown(self.ids)) if self._tells_total else None)

    def _shown(self, ids: list[int]) -> list[int]:
        return [each for each in ids if each not in self._hidden]


async def ids_of(fetch: Callable[[int], Awaitable[ListPage]]) -> list[int]:
    return [row["id"] async for page in each_page(fetch, Broken) for row in page]


@pytest.mark.parametrize("tells_total", [True, False])
@pytest.mark.parametrize(("size", "asked"), [(0, 1), (1, 1), (99, 1), (101, 2), (250, 3)])
async def test_every_page_is_requested_once(size: int, asked: int, *, tells_total: bool) -> None:
    changing = ChangingList(size, tells_total=tells_total)
    assert await ids_of(changing.fetch) == list(range(1, size + 1))
    assert changing.asked == list(range(1, asked + 1))


@pytest.mark.parametrize(("total", "asked"), [(200, [1, 2]), (None, [1, 2, 3]), (0, [1, 2, 3])])
async def test_a_full_page_is_the_last_when_a_total_that_fits_says_so(total: int | None, asked: list[int]) -> None:
    changing = ChangingList(200)

    async def fetch(number: int) -> ListPage:
        return ListPage((await changing.fetch(number)).rows, total)

    assert len(await ids_of(fetch)) == 200
    assert changing.asked == asked


async def test_a_deletion_between_two_pages_hides_no_row() -> None:
    def delete(ids: list[int]) -> None:
        del ids[10:13]

    changing = ChangingList(350, {3: delete})
    assert await ids_of(changing.fetch) == list(range(1, 351))
    # The page before is read again, and the one that was kept is not.
    assert changing.asked[:5] == [1, 2, 3, 2, 4]
    # A few more, in case hidden rows are in between.
    assert len(changing.asked) <= 15


async def test_pages_with_few_changingor_none_are_not_the_last_while_there_are_more() -> None:
    changing = ChangingList(700, hidden=range(50, 480))
    assert await ids_of(changing.fetch) == [*range(1, 50), *range(480, 701)]
    assert changing.asked == [1, 2, 3, 4, 5, 6, 7]


async def test_a_total_that_is_never_reached_is_an_error() -> None:
    changing = ChangingList(50)

    async def fetch(number: int) -> ListPage:
        return ListPage((await changing.fetch(number)).rows, 51)

    with pytest.raises(Broken, match="never end"):
        await ids_of(fetch)
    assert len(changing.asked) < 110


async def test_after_many_deletions_the_reader_steps_back_as_far_as_needed() -> None:
    def delete(ids: list[int]) -> None:
        del ids[:320]

    changing = ChangingList(1000, {6: delete})
    assert await ids_of(changing.fetch) == list(range(1, 1001))
    assert len(changing.asked) < 30


async def test_changingpushed_meanwhile_come_at_the_end() -> None:
    changing = ChangingList(150, {2: lambda ids: ids.append(1000)})
    assert await ids_of(changing.fetch) == [*range(1, 151), 1000]


@given(
    st.integers(0, 900),
    st.dictionaries(
        st.integers(2, 14),
        st.tuples(st.sampled_from(["delete", "push"]), st.floats(0, 1), st.integers(1, 400)),
        max_size=6,
    ),
    st.sets(st.integers(1, 900)) | st.builds(range, st.integers(1, 900), st.integers(1, 900)),
)
@example(
    size=827, plan={2: ("delete", 0.0, 25), 10: ("delete", 0.0, 1), 11: ("delete", 0.0, 1)}, hidden=range(329, 827)
)
@example(size=704, plan={2: ("delete", 0.0, 1), 3: ("delete", 0.0, 1), 7: ("delete", 0.0, 1)}, hidden=range(4, 704))
@settings(deadline=None, max_examples=300)
async def test_every_row_that_stays_is_found_and_none_comes_twice(
    size: int, plan: dict[int, tuple[str, float, int]], hidden: Container[int]
) -> None:
    gone: set[int] = set()
    fresh = iter(range(10_000, 20_000))

    def change(what: str, where: float, count: int) -> Callable[[list[int]], None]:
        def act(ids: list[int]) -> None:
            if what == "push":
                ids += [next(fresh) for _ in range(count)]
                return
            start = int(where * len(ids))
            victims = ids[start : start + count]
            # A hidden row is deleted with one that is shown, as a signature is with its image.
            if any(each not in hidden for each in victims):
                gone.update(victims)
                del ids[start : start + count]

        return act

    kinds = {what for what, _, _ in plan.values()}
    if len(kinds) > 1:
        # Equal numbers of deletions and pushes go unnoticed.
        plan = {when: each for when, each in plan.items() if each[0] == "delete"}
    changing = ChangingList(size, {when: change(*each) for when, each in plan.items()}, hidden=hidden)
    found = await ids_of(changing.fetch)
    assert len(found) == len(set(found))
    assert {each for each in range(1, size + 1) if each not in gone and each not in hidden} <= set(found)


async def test_a_list_that_shrinks_for_ever_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    async def shrinking(number: int) -> ListPage:
        asked.append(number)
        # Never a known row, and always a smaller total.
        return ListPage([{"id": len(asked) * 1000 + each} for each in range(100)], 10**9 - len(asked))

    monkeypatch.setattr(lists, "_MAX_REQUESTS", 500)
    with pytest.raises(Broken, match="never end"):
        await ids_of(shrinking)
    assert len(asked) == 500


async def test_endless_pages_without_a_new_row_are_an_error() -> None:
    async def turning(number: int) -> ListPage:
        shift = number % 2
        return ListPage([{"id": each + shift} for each in range(1, 101)], None)

    with pytest.raises(Broken, match="never end"):
        await ids_of(turning)


@pytest.mark.parametrize("row", [{"id": 5}, {"name": "x"}])
async def test_a_repeated_page_is_an_error(row: dict[str, Any]) -> None:
    async def same(number: int) -> ListPage:
        rows = [{"id": each} for each in range(1, 101)] if "id" in row else [row] * 100
        return ListPage(rows, None)

    with pytest.raises(Broken, match="page 2 is page 1 again"):
        async for _ in each_page(same, Broken):
            pass


async def test_changingin_another_order_are_all_taken() -> None:
    async def descending(number: int) -> ListPage:
        return ListPage([{"id": each} for each in range(250, 0, -1)][(number - 1) * 100 : number * 100], 250)

    assert sorted(await ids_of(descending)) == list(range(1, 251))
